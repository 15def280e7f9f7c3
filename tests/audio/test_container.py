from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.audio.stream import AudioStream
from mutagen.mp4 import MP4, MP4FreeForm
from torch import Tensor

from frametx.audio.io import probe, read_audio, read_blocks, write_wav

RATE, LENGTH = 44_100, 50_000
KINDS = {
    "x.m4a": "aac",
    "x.mp4": "aac",
    "x.mov": "pcm_s16le",
    "alac.m4a": "alac",
    "x.mka": "flac",
    "x.mkv": "aac",
    "x.webm": "libopus",
    "x.wma": "wmav2",
    "x.avi": "libmp3lame",
    "x.aac": "aac",
    "x.ts": "aac",
}
EXACT = ("x.m4a", "x.mp4", "x.mov", "alac.m4a", "x.mka")  # know where their sound begins and ends
VIDEOS = ("x.mp4", "x.mov", "x.mkv", "x.avi")


def sweeps(length: int = LENGTH) -> Tensor:
    time_s = torch.arange(length, dtype=torch.float64) / RATE
    phases = [(200 + 3_000 * time_s) * time_s, (300 + 2_000 * time_s) * time_s]
    return 0.4 * torch.stack([torch.sin(2 * torch.pi * phase) for phase in phases]).float()


