"""A song as a video of one still picture: what sites that take only videos want of a stem.

H.264 at one picture a second and AAC in an mp4 whose index comes first, through PyAV.
"""

import io
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frametx.audio.io import AudioInfo, probe, read_blocks
from frametx.unfinished import part_beside

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import OutputContainer
    from av.video.frame import VideoFrame

AUDIO_BITS_PER_SECOND = 256_000
AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200)
AAC_RATES += (96_000,)
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # AAC's
LARGEST, SMALLEST = (1920, 1080), 64  # pixels; the first fits into what every player decodes
PLAIN_SIZE, PLAIN_COLOUR = (1280, 720), (18, 18, 22)  # without a cover
KEYFRAME_SECONDS = 30


def still_video(audio: Path | str, picture: bytes | None, output: Path | str) -> None:
    """Write an mp4 that shows a picture while a song plays; it appears only when whole.

    The sound is as long as the song, and the picture stays to the full second after it.

    Args:
        audio: the song, in any format that can be read.
        picture: the file of a cover (PNG, JPEG ...), shown in its own size, but for what is
            larger than full HD; None shows a plain dark picture.
        output: path of the video.

    Raises:
        ValueError: if the song or the picture cannot be used.
        OSError: if the video cannot be written.
    """
    import av
    from av.error import FFmpegError

    audio, output = Path(audio), Path(output)
    info = probe(audio)
    if info.num_channels not in LAYOUTS:
        raise ValueError(
            f"{audio}: {info.num_channels} channels do not fit into a video: "
            f"there may be {', '.join(map(str, LAYOUTS))}"
        )
    still = _still(audio, picture)
    part = part_beside(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        options = {"movflags": "+faststart"}
        with av.open(str(part.absolute()), "w", format="mp4", options=options) as container:
            _encode(container, info, still)
        part.replace(output)
    except FFmpegError as error:
        raise ValueError(f"{output}: cannot be written: {error.strerror or error}") from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(output)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _encode(container: "OutputContainer", info: AudioInfo, still: "VideoFrame") -> None:
    """The pictures go in as the sound does, second by second, so that none of it is held."""
    from fractions import Fraction

    from av.audio.resampler import AudioResampler
    from av.audio.stream import AudioStream

    pictures: Any = container.add_stream(
        "libx264", rate=1, options={"preset": "veryfast", "tune": "stillimage", "crf": "18"}
    )
    pictures.width, pictures.height, pictures.pix_fmt = still.width, still.height, "yuv420p"
    pictures.gop_size = KEYFRAME_SECONDS
    rate = info.sample_rate if info.sample_rate in AAC_RATES else 48_000
    layout = LAYOUTS[info.num_channels]
    sound = container.add_stream("aac", rate=rate, layout=layout)
    assert isinstance(sound, AudioStream)
    sound.bit_rate = AUDIO_BITS_PER_SECOND
    container.start_encoding()
    resampler = AudioResampler("fltp", layout, rate, frame_size=sound.frame_size)
    num_samples = num_pictures = 0
    for frame in _frames(info, layout):
        num_samples += frame.samples
        while num_pictures < math.ceil(num_samples / info.sample_rate):
            still.pts, still.time_base = num_pictures, Fraction(1)
            container.mux(pictures.encode(still))
            num_pictures += 1
        for piece in resampler.resample(frame):
            container.mux(sound.encode(piece))
    for piece in resampler.resample(None):
        container.mux(sound.encode(piece))
    container.mux(sound.encode(None))
    container.mux(pictures.encode(None))


def _frames(info: AudioInfo, layout: str) -> Iterator["AudioFrame"]:
    from fractions import Fraction

    from av.audio.frame import AudioFrame

    at = 0
    for block in read_blocks(info.path, block_samples=info.sample_rate):
        samples: np.ndarray = block.numpy()
        frame = AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate = info.sample_rate
        frame.pts, frame.time_base = at, Fraction(1, info.sample_rate)
        yield frame
        at += block.shape[1]


def _still(audio: Path, picture: bytes | None) -> "VideoFrame":
    """The picture in even sizes and in the colours of videos."""
    import av
    from av.error import FFmpegError
    from av.video.frame import VideoFrame

    if picture is None:
        width, height = PLAIN_SIZE
        plain = np.empty((height, width, 3), np.uint8)
        plain[:] = PLAIN_COLOUR
        return VideoFrame.from_ndarray(plain, format="rgb24").reformat(format="yuv420p")
    try:
        with av.open(io.BytesIO(picture), "r") as container:
            frame = next(container.decode(video=0), None)
    except (FFmpegError, IndexError) as error:
        reason = getattr(error, "strerror", None) or "it holds no picture"
        raise ValueError(f"{audio}: its picture cannot be read: {reason}") from error
    if frame is None:
        raise ValueError(f"{audio}: its picture cannot be read: it is empty")
    width, height = _size(frame.width, frame.height)
    # By way of RGB, as JPEG counts its colours from 0 and videos from 16.
    plain = frame.reformat(format="rgb24")
    return plain.reformat(width=width, height=height, format="yuv420p")


def _size(width: int, height: int) -> tuple[int, int]:
    """Even numbers of pixels, near the picture's own shape, between SMALLEST and LARGEST."""
    scale = min(1.0, LARGEST[0] / width, LARGEST[1] / height)
    scale = max(scale, SMALLEST / max(width, height))
    return max(16, 2 * round(width * scale / 2)), max(16, 2 * round(height * scale / 2))
