"""One song on disk becomes one file per stem."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor, nn

from frametx.audio.tags import Picture, Tags, read_tags, write_tags
from frametx.execution import Execution
from frametx.pipeline import Pipeline
from frametx.separation_options import SeparationOptions
from frametx.songs import Job
from frametx.to_files import FileOptions, FileReport, separate_song


class Gain(nn.Module):
    """A stereo separator whose vocals are the mixture times a gain."""

    def __init__(self, gain: float, rate: int = 44_100) -> None:
        super().__init__()
        self.gain = gain
        self.stems: tuple[str, ...] = ("vocals", "instrumental")
        self.sample_rate = rate
        self.num_channels = 2
        self.chunk_samples = 4_096

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([self.gain * mixture, (1 - self.gain) * mixture], dim=1)


def song(
    path: Path,
    *,
    rate: int = 44_100,
    channels: int = 2,
    subtype: str = "PCM_16",
    length: int = 30_000,
    level: float = 0.1,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(length).standard_normal((length, channels)) * level
    sf.write(path, noise.clip(-1, 1), rate, subtype=subtype)
    return path


def separated(separator: nn.Module, job: Job, **chosen: Any) -> FileReport:
    all_of_it: dict[str, Any] = {"stems": ("vocals", "instrumental")}
    options = FileOptions(**(all_of_it | chosen))
    return separate_song(pipeline(separator), job, options)


def pipeline(separator: Any, **options: Any) -> Pipeline:
    execution = Execution(device="cpu", batch_size=2)
    return Pipeline([separator], SeparationOptions(**options), execution=execution)


@pytest.mark.parametrize("rate_inside", [44_100, 16_000])
@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("x.wav", 48_000, 1, "PCM_24"),
        ("x.wav", 44_100, 2, "PCM_16"),
        ("x.wav", 44_100, 2, "PCM_U8"),
        ("x.wav", 22_050, 2, "FLOAT"),
        ("x.wav", 96_000, 6, "PCM_24"),
        ("x.flac", 48_000, 3, "PCM_24"),
        ("x.ogg", 44_100, 2, "VORBIS"),
        ("x.mp3", 44_100, 1, "MPEG_LAYER_III"),
    ],
)
def test_rate_channels_bits_and_length_are_the_songs(
    tmp_path: Path, name: str, rate: int, channels: int, subtype: str, rate_inside: int
) -> None:
    source = song(tmp_path / name, rate=rate, channels=channels, subtype=subtype)
    job = Job(source, tmp_path / "out")
    file = separated(Gain(0.7, rate_inside), job)
    assert file.status == "done"
    expected = sf.info(source)
    for stem in ("vocals", "instrumental"):
        info = sf.info(file.outputs[stem])
        assert (info.samplerate, info.channels, info.subtype) == (rate, channels, subtype)
        assert (info.format, info.frames) == (expected.format, expected.frames)
    if subtype not in ("VORBIS", "MPEG_LAYER_III"):
        mixture, vocals, instrumental = (
            sf.read(path, dtype="float64")[0] for path in (source, *file.outputs.values())
        )
        tolerance = 1e-7 if subtype == "FLOAT" else 0  # integers add up to the very sample
        assert np.abs(vocals + instrumental - mixture).max() <= tolerance


def test_a_song_that_is_there_is_skipped_only_if_all_of_it_is(tmp_path: Path) -> None:
    job = Job(song(tmp_path / "x.wav"), tmp_path / "out")
    assert separated(Gain(0.5), job, skip_existing=True).status == "done"
    before = (tmp_path / "out" / "vocals.wav").stat().st_mtime_ns
    assert separated(Gain(0.5), job, skip_existing=True).status == "skipped"
    assert (tmp_path / "out" / "vocals.wav").stat().st_mtime_ns == before
    (tmp_path / "out" / "instrumental.wav").unlink()
    assert separated(Gain(0.5), job, skip_existing=True).status == "done"
    assert separated(Gain(0.5), job).status == "done"


def test_only_the_stems_asked_for_are_written(tmp_path: Path) -> None:
    job = Job(song(tmp_path / "x.wav"), tmp_path / "out")
    file = separated(Gain(0.5), job, stems=("instrumental",))
    assert [path.name for path in job.folder.iterdir()] == ["instrumental.wav"]
    assert list(file.outputs) == ["instrumental"]


def test_tags_and_cover_follow_the_song_and_titles_name_the_stem(tmp_path: Path) -> None:
    source = song(tmp_path / "x.flac")
    cover = Picture(data=b"\x89PNG\r\n\x1a\n" + bytes(50), mime="image/png")
    write_tags(source, Tags(text={"title": "Lüül", "artist": "Someone"}, pictures=(cover,)))
    file = separated(Gain(0.5), Job(source, tmp_path / "out"), format="mp3")
    for stem in ("vocals", "instrumental"):
        tags = read_tags(file.outputs[stem])
        assert tags.text["title"] == f"Lüül ({stem.title()})"
        assert tags.text["artist"] == "Someone"
        assert tags.cover is not None
        assert tags.cover.data == cover.data
    bare = separated(Gain(0.5), Job(source, tmp_path / "bare"), tags=False)
    assert read_tags(bare.outputs["vocals"]).text == {}


def test_tags_are_read_only_where_something_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def reading(path: Path) -> Tags:
        asked.append(path)
        return read_tags(path)

    monkeypatch.setattr("frametx.to_files.read_tags", reading)
    job = Job(song(tmp_path / "x.wav", length=4_000), tmp_path / "out")
    assert separated(Gain(0.5), job, tags=False).notes == []
    assert asked == []
    assert separated(Gain(0.5), job, tags=False, video=True).status == "done"
    assert separated(Gain(0.5), job).status == "done"
    assert asked == [job.source, job.source]


@pytest.mark.parametrize("clipping", ["float", "scale", "clip"])
def test_a_stem_that_would_clip_is_treated_as_asked_and_reported(
    tmp_path: Path, clipping: str
) -> None:
    source = song(tmp_path / "x.wav", level=0.2)
    file = separated(Gain(1.5), Job(source, tmp_path / "out"), clipping=clipping)
    mixture, vocals, instrumental = (
        sf.read(path, dtype="float64")[0] for path in (source, *file.outputs.values())
    )
    subtype = sf.info(file.outputs["vocals"]).subtype
    over = int((np.abs(np.rint(mixture * 32_768) * 1.5 + 0.25) > 32_767.5).sum())
    assert over > 0
    if clipping == "clip":
        assert file.clipped_samples == {"vocals": over}
    elif clipping == "float":
        assert subtype == "FLOAT"
        assert "float" in " ".join(file.notes)
    else:
        assert subtype == "PCM_16"
        assert file.gain_db < 0
        mixture = mixture * 10 ** (file.gain_db / 20)
    tolerance = 2 / 32_768 if clipping == "scale" else 0
    assert np.abs(vocals + instrumental - mixture).max() <= tolerance


def test_a_song_that_is_one_stem_already_is_copied_as_that_stem(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    job = Job(source, tmp_path / "out", is_stem=True)
    file = separated(Gain(0.5), job)
    assert (file.status, list(file.outputs)) == ("copied", ["instrumental"])
    assert (tmp_path / "out" / "instrumental.wav").read_bytes() == source.read_bytes()
    assert separated(Gain(0.5), job, skip_existing=True).status == "skipped"
    assert separated(Gain(0.5), job, stems=("vocals",)).status == "skipped"
    voice = separated(Gain(0.5), replace(job, stem="vocals"))
    assert (voice.status, voice.reason) == ("copied", "is vocals already")
    assert (tmp_path / "out" / "vocals.wav").read_bytes() == source.read_bytes()


def test_a_video_shows_the_cover_as_long_as_the_song_lasts(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav", length=88_200)
    file = separated(Gain(0.5), Job(source, tmp_path / "out"), video=True, format="flac")
    assert sorted(file.outputs) == ["instrumental", "instrumental video", "vocals", "vocals video"]
    with av.open(file.outputs["vocals video"]) as video:
        assert [stream.type for stream in video.streams] == ["video", "audio"]
        assert video.duration is not None
        assert video.duration / 1e6 == pytest.approx(2, abs=1.01)


@pytest.mark.parametrize("gain", [float("nan"), float("inf")])
def test_a_model_that_returns_no_numbers_fails_and_leaves_nothing(
    tmp_path: Path, gain: float
) -> None:
    job = Job(song(tmp_path / "x.wav"), tmp_path / "out")
    with pytest.raises(ValueError, match=r"x.wav: the model returned .* not finite after 0.0 s"):
        separated(Gain(gain), job)
    assert not job.folder.exists()


def test_what_the_disk_does_not_take_fails_in_the_writing_thread_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(sf.SoundFile):
        def write(self, data: Any) -> None:
            raise OSError(28, "No space left on device")

    job = Job(song(tmp_path / "x.wav"), tmp_path / "out")
    monkeypatch.setattr("frametx.audio.io.sf.SoundFile", Full)
    with pytest.raises(OSError, match="No space left"):
        separated(Gain(0.5), job)
    assert not job.folder.exists()


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    told: list[tuple[float, float, float]] = []
    options = FileOptions(stems=("vocals",))
    job = Job(song(tmp_path / "x.wav"), tmp_path / "out")
    separate_song(pipeline(Gain(0.5)), job, options, lambda *now: told.append(now))
    assert told[0][0] == 0
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][:2] == (pytest.approx(30_000 / 44_100), pytest.approx(30_000 / 44_100))


def test_the_originals_flaw_is_not_mended_by_rounding(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    one = pipeline(Gain(0.5))
    one.remainder = None  # as of a pipeline whose stems do not sum
    separate_song(one, Job(source, tmp_path / "out"), FileOptions(stems=one.stems))
    mixture, vocals, instrumental = (
        sf.read(path, dtype="int16")[0].astype(int)
        for path in (source, *(tmp_path / "out" / f"{stem}.wav" for stem in one.stems))
    )
    assert np.abs(vocals + instrumental - mixture).max() == 1
