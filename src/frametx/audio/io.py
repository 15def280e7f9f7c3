"""Audio files: what one holds, its samples in blocks, and writing one that appears only when whole.

Everything goes through libsndfile (wav, flac, ogg, mp3, aiff ...), but for the containers that it
cannot read (m4a, wma, videos ...): see container.py. Every way in which a file can be bad ends in a
ValueError of one line that begins with the file's path.
"""

import errno
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile as sf
import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.container import CONTAINER_SUFFIXES, probe_container, read_container
from frametx.unfinished import part_beside

INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
UNBOUNDED = ("FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III")  # keep values beyond +-1
LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_III")
WRITE_SAMPLES = (
    1 << 16
)  # libsndfile's Vorbis encoder overflows the stack when given minutes at once
WAV_BYTES = (1 << 32) - (1 << 24)  # it counts its bytes in 32 bits; 16 MiB are left for tags


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says; `format` and `subtype` in libsndfile's words (WAV, PCM_24 ...).

    Of a container that libsndfile cannot read the words are FFmpeg's (MOV, AAC ...), and
    `num_samples` is an estimate (`is_length_estimated`): what decodes may be a little more or less.
    """

    path: Path
    num_samples: int
    sample_rate: int
    num_channels: int
    format: str
    subtype: str
    is_length_estimated: bool = False


def probe(path: Path | str) -> AudioInfo:
    """Read a file's header.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not audio, holds no samples, or is shorter than its header promises.
    """
    path = Path(path)
    if _is_container(path):
        info = probe_container(path)
        return AudioInfo(
            path=path,
            num_samples=info.num_samples,
            sample_rate=info.sample_rate,
            num_channels=info.num_channels,
            format=info.format,
            subtype=info.codec,
            is_length_estimated=True,
        )
    with _opened(path) as file:
        missing = _missing_bytes(path)
        if missing:
            raise ValueError(f"{path}: cut short, {missing} bytes of its samples are missing")
        if file.frames == 0:
            raise ValueError(f"{path}: holds no samples")
        if file.frames >= 1 << 48:
            raise ValueError(f"{path}: does not say how long it is; encode it anew")
        return AudioInfo(
            path=path,
            num_samples=file.frames,
            sample_rate=file.samplerate,
            num_channels=file.channels,
            format=file.format,
            subtype=file.subtype,
        )


def read_audio(
    path: Path | str, *, start: int = 0, num_samples: int | None = None
) -> Float[Tensor, "C L"]:
    """Samples `start` .. `start + num_samples` (to the end if None) at the file's own rate.

    A container that libsndfile cannot read is decoded from its beginning on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is bad, ends before, or holds a sample that is not finite.
    """
    path = Path(path)
    if _is_container(path):
        return _excerpt(path, start, num_samples)
    with _opened(path) as file:
        if not 0 <= start <= file.frames:
            raise ValueError(f"{path}: start ({start}) is outside its {file.frames} samples")
        wanted = file.frames - start if num_samples is None else num_samples
        try:
            file.seek(start)
            samples = file.read(wanted, dtype="float32", always_2d=True)
        except sf.LibsndfileError as error:
            raise _undecodable(path, start, error) from error
    if len(samples) < wanted:
        raise ValueError(f"{path}: ends at sample {start + len(samples)}, {start + wanted} wanted")
    _check_finite(samples, path, start, file.samplerate)
    return torch.from_numpy(samples).T.contiguous()


def read_blocks(path: Path | str, *, block_samples: int) -> Iterator[Float[Tensor, "C L"]]:
    """All samples of a file, in blocks of `block_samples` (the last may be shorter).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is bad, ends early, or holds a sample that is not finite; the blocks
            before that have been given by then.
    """
    path = Path(path)
    if _is_container(path):
        yield from _container_blocks(path, block_samples)
        return
    with _opened(path) as file:
        at = 0
        while True:
            try:
                samples = file.read(block_samples, dtype="float32", always_2d=True)
            except sf.LibsndfileError as error:
                raise _undecodable(path, at, error) from error
            if not len(samples):
                break
            _check_finite(samples, path, at, file.samplerate)
            yield torch.from_numpy(samples).T.contiguous()
            at += len(samples)
        if at == 0:
            raise ValueError(f"{path}: holds no samples that can be decoded")
        # An MP3 counts frames, not samples, and decoders differ by a few: only a gap is an error.
        tolerated = file.samplerate if file.format == "MP3" else 0
        if at + tolerated < file.frames:
            raise ValueError(f"{path}: cut short, ends at sample {at} of {file.frames}")


class AudioWriter:
    """Writes a file block by block under a temporary name beside it, and renames it at the end.

    Used as a context manager: leaving it normally puts the file in place (replacing an older one),
    leaving it by an exception deletes what was written. The steps of that can also be taken one by
    one: `close`, then `place` or `discard`; between them `part` is the whole file. Integer formats
    get the nearest step; what lies outside their range is clipped and counted. Lossy formats use
    their best quality.

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
        for part in block.detach().cpu().split(WRITE_SAMPLES, dim=1):
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