def made(path: Path, codec: str, samples: Tensor, *, rate: int = RATE) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=1) if path.name in VIDEOS else None
        encoder_rate = 48_000 if codec == "libopus" else rate
        stream = container.add_stream(codec, rate=encoder_rate, layout="stereo")
        assert isinstance(stream, AudioStream)
        if codec in ("aac", "wmav2"):
            stream.bit_rate = 192_000
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
        if video is not None:
            for second in range(3):  # longer than the sound
                picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
                picture.pts, picture.time_base = second, Fraction(1)
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(samples.numpy(), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(
            format=stream.format.name,
            layout="stereo",
            rate=encoder_rate,
            frame_size=stream.frame_size or 1_024,
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def lag_and_likeness(decoded: Tensor, source: Tensor) -> tuple[int, float]:
    """By how many samples `decoded` is late, and their correlation there."""
    length = 1 << 18
    product = (
        torch.fft.rfft(decoded.double(), length) * torch.fft.rfft(source.double(), length).conj()
    )
    lag = int(torch.fft.irfft(product, length).argmax())
    lag = lag - length if lag > length // 2 else lag
    late, early = decoded[max(lag, 0) :], source[max(-lag, 0) :]
    shared = min(len(late), len(early)) - 3_000  # without what an encoder fades at the ends
    pair = torch.stack([late[2_000:shared], early[2_000:shared]])
    return lag, float(torch.corrcoef(pair)[0, 1])


@pytest.mark.parametrize("name", [name for name in KINDS if name != "x.webm"])
def test_what_was_put_in_comes_out(tmp_path: Path, name: str) -> None:
    source = sweeps()
    path = made(tmp_path / name, KINDS[name], source)
    info = probe(path)
    decoded = torch.cat(list(read_blocks(path, block_samples=4_096)), dim=1)
    assert (info.sample_rate, info.num_channels, decoded.dtype) == (RATE, 2, torch.float32)
    assert info.is_length_estimated
    assert abs(info.num_samples - decoded.shape[1]) < 2_100
    for channel in range(2):
        lag, likeness = lag_and_likeness(decoded[channel], source[channel])
        assert likeness > 0.99
        if name in EXACT:
            assert (lag, decoded.shape[1]) == (0, LENGTH)
        else:
            assert abs(lag) <= 2_048
            assert abs(decoded.shape[1] - LENGTH) < 2_100


def test_webm_drops_what_the_encoder_put_before_and_after(tmp_path: Path) -> None:
    path = made(tmp_path / "x.webm", "libopus", sweeps(48_000), rate=48_000)
    decoded = torch.cat(list(read_blocks(path, block_samples=4_096)), dim=1)
    assert (probe(path).sample_rate, decoded.shape) == (48_000, (2, 48_000))
    assert lag_and_likeness(decoded[0], sweeps(48_000)[0])[0] == 0


@pytest.mark.parametrize("name", ["alac.m4a", "x.mov", "x.mka"])
def test_lossless_samples_are_the_sources(tmp_path: Path, name: str) -> None:
    source = (sweeps() * 32_768).round() / 32_768
    decoded = read_audio(made(tmp_path / name, KINDS[name], source))
    assert torch.equal(decoded, source)


@pytest.mark.parametrize("block_samples", [1, 999, 10_000, 20_000])
def test_blocks_join_to_the_whole(tmp_path: Path, block_samples: int) -> None:
    path = made(tmp_path / "x.m4a", "aac", sweeps(5_000))
    blocks = list(read_blocks(path, block_samples=block_samples))
    assert {block.shape[1] for block in blocks[:-1]} <= {block_samples}
    assert torch.equal(torch.cat(blocks, dim=1), read_audio(path))


def test_a_part_is_that_part_of_the_whole(tmp_path: Path) -> None:
    path = made(tmp_path / "x.m4a", "alac", sweeps())
    whole = read_audio(path)
    assert torch.equal(read_audio(path, start=1_234, num_samples=777), whole[:, 1_234:2_011])
    with pytest.raises(ValueError, match="ends at sample 50000, 50100 wanted"):
        read_audio(path, start=49_900, num_samples=200)
    with pytest.raises(ValueError, match=r"start \(50001\) is outside its 50000 samples"):
        read_audio(path, start=50_001)


def test_the_padding_that_itunes_writes_down_is_cut(tmp_path: Path) -> None:
    path = made(tmp_path / "x.m4a", "aac", sweeps())
    file = MP4(path)
    told = f" 00000000 00000400 00000000 {49_500:016X} 00000000".encode()
    file["----:com.apple.iTunes:iTunSMPB"] = [MP4FreeForm(told)]
    file.save()
    assert read_audio(path).shape == (2, 49_500)


def cut_to(fraction: float) -> Callable[[bytes], bytes]:
    return lambda contents: contents[: int(len(contents) * fraction)]


@pytest.mark.parametrize("name", ["x.m4a", "x.wma", "x.mkv", "x.avi"])
def test_a_file_cut_short_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = made(tmp_path / name, KINDS[name], sweeps(4 * LENGTH))
    path.write_bytes(cut_to(0.6)(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cut short|not audio|decoded") as caught:
        list(read_blocks(probe(path).path, block_samples=4_096))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("x.m4a", b"", "is empty"),
        ("x.m4a", b"la la la\n" * 99, "is not audio that can be read"),
        ("x.mkv", bytes(10_000), "is not audio that can be read"),
        ("x.wma", b"\x30\x26\xb2\x75", "is not audio that can be read"),
        ("x.mp3", b"la la la\n" * 99, "is not audio that can be read"),
    ],
)
def test_what_is_no_container_is_refused(
    tmp_path: Path, name: str, contents: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(contents)
    for read in (lambda: probe(path), lambda: list(read_blocks(path, block_samples=9))):
        with pytest.raises(ValueError, match=reason) as caught:
            read()
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.m4a", "x.mkv", "x.wma", "x.ts"])
def test_whatever_is_damaged_ends_in_one_line_with_the_path(tmp_path: Path, name: str) -> None:
    contents = made(tmp_path / name, KINDS[name], sweeps(12_000)).read_bytes()
    path = tmp_path / f"damaged{Path(name).suffix}"
    generator = np.random.default_rng(0)
    said: list[str] = []
    for number in range(40):
        damaged = bytearray(contents)
        end = len(damaged) if number % 2 else 2_000  # half of them in the headers
        for place in generator.integers(0, end, 1 + number):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            list(read_blocks(probe(path).path, block_samples=4_096))
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 10
    assert all(line.startswith(str(path)) and "\n" not in line for line in said)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=1)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(video.encode(None))
    with pytest.raises(ValueError, match=r"x\.mp4: holds no audio: video only"):
        probe(path)


def test_a_wav_that_is_named_m4a_is_read_as_the_wav_it_is(tmp_path: Path) -> None:
    write_wav(tmp_path / "x.m4a", sweeps(), sample_rate=RATE)
    assert (probe(tmp_path / "x.m4a").format, probe(tmp_path / "x.m4a").num_samples) == (
        "WAV",
        LENGTH,
    )
    assert torch.equal(read_audio(tmp_path / "x.m4a"), sweeps())


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "x.m4a", "aac", sweeps(5_000)).rename(tmp_path / "http:x.m4a")
    monkeypatch.chdir(tmp_path)
    assert read_audio(Path("http:x.m4a")).shape == (2, 5_000)
