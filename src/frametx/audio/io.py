"""Audio files: what one holds, its samples in blocks, and writing one that appears only when whole.

Which decoder reads a file, and what of it, is decided in readers.py. Every way in which a file can
be bad ends in a ValueError of one line that begins with the file's path.
"""

import errno
import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile as sf
import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.channel_order import from_wave
from frametx.audio.container import Note, no_note
from frametx.audio.contents import KEEP_WHAT_IS_THERE as REPAIR
from frametx.audio.readers import AudioInfo, Reader, as_on_disk, open_audio
from frametx.unfinished import part_beside

__all__ = ["AudioInfo", "Reader", "as_on_disk", "open_audio", "probe", "read_audio", "read_blocks"]

INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
UNBOUNDED = ("FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III")  # keep values beyond +-1
LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_III")
WRITE_SAMPLES = (
    1 << 16
)  # libsndfile's Vorbis encoder overflows the stack when given minutes at once
WAV_BYTES = (1 << 32) - (1 << 24)  # it counts its bytes in 32 bits; 16 MiB are left for tags


def probe(path: Path | str) -> AudioInfo:
    """What a file holds, without decoding it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not audio, holds no samples, or is shorter than its header promises.
    """
    with open_audio(path) as reader:
        return reader.info


def read_audio(
    path: Path | str, *, start: int = 0, num_samples: int | None = None
) -> Float[Tensor, "C L"]:
    """Samples `start` .. `start + num_samples` (to the end if None) at the file's own rate.

    What libsndfile cannot read is decoded from its beginning on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is bad, ends before, or holds a sample that is not finite.
    """
    path = Path(path)
    with open_audio(path) as reader:
        samples = reader.read(0)
        if start >= 0 and (reader.info.is_length_estimated or start <= reader.info.num_samples):
            reader.seek(start)
            samples = _left(reader, start) if num_samples is None else reader.read(num_samples)
        length = reader.info.num_samples  # where it was estimated, it is known by now
        if not 0 <= start <= length:
            raise ValueError(f"{path}: start ({start}) is outside its {length} samples")
    end = length if num_samples is None else start + num_samples
    if start + len(samples) < end:
        raise ValueError(f"{path}: ends at sample {start + len(samples)}, {end} wanted")
    _check_finite(samples, path, start, reader.info.sample_rate)
    return torch.from_numpy(samples).T.contiguous()


def _left(reader: Reader, start: int) -> np.ndarray:
    """All samples from `start` on."""
    if not reader.info.is_length_estimated:
        return reader.read(reader.info.num_samples - start)
    parts = [reader.read(0)]
    while len(samples := reader.read(WRITE_SAMPLES)):
        parts.append(samples)
    return np.concatenate(parts)


def read_blocks(
    path: Path | str, *, block_samples: int, note: Note = no_note
) -> Iterator[Float[Tensor, "C L"]]:
    """All samples of a file, in blocks of `block_samples` (the last may be shorter).

    Args:
        path: of the file.
        block_samples: of a block.
        note: is called with what the user should know that comes up while it is decoded, in one
            line without the path; what is known before is in the `notes` of `probe`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is bad, ends early, or holds a sample that is not finite; the blocks
            before that have been given by then.
    """
    path = Path(path)
    with open_audio(path, note=note) as reader:
        rate = reader.info.sample_rate
        at = 0
        while len(samples := reader.read(block_samples)):
            _check_finite(samples, path, at, rate)
            yield torch.from_numpy(samples).T.contiguous()
            at += len(samples)
        info = reader.info
        if at == 0:
            raise ValueError(f"{path}: holds no samples that can be decoded")
        # An MP3 counts frames, not samples, and decoders differ by a few: only a gap is an error.
        tolerated = rate if info.subtype.startswith("MPEG") else 0
        if not info.is_length_estimated and at + tolerated < info.num_samples:
            raise ValueError(
                f"{path}: cut short, ends at sample {at} of {info.num_samples}: {REPAIR}"
            )