def as_on_disk(path: Path) -> Any:
    """A path as soundfile needs it, which refuses text for names that are no UTF-8."""
    return os.fsencode(path) if os.name == "posix" else path


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


def _opened(path: Path) -> sf.SoundFile:
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty")
    with path.open("rb"):  # says why where it cannot: libsndfile does not
        pass
    try:
        return sf.SoundFile(as_on_disk(path))
    except sf.LibsndfileError as error:
        raise ValueError(f"{path}: is not audio that can be read: {error.error_string}") from error


def _is_container(path: Path) -> bool:
    """Whether a file is for FFmpeg: a container by its name, and nothing that libsndfile reads."""
    if path.suffix.lower() not in CONTAINER_SUFFIXES or not path.is_file():
        return False
    if path.stat().st_size == 0:
        return False
    try:
        sf.SoundFile(as_on_disk(path)).close()
    except sf.LibsndfileError:
        return True
    return False


def _container_blocks(path: Path, block_samples: int) -> Iterator[Float[Tensor, "C L"]]:
    at = 0
    for block in read_container(path, block_samples=block_samples):
        if not block.isfinite().all():
            _check_finite(block.numpy().T, path, at, probe_container(path).sample_rate)
        yield block
        at += block.shape[1]


def _excerpt(path: Path, start: int, num_samples: int | None) -> Float[Tensor, "C L"]:
    end = None if num_samples is None else start + num_samples
    kept: list[Tensor] = []
    at = 0
    for block in _container_blocks(path, 1 << 16):
        kept.append(block[:, max(0, start - at) : None if end is None else max(0, end - at)])
        at += block.shape[1]
        if end is not None and at >= end:
            break
    if not 0 <= start <= at:
        raise ValueError(f"{path}: start ({start}) is outside its {at} samples")
    if end is not None and at < end:
        raise ValueError(f"{path}: ends at sample {at}, {end} wanted")
    return torch.cat(kept, dim=1)


def _undecodable(path: Path, at: int, error: sf.LibsndfileError) -> ValueError:
    reason = error.error_string.strip() or "damaged or cut short"
    return ValueError(f"{path}: cannot be decoded after sample {at}: {reason}")


def _check_finite(samples: np.ndarray, path: Path, start: int, sample_rate: int) -> None:
    if not np.isfinite(samples).all():
        row, channel = np.argwhere(~np.isfinite(samples))[0]
        at = start + int(row)
        raise ValueError(
            f"{path}: sample {at} ({at / sample_rate:.3f} s) of channel {channel} is "
            f"{samples[row, channel]}: repair the file"
        )


def _missing_bytes(path: Path) -> int:
    """How much of its samples a RIFF (wav) or FORM (aiff) file lacks: libsndfile does not mind."""
    with path.open("rb") as file:
        kind = file.read(12)[:4]
        if kind not in (b"RIFF", b"FORM"):
            return 0
        order = "little" if kind == b"RIFF" else "big"
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[4:], order)
            if head[:4] in (b"data", b"SSND"):
                # Programs that write into a pipe put a huge number here, because they cannot know.
                is_known = length < 0x7FFF0000
                return max(0, file.tell() + length - path.stat().st_size) if is_known else 0
            file.seek(length + length % 2, os.SEEK_CUR)
    return 0


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
