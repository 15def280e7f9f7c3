"""Opens an audio file with the decoder that gives all of it, as one stream of samples.

libsndfile comes first. FFmpeg reads what it cannot, or would not read to its end (`contents.py`).
Channels come in WAVE's order. Whatever is wrong ends in a ValueError of one line that begins with
the file's path.
"""

import errno
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile as sf
import torch

from frametx.audio.channel_order import to_wave
from frametx.audio.container import Note, Stream, no_note, probe_container, read_container
from frametx.audio.contents import Piece, contents_of
from frametx.audio.decoder_notes import collected
from frametx.audio.resample import StreamResampler, resampled_length
from frametx.audio.spans import Span, Spans

BLOCK_SAMPLES = 1 << 15  # that FFmpeg gives at once
LONGEST = 1 << 48  # samples; libsndfile states more where it does not know
SCANNED = ("FLAC", "MP3")  # are looked through from end to end; a look at others costs nothing
# libvorbis misses by some hundred samples where it is to go into the last page, which may hold this
# many: 255 packets of the usual size.
LAST_PAGE_SAMPLES = 1 << 18
OPUS_HEAD_BYTES = 1_024  # at most, from the start of a file to what its channels mean
MOST_LINES = 3  # of a decoder, that are noted of one file


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds; `format` and `subtype` in libsndfile's words (WAV, PCM_24 ...).

    Of a container that libsndfile cannot read the words are FFmpeg's (MOV, AAC ...), and
    `num_samples` is an estimate (`is_length_estimated`): what decodes may be a little more or less.
    `notes` say what is unusual about it, or cannot be had.
    """

    path: Path
    num_samples: int
    sample_rate: int
    num_channels: int
    format: str
    subtype: str
    is_length_estimated: bool = False
    notes: tuple[str, ...] = ()


class Reader(ABC):
    """An open file. Used as a context manager, it is closed on leaving.

    Args:
        info: of the file.
    """

    def __init__(self, info: AudioInfo) -> None:
        self.info = info

    def __enter__(self) -> "Reader":
        """It is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Close the file."""
        self.close()

    @abstractmethod
    def seek(self, frames: int, /) -> int:
        """Go to a sample."""

    @abstractmethod
    def read(self, frames: int, /, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Samples from here on, L C in 32-bit floats: `frames`, or what is left."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


def open_audio(path: Path | str, *, num_samples: int | None = None, note: Note = no_note) -> Reader:
    """Open a file for reading.

    Args:
        path: of the file.
        num_samples: how many decoded, where that is known: then libsndfile is believed at once if
            it counts as many, without a look at the whole file.
        note: is called with what the user should know that comes up while it is decoded; what is
            known before is in `info.notes`.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be opened.
        ValueError: if it is empty, cut short, or not audio.
    """
    path = Path(path)
    _check_file(path)
    note = _once(note)
    if num_samples is not None and (known := _known(path, num_samples, note)) is not None:
        return known
    contents = contents_of(path)
    pieces = [_opener(path, piece, note) for piece in contents.pieces]
    reader = pieces[0]() if len(pieces) == 1 else _joined(path, pieces, note)
    reader.info = _with_notes(reader.info, contents.notes)
    return reader


def as_on_disk(path: Path) -> Any:
    """A path as soundfile needs it, which refuses text for names that are no UTF-8."""
    return os.fsencode(path) if os.name == "posix" else path


def sound_file(path: Path, spans: Sequence[Span] = ()) -> sf.SoundFile:
    """Open a file, or spans of it, by libsndfile alone.

    Raises:
        soundfile.LibsndfileError: if libsndfile cannot read it.
    """
    with collected(no_note):
        if spans:
            source: Any = Spans(path, spans)  # soundfile's types know of no other readers
            return sf.SoundFile(source)
        if path.suffix.lower() == ".mp3":
            # By its name alone libsndfile would search anything for MP3 frames.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return sf.SoundFile(descriptor, closefd=True)
        return sf.SoundFile(as_on_disk(path))


class SndfileReader(Reader):
    """A file, or a piece of one, that libsndfile decodes."""

    def __init__(self, path: Path, piece: Piece, note: Note = no_note) -> None:
        self._path = path
        self._note = note
        self._file = file = sound_file(path, piece.spans)
        self._order = _order(path, piece, file)
        self._at = 0  # libsndfile does not tell it of all codings
        self._is_mpeg = file.subtype.startswith("MPEG")
        super().__init__(
            AudioInfo(path, file.frames, file.samplerate, file.channels, file.format, file.subtype)
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def seek(self, frames: int, /) -> int:
        """Go to a sample."""
        if frames == self._at:
            return frames
        before = frames
        if self._file.subtype == "VORBIS" and frames > self._file.frames - LAST_PAGE_SAMPLES:
            before = max(0, self._file.frames - LAST_PAGE_SAMPLES)
        try:
            with self._listening():
                if self._is_mpeg and frames < self._at:
                    self._file.seek(0)  # libmpg123 may miss when it goes back by less than a frame
                self._at = self._file.seek(before)
                while self._at < frames and (skipped := len(self._file.read(frames - self._at))):
                    self._at += skipped
                return self._at
        except sf.LibsndfileError as error:
            raise ValueError(f"{self._path}: has no sample {frames}: {error}") from error

    def read(self, frames: int, /, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Samples from here on, L C: `frames`, or what is left."""
        at = self._at
        try:
            with self._listening():
                samples = self._file.read(frames, dtype="float32", always_2d=True)
        except sf.LibsndfileError as error:
            reason = error.error_string.strip() or "damaged or cut short"
            raise ValueError(
                f"{self._path}: cannot be decoded after sample {at}: {reason}"
            ) from error
        self._at += len(samples)
        return samples if self._order is None else samples[:, self._order]

    def _listening(self) -> Any:
        return collected(self._note) if self._is_mpeg else nullcontext()


