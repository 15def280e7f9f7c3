"""Sound that FFmpeg's libraries decode, through PyAV: one audio stream of a file.

For what libsndfile cannot read (m4a, wma, videos ...), and where it would not read all. What an
encoder put before and after the sound is dropped where the container tells of it (mp4, webm).
FFmpeg's own complaints become notes.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.spans import Span, Spans

# PyAV takes 0.1 s to be imported, and most runs do without it.
if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet

# These write down how long a stream is; of all others FFmpeg guesses from the bit rate.
KNOW_THEIR_LENGTH = ("mov,", "matroska,", "asf", "avi")
NOTED_SECONDS = 0.08  # by which it may without a note: an encoder's delay and its last frame
TOLERATED_SECONDS = 0.5  # by which a whole file may end before the length that it states
# Formats of sound: a playlist would make FFmpeg open other files.
FORMATS = (
    "aac,ac3,act,aiff,amr,amrnb,amrwb,ape,asf,au,avi,bonk,caf,dsf,dts,dtshd,eac3,flac,flv,iff,"
    "ircam,loas,matroska,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nut,ogg,oma,osq,qcp,rm,rso,shn,"
    "sox,tak,truehd,tta,voc,vqf,w64,wav,wsd,wtv,wv,xwma"
)
PACKED = "flt"  # PyAV crashes over more than seven channels with a plane each
SKIP_MANUAL = 1 << 29  # FFmpeg's flag to leave the samples as they are decoded
MOST_COMPLAINTS = 3  # of different kinds that are noted of one file

Note = Callable[[str], None]


def no_note(_: str) -> None:
    """Where nobody asks for notes."""


@dataclass(frozen=True)
class Stream:
    """Which sound of a file is meant.

    Attributes:
        path: of the file.
        spans: the parts of it that are to be decoded; empty means all.
        format: FFmpeg's word for its format; None lets FFmpeg look.
        number: of the audio stream.
    """

    path: Path
    spans: Sequence[Span] = ()
    format: str | None = None
    number: int = 0

    @property
    def is_mpeg(self) -> bool:
        """Whether each frame can be decoded by itself, so that a bad one costs only itself."""
        return self.format == "mp3"


@dataclass(frozen=True)
class ContainerInfo:
    """What a container says of an audio stream.

    Attributes:
        num_samples: near to what decodes; only decoding tells the exact number.
        sample_rate: Hz, of what decodes (a header may name half of it).
        num_channels: C.
        format: FFmpeg's word for the container (MOV, MATROSKA ...).
        codec: FFmpeg's word for the coding of the samples (AAC, OPUS ...).
    """

    num_samples: int
    sample_rate: int
    num_channels: int
    format: str
    codec: str


def probe_container(wanted: Path | Stream, *, num_samples: int | None = None) -> ContainerInfo:
    """Read a container's headers and decode its first frame.

    Args:
        wanted: the stream, or a file whose first is wanted.
        num_samples: if it is known; else it is looked for.

    Raises:
        ValueError: if the file holds no sound that can be decoded.
    """
    wanted = _stream(wanted)
    with _opened(wanted) as (container, stream):
        frame = next(_frames(wanted, container, stream, no_note), None)
        if frame is None:
            raise ValueError(f"{wanted.path}: holds no samples")
        format, codec = container.format.name, stream.codec_context.codec.canonical_name
        length_s = _stated_seconds(container, stream)
    if num_samples is None:
        length_s = _demuxed_seconds(wanted) if length_s is None else length_s
        num_samples = round(length_s * frame.sample_rate)
    return ContainerInfo(
        num_samples=max(1, num_samples),
        sample_rate=frame.sample_rate,
        num_channels=frame.layout.nb_channels,
        format=format.split(",")[0].upper(),
        codec=codec.upper(),
    )


def num_audio_streams(path: Path) -> int:
    """How many audio streams a container has.

    Raises:
        ValueError: if there is none that can be read.
    """
    with _opened(Stream(path)) as (container, _):
        return len(container.streams.audio)


def read_container(
    wanted: Path | Stream, *, block_samples: int, note: Note = no_note
) -> Iterator[Float[Tensor, "C L"]]:
    """All samples of an audio stream in blocks of `block_samples`; the last may be shorter.

    Where a broadcast changes its rate or its channels on the way, the first ones hold to the end.

    Args:
        wanted: the stream, or a file whose first is wanted.
        block_samples: of a block.
        note: is called with what the user should know, in one line without the path.

    Raises:
        ValueError: if the file is bad, or ends before the length that it states; the blocks before
            that have been given by then.
    """
    wanted = _stream(wanted)
    parts: list[np.ndarray] = []
    num_held = num_given = 0
    sample_rate = 1
    with _opened(wanted) as (container, chosen):
        stated_s = _stated_seconds(container, chosen)
        for rate, samples in _samples(wanted, container, chosen, note):
            sample_rate = rate
            parts.append(samples)
            num_held += samples.shape[1]
            while num_held >= block_samples:
                held = np.concatenate(parts, axis=1)
                yield torch.from_numpy(held[:, :block_samples].copy())
                parts = [held[:, block_samples:]]
                num_held -= block_samples
                num_given += block_samples
    if num_held:
        yield torch.from_numpy(np.concatenate(parts, axis=1))
    num_given += num_held
    if not num_given:
        raise ValueError(f"{wanted.path}: holds no samples")
    if stated_s is None:
        return
    missing = round(stated_s * sample_rate) - num_given
    if NOTED_SECONDS * sample_rate < missing <= TOLERATED_SECONDS * sample_rate:
        note(f"ends {missing} samples before the length that it states")
    if missing > TOLERATED_SECONDS * sample_rate:
        raise ValueError(
            f"{wanted.path}: cut short, ends at sample {num_given} of "
            f"{round(stated_s * sample_rate)}"
        )


def _stream(wanted: Path | Stream) -> Stream:
    return wanted if isinstance(wanted, Stream) else Stream(wanted)


@contextmanager
def _opened(wanted: Stream) -> Iterator[tuple["InputContainer", "AudioStream"]]:
    import av
    from av.error import FFmpegError

    path = wanted.path
    if not wanted.spans:
        _check_avi(path)
    # "file:" and the lists: a name with a colon is no address, and nothing else is opened.
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    with ExitStack() as stack:
        stack.enter_context(_listening())
        source = f"file:{path}"
        if wanted.spans:
            source = stack.enter_context(Spans(path, wanted.spans))
        try:
            container = stack.enter_context(
                av.open(source, "r", format=wanted.format, options=options)
            )
        except (FFmpegError, UnicodeError) as error:
            raise ValueError(f"{path}: is not audio that can be read: {_reason(error)}") from error
        if not container.streams.audio:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise ValueError(f"{path}: holds no audio: {kinds} only")
        try:
            stream = container.streams.audio[wanted.number]
            if container.format.name == "caf" and stream.codec_context.name == "alac":
                # FFmpeg takes the end off twice: in the last packet, and by the count of samples.
                stream.codec_context.flags2 |= SKIP_MANUAL
            yield container, stream
        except (FFmpegError, IndexError) as error:  # the second: PyAV, of a stream that comes late
            raise ValueError(f"{path}: is damaged: {_reason(error)}") from error


def _check_avi(path: Path) -> None:
    """Refuse an avi that is shorter than it says: FFmpeg takes what is left for the whole."""
    with path.open("rb") as file:
        head = file.read(12)
    missing = 8 + int.from_bytes(head[4:8], "little") - path.stat().st_size
    if head[:4] == b"RIFF" and head[8:] == b"AVI " and missing > 0:
        raise ValueError(f"{path}: cut short, {missing} bytes of it are missing")


def _frames(
    wanted: Stream, container: "InputContainer", stream: "AudioStream", note: Note
) -> Iterator["AudioFrame"]:
    """Decoded frames; the last one is cut where an mp4 says that its sound ends."""
    from av.error import FFmpegError

    # A frame waits for the next one: only that there is none tells the last.
    waiting: AudioFrame | None = None
    last_packet_s: float | None = None
    num_samples = 0
    complaints = _Complaints(note)
    try:
        for packet in container.demux(stream):
            if packet.duration:
                last_packet_s = float(packet.duration * packet.time_base)
            is_lenient = wanted.is_mpeg or container.format.name == "aac"
            for frame in _decoded(packet, complaints, is_lenient=is_lenient):
                if waiting is not None:
                    yield waiting
                waiting = frame
                num_samples += frame.samples
    except FFmpegError as error:
        raise ValueError(
            f"{wanted.path}: cannot be decoded after sample {num_samples}: {_reason(error)}"
        ) from error
    complaints.say()
    if waiting is None:
        return
    if container.format.name.startswith("mov,") and last_packet_s is not None:
        keep = round(last_packet_s * waiting.sample_rate)
        total = _total_of_itunes(container)
        if total is not None:
            keep = total - (num_samples - waiting.samples)
        if 0 < keep < waiting.samples:
            waiting = _cut(waiting, keep)
    yield waiting


def _decoded(
    packet: "Packet", complaints: "_Complaints", *, is_lenient: bool
) -> Sequence["AudioFrame"]:
    """The frames of a packet; a lenient reading leaves out what cannot be decoded."""
    from av.audio.frame import AudioFrame
    from av.error import FFmpegError
    from av.logging import Capture

    with Capture() as lines:
        try:
            return [frame for frame in packet.decode() if isinstance(frame, AudioFrame)]
        except FFmpegError:
            if not is_lenient:
                raise
            complaints.num_lost += 1
            return []
        finally:
            complaints.hear(lines)


@dataclass
class _Complaints:
    """What FFmpeg logs while it decodes a file, each kind of line once, with its number."""

    note: Note
    num_lost: int = 0
    lines: dict[str, int] = field(default_factory=dict)

    def hear(self, lines: Sequence[tuple[int, str, str]]) -> None:
        for _, _, line in lines:
            kind = re.sub(r"-?\d+", "#", " ".join(line.split()))
            self.lines[kind] = self.lines.get(kind, 0) + 1

    def say(self) -> None:
        if self.num_lost:
            self.note(f"{self.num_lost} frames that cannot be decoded are left out")
        for line, count in list(self.lines.items())[:MOST_COMPLAINTS]:
            self.note(f"FFmpeg: {line}" + (f" ({count} times)" if count > 1 else ""))


class _Log:
    """How many files are open whose errors FFmpeg is to log, and its level before the first."""

    lock = Lock()
    num_listeners = 0
    level_before: int | None = None


@contextmanager
def _listening() -> Iterator[None]:
    """Have FFmpeg log errors, for PyAV alone to collect, while any file is open."""
    import av.logging

    with _Log.lock:
        if _Log.num_listeners == 0:
            # What nobody collects must not reach the terminal by way of Python's logging.
            logging.getLogger("libav").addHandler(_NULL_HANDLER)
            _Log.level_before = av.logging.get_level()
            av.logging.set_level(av.logging.ERROR)
        _Log.num_listeners += 1
    try:
        yield
    finally:
        with _Log.lock:
            _Log.num_listeners -= 1
            if _Log.num_listeners == 0:
                av.logging.set_level(_Log.level_before)


_NULL_HANDLER = logging.NullHandler()


def _cut(frame: "AudioFrame", keep: int) -> "AudioFrame":
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler

    layout, rate = frame.layout.name, frame.sample_rate
    frame.pts = None
    (packed,) = AudioResampler(format=PACKED, layout=layout, rate=rate).resample(frame)
    samples: np.ndarray = np.ascontiguousarray(
        packed.to_ndarray()[:, : keep * packed.layout.nb_channels]
    )
    shorter = AudioFrame.from_ndarray(samples, format=PACKED, layout=layout)
    shorter.sample_rate = rate
    return shorter


def _total_of_itunes(container: "InputContainer") -> int | None:
    """The number of samples that iTunes wrote beside the sound: zero, delay, padding, total."""
    words = container.metadata.get("iTunSMPB", "").split()
    try:
        return int(words[3], 16) or None
    except (IndexError, ValueError):
        return None


def _samples(
    wanted: Stream, container: "InputContainer", stream: "AudioStream", note: Note
) -> Iterator[tuple[int, np.ndarray]]:
    """Sample rate and samples C L in 32-bit floats."""
    from av.audio.resampler import AudioResampler

    resampler: AudioResampler | None = None
    first = given = None
    for frame in _frames(wanted, container, stream, note):
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        first = first or kind
        if resampler is None or kind != given:
            if resampler is not None:
                yield from _converted(resampler, None)
            if given is not None and kind[1:] != given[1:] and not wanted.is_mpeg:
                note(
                    f"goes on in {kind[2]} Hz, {kind[1]}: made {first[2]} Hz, {first[1]} throughout"
                )
            resampler = AudioResampler(format=PACKED, layout=first[1], rate=first[2])
            given = kind
        frame.pts = None  # a gap between time stamps is no silence to be filled
        yield from _converted(resampler, frame)
    if resampler is not None:
        yield from _converted(resampler, None)


def _converted(
    resampler: "AudioResampler", frame: "AudioFrame | None"
) -> Iterator[tuple[int, np.ndarray]]:
    for converted in resampler.resample(frame):
        samples: np.ndarray = converted.to_ndarray()
        yield converted.sample_rate, samples.reshape(-1, converted.layout.nb_channels).T


def _stated_seconds(container: "InputContainer", stream: "AudioStream") -> float | None:
    """How long the container says that the stream is."""
    if not container.format.name.startswith(KNOW_THEIR_LENGTH):
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    clock = stream.metadata.get("DURATION", "").split(":")  # Matroska: 00:03:20.105000000
    try:
        hours, minutes, seconds = (float(number) for number in clock)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds


def _demuxed_seconds(wanted: Stream) -> float:
    """The sum of the packets' lengths: reads the file to its end, but decodes nothing."""
    from av.error import FFmpegError

    with _opened(wanted) as (container, stream):
        try:
            return sum(
                float(packet.duration * packet.time_base)
                for packet in container.demux(stream)
                if packet.duration
            )
        except FFmpegError as error:
            raise ValueError(f"{wanted.path}: cannot be read to its end: {_reason(error)}") from (
                error
            )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