class AudioWriter:
    """Writes a file block by block under a temporary name beside it, and renames it at the end.

    Used as a context manager: leaving it normally puts the file in place (replacing an older one),
    leaving it by an exception deletes what was written. The steps of that can also be taken one by
    one: `close`, then `place` or `discard`; between them `part` is the whole file. Integer formats
    get the nearest step; what lies outside their range is clipped and counted. Lossy formats use
    their best quality. Channels are given in WAVE's order, and get that of the format.

    Args:
        path: of the finished file; missing folders are made.
        sample_rate: Hz.
        num_channels: C.
        format: libsndfile's word for the container (WAV, FLAC, OGG, MP3 ...).
        subtype: libsndfile's word for the samples (PCM_16, FLOAT, VORBIS ...).
        tags: title, artist, album ... as libsndfile names them, for the formats whose tags only it
            can write (RF64, CAF); tags.py writes those of the others.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        sample_rate: int,
        num_channels: int,
        format: str,
        subtype: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.part = part_beside(self.path)
        self.num_clipped = 0
        self.num_samples = 0
        self._header = _header(sample_rate, num_channels, format, subtype)
        self._order = from_wave(subtype, num_channels)
        self._subtype = subtype
        self._tags = dict(tags or {})
        self._file: sf.SoundFile | None = None

    def __enter__(self) -> "AudioWriter":
        """Open the temporary file.

        Raises:
            ValueError: if the format cannot hold such samples.
            OSError: if the folder takes no files.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.part.touch()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        try:
            self._file = sf.SoundFile(as_on_disk(self.part), "w", **self._header)
            for name, text in self._tags.items():
                setattr(self._file, name, text)
        except BaseException as error:
            self.discard()
            if isinstance(error, sf.LibsndfileError):
                reason = error.error_string.strip() or "the disk does not take it"
                raise ValueError(f"{self.path}: cannot be written: {reason}") from error
            raise
        return self

    def write(self, block: Float[Tensor, "C L"]) -> None:
        """Append samples.

        Raises:
            OSError: if the disk or the format does not take them.
        """
        assert self._file is not None, "write inside the with block"
        block = block.detach().cpu()
        if self._order is not None:
            block = block[list(self._order)]
        for part in block.split(WRITE_SAMPLES, dim=1):
            try:
                self._file.write(self._encoded(part.double().numpy().T))
            except sf.LibsndfileError as error:
                raise self._failed(error.error_string) from error
            self.num_samples += part.shape[1]
        if self._header["format"] in ("WAV", "WAVEX") and self.part.stat().st_size > WAV_BYTES:
            raise OSError(errno.EFBIG, "a wav holds 4 GiB: use flac", str(self.path))

    def close(self) -> None:
        """End the temporary file.

        Raises:
            OSError: if the disk did not take all of it.
        """
        if self._file is None:
            return
        try:
            self._file.close()
            self._file = None
            # Only a header tells whether its file is whole; an MP3 would have to be read for that.
            if self._subtype not in LOSSY and self.num_samples:
                with sf.SoundFile(as_on_disk(self.part)) as file:
                    num_samples = file.frames
                if num_samples < self.num_samples:
                    raise self._failed("")
        except sf.LibsndfileError as error:
            raise self._failed(error.error_string) from error

    def place(self) -> None:
        """Give the closed file its final name, replacing an older one."""
        try:
            self.part.replace(self.path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def discard(self) -> None:
        """Delete what was written; nothing happens where that is already gone."""
        if self._file is not None:
            with suppress(sf.LibsndfileError, OSError):
                self._file.close()
            self._file = None
        self.part.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in place, or delete it if something went wrong."""
        try:
            if kind is None:
                self.close()
                self.place()
        finally:
            self.discard()

    def _failed(self, reason: str) -> OSError:
        # libsndfile does not say what the system said; a disk without room is what is left.
        is_vague = reason.strip() in ("", "System error.")
        reason = "the disk does not take all of it: is it full?" if is_vague else reason
        return OSError(errno.EIO, reason, str(self.path))

    def _encoded(self, samples: np.ndarray) -> np.ndarray:
        """Integers for integer formats: libsndfile writes floats by another scale than it reads."""
        if self._subtype in UNBOUNDED:
            return samples
        bits = INTEGER_BITS.get(self._subtype)
        if bits is None:  # mu-law, ADPCM ...
            return self._clipped(samples, -1.0, 1.0)
        scale = 2.0 ** (bits - 1)
        steps = self._clipped(np.rint(samples * scale), -scale, scale - 1)
        return (steps * 2 ** (32 - bits)).astype(np.int32)  # exact: double precision holds 32 bits

    def _clipped(self, samples: np.ndarray, lowest: float, highest: float) -> np.ndarray:
        self.num_clipped += int(((samples < lowest) | (samples > highest)).sum())
        return samples.clip(lowest, highest)


def is_writable(*, sample_rate: int, num_channels: int, format: str, subtype: str) -> bool:
    """Whether libsndfile can write such a file; tried in memory, as only it knows its limits."""
    try:
        sf.SoundFile(
            io.BytesIO(), "w", **_header(sample_rate, num_channels, format, subtype)
        ).close()
    except (sf.LibsndfileError, ValueError):
        return False
    return True


def _header(sample_rate: int, num_channels: int, format: str, subtype: str) -> dict[str, Any]:
    header = {
        "samplerate": sample_rate,
        "channels": num_channels,
        "format": format,
        "subtype": subtype,
    }
    return header | ({"compression_level": 0.0} if subtype in LOSSY else {})


def _check_finite(samples: np.ndarray, path: Path, start: int, sample_rate: int) -> None:
    if not np.isfinite(samples).all():
        row, channel = np.argwhere(~np.isfinite(samples))[0]
        at = start + int(row)
        raise ValueError(
            f"{path}: sample {at} ({at / sample_rate:.3f} s) of channel {channel} is "
            f"{samples[row, channel]}: repair the file"
        )


def write_wav(path: Path, waveform: Float[Tensor, "C L"], *, sample_rate: int) -> None:
    """In 32-bit floats, so that an estimate beyond +-1 is kept as it is."""
    with AudioWriter(
        path,
        sample_rate=sample_rate,
        num_channels=waveform.shape[0],
        format="WAV",
        subtype="FLOAT",
    ) as writer:
        writer.write(waveform)