class StreamReader(Reader):
    """Sound that can only be decoded from its beginning on; going back starts anew.

    Args:
        info: of it.
        blocks: gives its blocks C L.
    """

    def __init__(self, info: AudioInfo, blocks: Callable[[], Iterator[torch.Tensor]]) -> None:
        super().__init__(info)
        self._blocks = blocks
        self._running: Iterator[torch.Tensor] | None = None
        self._held = torch.zeros(info.num_channels, 0)
        self._decoded = 0  # samples that have left the decoder, `_held` among them
        self._at = 0

    def close(self) -> None:
        """Close the file."""
        running, self._running = self._running, None
        if running is not None:
            close: Callable[[], None] = getattr(running, "close", lambda: None)
            close()

    def seek(self, frames: int, /) -> int:
        """Go to a sample; it is decoded up to there when samples are read."""
        self._at = frames
        return frames

    def read(self, frames: int, /, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Samples from here on, L C: `frames`, or what is left."""
        if self._running is None or self._at < self._decoded - self._held.shape[1]:
            self.close()
            self._running, self._decoded = self._blocks(), 0
            self._held = self._held[:, :0]
        parts: list[torch.Tensor] = []
        end = self._at + frames
        while True:
            begin = self._decoded - self._held.shape[1]
            parts.append(self._held[:, max(0, self._at - begin) : max(0, end - begin)])
            if self._decoded >= end:
                self._held = self._held[:, max(0, end - begin) :]
                break
            block = next(self._running, None)
            self._held = self._held[:, :0] if block is None else block
            if block is None:  # now the length is known
                self.info = replace(self.info, num_samples=self._decoded)
                break
            self._decoded += block.shape[1]
        samples = torch.cat(parts, dim=1)
        self._at += samples.shape[1]
        return samples.T.numpy()


class JoinedReader(Reader):
    """Pieces of one rate and one number of channels, one behind the other.

    Args:
        info: of all.
        openers: open a piece each.
        lengths: in samples.
    """

    def __init__(
        self, info: AudioInfo, openers: Sequence[Callable[[], Reader]], lengths: Sequence[int]
    ) -> None:
        super().__init__(info)
        self._openers = openers
        self._ends = list(accumulate(lengths))
        self._at = 0
        self._number = -1
        self._at_in_piece = 0
        self._piece: Reader | None = None

    def close(self) -> None:
        """Close the piece that is open."""
        if self._piece is not None:
            self._piece.close()
            self._piece = None

    def seek(self, frames: int, /) -> int:
        """Go to a sample."""
        self._at = frames
        return frames

    def read(self, frames: int, /, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Samples from here on, L C: `frames`, or what is left."""
        parts = [np.zeros((0, self.info.num_channels), np.float32)]
        end = min(self._at + frames, self._ends[-1])
        while self._at < end:
            number = bisect_right(self._ends, self._at)
            begin = self._ends[number - 1] if number else 0
            piece = self._opened(number, self._at - begin)
            wanted = min(end, self._ends[number]) - self._at
            samples = piece.read(wanted)
            parts.append(samples)
            self._at += len(samples)
            self._at_in_piece += len(samples)
            if len(samples) < wanted:
                raise ValueError(
                    f"{self.info.path}: cut short, its part {number + 1} ends at sample "
                    f"{self._at - begin} of {self._ends[number] - begin}"
                )
        return np.concatenate(parts)

    def _opened(self, number: int, at: int) -> Reader:
        """A piece at one of its samples; a needless seek would make a decoder begin anew."""
        if self._piece is None or number != self._number:
            self.close()
            self._piece, self._number, self._at_in_piece = self._openers[number](), number, 0
        if at != self._at_in_piece:
            self._piece.seek(at)
            self._at_in_piece = at
        return self._piece


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty")
    with path.open("rb"):  # says why where it cannot: libsndfile does not
        pass


def _once(note: Note) -> Note:
    """Pass on each line once, and not very many."""
    lines: set[str] = set()

    def tell(line: str) -> None:
        if line not in lines and len(lines) < MOST_LINES:
            lines.add(line)
            note(line)

    return tell


def _known(path: Path, num_samples: int, note: Note) -> SndfileReader | None:
    """The file by libsndfile, if that counts as many samples as are known to be there."""
    try:
        reader = SndfileReader(path, Piece(), note)
    except sf.LibsndfileError:
        return None
    if reader.info.format in SCANNED and reader.info.num_samples == num_samples:
        return reader
    reader.close()
    return None


def _order(path: Path, piece: Piece, file: sf.SoundFile) -> tuple[int, ...] | None:
    """How to put the channels into WAVE's order."""
    order = to_wave(file.subtype, file.channels)
    if order is None or file.subtype != "OPUS":
        return order
    with Spans(path, piece.spans or ((0, OPUS_HEAD_BYTES),)) as start:
        head = start.read(OPUS_HEAD_BYTES)
    at = head.find(b"OpusHead") + 18  # how its channels are mapped: 1 is Xiph's order
    return order if head[at : at + 1] == b"\1" else None


def _with_notes(info: AudioInfo, notes: Sequence[str]) -> AudioInfo:
    return replace(info, notes=(*notes, *info.notes))


def _opener(path: Path, piece: Piece, note: Note) -> Callable[[], Reader]:
    return lambda: _opened(path, piece, note)


def _opened(path: Path, piece: Piece, note: Note) -> Reader:
    if piece.decoder == "ffmpeg":
        return _by_ffmpeg(path, piece, note)
    try:
        reader = SndfileReader(path, piece, note)
    except sf.LibsndfileError as error:
        try:
            return _by_ffmpeg(path, piece, note)
        except ValueError:
            reason = error.error_string.strip()
            raise ValueError(f"{path}: is not audio that can be read: {reason}") from error
    count = reader.info.num_samples
    if piece.lowest <= count <= (piece.highest or LONGEST):
        if count == 0:
            reader.close()
            raise ValueError(f"{path}: holds no samples")
        return reader
    reader.close()
    return _by_ffmpeg(path, piece, note)


def _by_ffmpeg(path: Path, piece: Piece, note: Note) -> StreamReader:
    stream = Stream(path, piece.spans, piece.format)
    found = probe_container(stream, num_samples=piece.num_samples)
    format, subtype = piece.kind or (found.format, found.codec)
    info = AudioInfo(
        path,
        found.num_samples,
        found.sample_rate,
        found.num_channels,
        format,
        subtype,
        is_length_estimated=True,
    )
    return StreamReader(
        info, lambda: read_container(stream, block_samples=BLOCK_SAMPLES, note=note)
    )


def _joined(path: Path, openers: Sequence[Callable[[], Reader]], note: Note) -> Reader:
    infos: list[AudioInfo] = []
    for opener in openers:
        with opener() as piece:
            infos.append(piece.info)
    first = infos[0]
    most = max(info.num_channels for info in infos)
    loss = ", less its further channels" if most > max(2, first.num_channels) else ""
    others = {
        f"{info.sample_rate} Hz with {info.num_channels} channel(s)": None
        for info in infos
        if (info.sample_rate, info.num_channels) != (first.sample_rate, first.num_channels)
    }
    lengths = [
        resampled_length(info.num_samples, info.sample_rate, first.sample_rate) for info in infos
    ]
    notes = (
        f"goes on in {', '.join(others)}: made {first.sample_rate} Hz with "
        f"{first.num_channels} channel(s) throughout{loss}",
    )
    joined = AudioInfo(
        path,
        sum(lengths),
        first.sample_rate,
        first.num_channels,
        first.format,
        first.subtype,
        is_length_estimated=any(info.is_length_estimated for info in infos),
        notes=notes if others else (),
    )
    if others or joined.is_length_estimated:
        return StreamReader(joined, lambda: _one_behind_the_other(openers, joined))
    return JoinedReader(joined, openers, lengths)


def _one_behind_the_other(
    openers: Sequence[Callable[[], Reader]], joined: AudioInfo
) -> Iterator[torch.Tensor]:
    for opener in openers:
        with opener() as piece:
            yield from _like(joined, piece)


def _like(joined: AudioInfo, piece: Reader) -> Iterator[torch.Tensor]:
    """The samples of a piece, at the rate and with the channels of all."""
    rate = piece.info.sample_rate
    resampler = None
    if rate != joined.sample_rate:
        resampler = StreamResampler(
            orig=rate, new=joined.sample_rate, num_channels=joined.num_channels
        )
    while len(samples := piece.read(BLOCK_SAMPLES)):
        block = _with_channels(torch.from_numpy(samples.T.copy()), joined.num_channels)
        yield block if resampler is None else resampler.push(block)
    if resampler is not None:
        yield resampler.finish()


def _with_channels(block: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Double mono, average to mono, or keep the first channels and add silent ones."""
    if block.shape[0] == num_channels:
        return block
    if num_channels == 1:
        return block.mean(dim=0, keepdim=True)
    if block.shape[0] == 1:
        return torch.cat([block, block, block.new_zeros(num_channels, block.shape[1])])[
            :num_channels
        ]
    missing = max(0, num_channels - block.shape[0])
    return torch.cat([block[:num_channels], block.new_zeros(missing, block.shape[1])])
