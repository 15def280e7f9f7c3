"""Sound from files that libsndfile cannot read (m4a, wma, videos ...): one audio stream of them.

Decoded by FFmpeg's libraries through PyAV, which is optional (`pip install frametx[media]`). What
an encoder put before and after the sound is dropped where the container tells of it (mp4, webm).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler
    from av.audio.stream import AudioStream
    from av.container import InputContainer

CONTAINER_SUFFIXES = frozenset(
    f".{name}"
    for names in (
        "m4a m4b aac wma asf mp4 m4v mov 3gp mkv mka webm avi",
        "mpg mpeg ts m2ts mts vob flv wmv ac3 eac3 dts ape wv tta amr mpc",
    )
    for name in names.split()
)
# These write down how long a stream is; of all others FFmpeg guesses from the bit rate.
KNOW_THEIR_LENGTH = ("mov,", "matroska,", "asf", "avi")
TOLERATED_SECONDS = 0.5  # by which a whole file may end before the length that it states


@dataclass(frozen=True)
class ContainerInfo:
    """What a container says of its first audio stream.

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


def probe_container(path: Path) -> ContainerInfo:
    """Read a container's headers and decode its first frame.

    Raises:
        ValueError: if PyAV is not installed, or if the file holds no sound that can be decoded.
    """
    with _opened(path) as (container, stream):
        frame = next(_frames(path, container, stream), None)
        if frame is None:
            raise ValueError(f"{path}: holds no samples")
        format, codec = container.format.name, stream.codec_context.codec.canonical_name
        length_s = _stated_seconds(container, stream)
    if length_s is None:
        length_s = _demuxed_seconds(path)
    return ContainerInfo(
        num_samples=max(1, round(length_s * frame.sample_rate)),
        sample_rate=frame.sample_rate,
        num_channels=frame.layout.nb_channels,
        format=format.split(",")[0].upper(),
        codec=codec.upper(),
    )


def num_audio_streams(path: Path) -> int:
    """How many audio streams a container has.

    Raises:
        ValueError: if PyAV is not installed, or if there is none that can be read.
    """
    with _opened(path) as (container, _):
        return len(container.streams.audio)


def read_container(
    path: Path, *, block_samples: int, stream: int = 0
) -> Iterator[Float[Tensor, "C L"]]:
    """All samples of an audio stream in blocks of `block_samples`; the last may be shorter.

    Where a broadcast changes its rate or its channels on the way, the first ones hold to the end.

    Args:
        path: of the file.
        block_samples: of a block.
        stream: which of the audio streams.

    Raises:
        ValueError: if the file is bad, or ends before the length that it states; the blocks before
            that have been given by then.
    """
    parts: list[np.ndarray] = []
    num_held = num_given = 0
    sample_rate = 1
    with _opened(path, stream) as (container, chosen):
        stated_s = _stated_seconds(container, chosen)
        for rate, samples in _samples(path, container, chosen):
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
        raise ValueError(f"{path}: holds no samples")
    if stated_s is not None and num_given < (stated_s - TOLERATED_SECONDS) * sample_rate:
        raise ValueError(
            f"{path}: cut short, ends at sample {num_given} of {round(stated_s * sample_rate)}"
        )


@contextmanager
def _opened(path: Path, number: int = 0) -> Iterator[tuple["InputContainer", "AudioStream"]]:
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise ValueError(
            f"{path}: {path.suffix[1:]} files need PyAV to be read: pip install frametx[media]"
        ) from error
    _check_riff(path)
    try:
        # "file:" and the list: a name with a colon is no address, and nothing is fetched.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except (FFmpegError, UnicodeError) as error:
        raise ValueError(f"{path}: is not audio that can be read: {_reason(error)}") from error
    with container:
        if not container.streams.audio:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise ValueError(f"{path}: holds no audio: {kinds} only")
        try:
            yield container, container.streams.audio[number]
        except (FFmpegError, IndexError) as error:  # the second: PyAV, of a stream that comes late
            raise ValueError(f"{path}: is damaged: {_reason(error)}") from error


def _check_riff(path: Path) -> None:
    """Refuse an avi that is shorter than it says: FFmpeg takes what is left for the whole."""
    with path.open("rb") as file:
        kind, length = file.read(4), int.from_bytes(file.read(4), "little")
    missing = 8 + length - path.stat().st_size
    if kind == b"RIFF" and missing > 0:
        raise ValueError(f"{path}: cut short, {missing} bytes of it are missing")


def _frames(
    path: Path, container: "InputContainer", stream: "AudioStream"
) -> Iterator["AudioFrame"]:
    """Decoded frames; the last one is cut where an mp4 says that its sound ends."""
    from av.error import FFmpegError

    # A frame waits for the next one: only that there is none tells the last.
    waiting: AudioFrame | None = None
    last_packet_s: float | None = None
    num_samples = 0
    try:
        for packet in container.demux(stream):
            if packet.duration:
                last_packet_s = float(packet.duration * packet.time_base)
            for frame in packet.decode():
                if waiting is not None:
                    yield waiting
                waiting = frame
                num_samples += frame.samples
    except FFmpegError as error:
        raise ValueError(
            f"{path}: cannot be decoded after sample {num_samples}: {_reason(error)}"
        ) from error
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


def _cut(frame: "AudioFrame", keep: int) -> "AudioFrame":
    from av.audio.frame import AudioFrame

    width = 1 if frame.format.is_planar else frame.layout.nb_channels
    samples: np.ndarray = np.ascontiguousarray(frame.to_ndarray()[:, : keep * width])
    shorter = AudioFrame.from_ndarray(
        samples,
        format=frame.format.name,
        layout=frame.layout.name,
    )
    shorter.sample_rate = frame.sample_rate
    return shorter


def _total_of_itunes(container: "InputContainer") -> int | None:
    """The number of samples that iTunes wrote beside the sound: zero, delay, padding, total."""
    words = container.metadata.get("iTunSMPB", "").split()
    try:
        return int(words[3], 16) or None
    except (IndexError, ValueError):
        return None


def _samples(
    path: Path, container: "InputContainer", stream: "AudioStream"
) -> Iterator[tuple[int, np.ndarray]]:
    """Sample rate and samples C L in 32-bit floats."""
    from av.audio.resampler import AudioResampler

    resampler: AudioResampler | None = None
    wanted = given = None
    for frame in _frames(path, container, stream):
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        wanted = wanted or kind
        if resampler is None or kind != given:
            if resampler is not None:
                yield from _converted(resampler, None)
            resampler = AudioResampler(format="fltp", layout=wanted[1], rate=wanted[2])
            given = kind
        frame.pts = None  # a gap between time stamps is no silence to be filled
        yield from _converted(resampler, frame)
    if resampler is not None:
        yield from _converted(resampler, None)


def _converted(
    resampler: "AudioResampler", frame: "AudioFrame | None"
) -> Iterator[tuple[int, np.ndarray]]:
    for converted in resampler.resample(frame):
        yield converted.sample_rate, converted.to_ndarray()


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


def _demuxed_seconds(path: Path) -> float:
    """The sum of the packets' lengths: reads the file to its end, but decodes nothing."""
    from av.error import FFmpegError

    with _opened(path) as (container, stream):
        try:
            return sum(
                float(packet.duration * packet.time_base)
                for packet in container.demux(stream)
                if packet.duration
            )
        except FFmpegError as error:
            raise ValueError(f"{path}: cannot be read to its end: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
