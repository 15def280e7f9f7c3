import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from frametx.audio.io import AudioWriter, probe, read_audio
from frametx.audio.video import still_video

RATE = 44_100


def song(path: Path, *, seconds: float = 2.3, rate: int = RATE, channels: int = 2) -> Path:
    time_s = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    sweep = 0.4 * torch.sin(2 * torch.pi * (200 + 300 * time_s) * time_s)
    header: dict[str, Any] = {"sample_rate": rate, "num_channels": channels, "format": "FLAC"}
    with AudioWriter(path, subtype="PCM_16", **header) as writer:
        writer.write(sweep.float().repeat(channels, 1))
    return path


def halves(width: int, height: int, format: str = "PNG") -> bytes:
    """A picture that is red on its left and blue on its right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 2] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def shown(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("rate", [44_100, 16_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_sound_of_the_video_is_the_song(tmp_path: Path, rate: int, channels: int) -> None:
    source = song(tmp_path / "x.flac", rate=rate, channels=channels)
    still_video(source, halves(64, 64), tmp_path / "x.mp4")
    sound, expected = read_audio(tmp_path / "x.mp4"), read_audio(source)
    assert (probe(tmp_path / "x.mp4").sample_rate, sound.shape) == (rate, expected.shape)
    assert torch.corrcoef(torch.stack([sound[0], expected[0]]))[0, 1] > 0.999


def test_a_rate_that_aac_does_not_know_is_changed(tmp_path: Path) -> None:
    source = song(tmp_path / "x.flac", rate=37_800)
    still_video(source, halves(64, 64), tmp_path / "x.mp4")
    info = probe(tmp_path / "x.mp4")
    assert info.sample_rate == 48_000
    assert read_audio(tmp_path / "x.mp4").shape[1] / 48_000 == pytest.approx(2.3, abs=0.01)


@pytest.mark.parametrize("seconds", [0.2, 1.0, 2.3])
def test_players_find_what_they_need(tmp_path: Path, seconds: float) -> None:
    still_video(song(tmp_path / "x.flac", seconds=seconds), halves(64, 64), tmp_path / "x.mp4")
    with av.open(str(tmp_path / "x.mp4")) as container:
        (pictures,), (sound,) = container.streams.video, container.streams.audio
        codecs = (pictures.codec_context.name, pictures.pix_fmt, sound.codec_context.name)
        assert codecs == ("h264", "yuv420p", "aac")
        assert float(pictures.average_rate or 0) == 1
        assert pictures.frames == int(np.ceil(seconds))
        assert pictures.duration is not None
        assert pictures.time_base is not None
        assert 0 <= float(pictures.duration * pictures.time_base) - seconds < 1
    contents = (tmp_path / "x.mp4").read_bytes()
    assert contents.index(b"moov") < contents.index(b"mdat")  # plays before all of it is there


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_the_cover_is_what_is_seen(tmp_path: Path, format: str) -> None:
    still_video(song(tmp_path / "x.flac"), halves(101, 75, format), tmp_path / "x.mp4")
    frames = shown(tmp_path / "x.mp4")
    assert len(frames) == 3
    for frame in frames:
        assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
        assert abs(frame.shape[1] - 101) <= 1
        assert abs(frame.shape[0] - 75) <= 1
        left, right = frame[10:60, 10:40].mean(axis=(0, 1)), frame[10:60, 60:90].mean(axis=(0, 1))
        assert np.abs(left - [200, 0, 0]).max() < 12
        assert np.abs(right - [0, 0, 200]).max() < 12


@pytest.mark.parametrize(
    ("size", "expected"),
    [((3_000, 3_000), (1080, 1080)), ((2, 1), (64, 32)), ((600, 500), (600, 500))],
)
def test_a_picture_is_made_to_fit(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    still_video(song(tmp_path / "x.flac", seconds=0.5), halves(*size), tmp_path / "x.mp4")
    assert shown(tmp_path / "x.mp4")[0].shape == (expected[1], expected[0], 3)


def test_without_a_cover_the_picture_is_plain_and_dark(tmp_path: Path) -> None:
    still_video(song(tmp_path / "x.flac", seconds=0.5), None, tmp_path / "x.mp4")
    (frame,) = shown(tmp_path / "x.mp4")
    assert frame.shape == (720, 1280, 3)
    assert int(frame.max()) - int(frame.min()) < 12
    assert 0 < frame.mean() < 30


@pytest.mark.parametrize("wrong", [b"", b"la la la" * 20, halves(64, 64)[:40]])
def test_a_picture_that_is_none_is_refused(tmp_path: Path, wrong: bytes) -> None:
    source = song(tmp_path / "x.flac")
    with pytest.raises(ValueError, match=r"x\.flac: its picture cannot be read") as caught:
        still_video(source, wrong, tmp_path / "x.mp4")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.flac"]


def test_a_song_that_ends_early_leaves_no_video_and_an_older_one_alone(tmp_path: Path) -> None:
    source = song(tmp_path / "x.flac", seconds=20)
    source.write_bytes(source.read_bytes()[:-20_000])
    (tmp_path / "x.mp4").write_text("older")
    with pytest.raises(ValueError, match=r"x\.flac: (cannot be decoded|cut short)"):
        still_video(source, halves(64, 64), tmp_path / "x.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.flac", "x.mp4"]
    assert (tmp_path / "x.mp4").read_text() == "older"


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path) -> None:
    source = song(tmp_path / "x.flac", seconds=0.5)
    with pytest.raises(OSError, match=r"x\.mp4"):
        still_video(source, halves(64, 64), source / "x.mp4")


def test_more_channels_than_a_video_has_are_refused(tmp_path: Path) -> None:
    source = song(tmp_path / "x.flac", seconds=0.5, channels=7)
    with pytest.raises(ValueError, match=r"x\.flac: 7 channels do not fit"):
        still_video(source, None, tmp_path / "x.mp4")
