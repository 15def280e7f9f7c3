"""Speech that sings: the pitch asked for, no sample too many, the same bits every time."""

import re
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.data.corpora import __main__ as command
from frametx.data.corpora import plan
from frametx.data.corpora.catalogue import CATALOGUE, Speaker, speakers_of
from frametx.data.corpora.melody import FRAME_SECONDS, draw_key
from frametx.data.corpora.singers import (
    build_singing,
    missing_seconds,
    singing_files,
    wanted_seconds,
)
from frametx.data.corpora.singing import (
    Analysis,
    analyse,
    have_world,
    median_f0_hz,
    sing,
    sing_phrase,
    split_phrases,
    split_stretches,
    time_map,
)
from frametx.data.corpora.voices import active_level_dbfs

RATE = 16_000
PACKAGE = "festvox-ru"
needs_world = pytest.mark.skipif(not have_world(), reason="pyworld is not installed")


def spoken(seed: int = 0, *, pitch_hz: float = 130.0, seconds: float = 1.2) -> np.ndarray:
    """Something like a word or two: vowels of falling pitch with a hiss between them."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1.1 - 0.2 * time_s / seconds)) / RATE
    vowel = sum(np.sin(number * phase) / number for number in range(1, 25))
    loudness = 0.55 + 0.45 * np.cos(2 * np.pi * time_s / 0.22)  # syllables
    is_hiss = np.abs(time_s - seconds / 2) < 0.06
    speech = np.where(is_hiss, 0.3 * rng.standard_normal(len(time_s)), vowel * loudness)
    ends = np.minimum(1, np.minimum(time_s, seconds - time_s) / 0.02)
    return (0.1 * ends * speech).astype(np.float32)


def noise(seconds: float) -> np.ndarray:
    samples = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return (0.1 * samples).astype(np.float32)


def joined(*phrases: np.ndarray) -> np.ndarray:
    gap = np.zeros(RATE // 4, dtype=np.float32)
    return np.concatenate([part for phrase in phrases for part in (phrase, gap)])


def test_phrases_are_what_lies_between_silences() -> None:
    speech = [spoken(0), spoken(1, seconds=0.8), spoken(2, seconds=2.0)]
    phrases = list(split_phrases(joined(*speech, spoken(3, seconds=0.2)), RATE))
    assert len(phrases) == 3  # the last is too short
    for phrase, said in zip(phrases, speech, strict=True):
        assert len(phrase) == pytest.approx(len(said), abs=0.04 * RATE)
    assert not list(split_phrases(np.zeros(RATE, dtype=np.float32), RATE))
    assert not list(split_phrases(np.zeros(0, dtype=np.float32), RATE))


def test_stretches_cover_the_phrase_and_long_ones_are_cut_where_it_is_soft() -> None:
    f0_hz = np.zeros(300)
    f0_hz[20:140] = 120.0  # three syllables of 0.2 s
    f0_hz[200:205] = 120.0  # 25 ms: too short for a note
    energy = np.ones(300)
    energy[[62, 97]] = 0.1
    analysis = Analysis(f0_hz=f0_hz, envelope=energy[:, None], aperiodicity=np.zeros((300, 1)))
    stretches = split_stretches(analysis)
    assert [stretch.start for stretch in stretches] == [0, 20, 62, 97, 140]
    assert [stretch.stop for stretch in stretches] == [20, 62, 97, 140, 300]
    assert [stretch.is_voiced for stretch in stretches] == [False, True, True, True, False]


@pytest.mark.parametrize(("spoken_frames", "sung_frames"), [(8, 40), (40, 41), (60, 40), (40, 400)])
def test_time_never_turns_back_and_ends_keep_their_pace(
    spoken_frames: int, sung_frames: int
) -> None:
    places = time_map(spoken_frames, sung_frames)
    assert len(places) == sung_frames
    assert (places[0], places[-1]) == (0, spoken_frames - 1)
    assert (np.diff(places) > 0).all()
    np.testing.assert_allclose(np.diff(places)[:2], 1)
    np.testing.assert_allclose(np.diff(places)[-2:], 1)


@needs_world
@pytest.mark.parametrize("pitch_hz", [110.0, 220.0])
def test_the_pitch_that_is_sung_is_the_one_asked_for(pitch_hz: float) -> None:
    rng = np.random.default_rng(3)
    key = draw_key(pitch_hz, rng)
    sung = sing_phrase(spoken(pitch_hz=pitch_hz), RATE, key, rng)
    heard_hz = analyse(sung.waveform, RATE).f0_hz[: len(sung.f0_hz)]
    asked_hz = sung.f0_hz[: len(heard_hz)]
    both = (heard_hz > 0) & (asked_hz > 0)
    assert both.sum() > 0.8 * (asked_hz > 0).sum()
    cents = 1200 * np.abs(np.log2(heard_hz[both] / asked_hz[both]))
    assert (cents < 50).mean() > 0.9
    assert sung.last_pitch in key.pitches


@needs_world
def test_a_sung_phrase_lasts_as_long_as_its_notes_and_what_is_unvoiced() -> None:
    phrase = spoken()
    key = draw_key(130, np.random.default_rng(0))
    sung = sing_phrase(phrase, RATE, key, np.random.default_rng(1))
    assert len(sung.waveform) == round(len(sung.f0_hz) * FRAME_SECONDS * RATE)
    assert np.isfinite(sung.waveform).all()
    stretches = split_stretches(analyse(phrase, RATE))
    unvoiced = sum(stretch.num_frames for stretch in stretches if not stretch.is_voiced)
    assert (sung.f0_hz == 0).sum() == unvoiced
    assert (sung.f0_hz > 0).sum() > sum(s.num_frames for s in stretches if s.is_voiced)


@needs_world
def test_singing_is_the_same_to_the_bit_has_its_level_and_does_not_clip() -> None:
    speech = joined(spoken(0), spoken(1, seconds=0.8), noise(0.5))
    first, second = (
        list(sing(speech, RATE, np.random.default_rng(5), median_hz=130)) for _ in range(2)
    )
    assert len(first) == 2  # noise has no note
    for phrase, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(phrase, again)
        assert np.isfinite(phrase).all()
        assert np.abs(phrase).max() <= 0.951
        assert active_level_dbfs(phrase, RATE) == pytest.approx(-20, abs=0.5)
        assert not phrase[-RATE // 10 :].any()  # a rest of a fifth of a second at least


@needs_world
def test_silence_and_noise_are_refused() -> None:
    key, rng = draw_key(130, np.random.default_rng(0)), np.random.default_rng(0)
    for speech in (np.zeros(RATE, dtype=np.float32), noise(1.0)):
        with pytest.raises(ValueError, match="nothing voiced to sing"):
            median_f0_hz(speech, RATE)
        with pytest.raises(ValueError, match="nothing voiced to sing"):
            sing_phrase(speech, RATE, key, rng)


def test_everybody_sings_long_enough() -> None:
    speakers = speakers_of(CATALOGUE)
    splits = [speaker.split for speaker in speakers]
    assert splits == sorted(splits, key=lambda split: split == "train")  # those held out first
    singing = [speaker for speaker in speakers if speaker.split == "train"]
    assert sum(map(wanted_seconds, singing)) >= 60 * 60
    assert min(map(wanted_seconds, singing)) >= 3 * 60


def speaker_with_files(output: Path, *files: np.ndarray) -> Speaker:
    speaker = Speaker(name="somebody", split="train", pattern="*.wav", sample_rate=RATE)
    folder = output / "train" / "vocals"
    folder.mkdir(parents=True)
    for number, samples in enumerate(files, start=1):
        soundfile.write(folder / f"somebody_{number:02d}.flac", samples, RATE)
    return speaker


@needs_world
def test_an_interrupted_file_is_sung_anew_and_finished_ones_are_kept(tmp_path: Path) -> None:
    speech = joined(spoken(0), spoken(1, seconds=0.9))
    speaker = speaker_with_files(tmp_path, speech, speech)
    assert missing_seconds(speaker, tmp_path) == wanted_seconds(speaker)
    stopped = build_singing(speaker, tmp_path)
    next(stopped)
    stopped.close()
    assert not singing_files(speaker, tmp_path)
    seconds = sum(build_singing(speaker, tmp_path))
    first, second = singing_files(speaker, tmp_path)
    assert first.name == "synthetic_singing_somebody_01.flac"
    assert first.read_bytes() != second.read_bytes()  # the same speech, another melody
    total = sum(soundfile.info(path).duration for path in (first, second))
    assert total == pytest.approx(seconds)
    assert missing_seconds(speaker, tmp_path) == 0
    content, inode = first.read_bytes(), second.stat().st_ino
    first.unlink()
    list(build_singing(speaker, tmp_path))
    assert first.read_bytes() == content
    assert second.stat().st_ino == inode
    assert not list(build_singing(speaker, tmp_path))


@needs_world
def test_nobody_sings_longer_than_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frametx.data.corpora.singers.NARROW_BAND_SECONDS", 4.0)
    speech = joined(*(spoken(seed, seconds=0.6) for seed in range(8)))
    speaker = speaker_with_files(tmp_path, speech, speech)
    parts = list(build_singing(speaker, tmp_path))
    assert 4.0 <= sum(parts) < 4.0 + parts[-1]
    assert len(singing_files(speaker, tmp_path)) == 1
    assert missing_seconds(speaker, tmp_path) == 0
    assert not list(build_singing(speaker, tmp_path))


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command for one package, which is unpacked already."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        (tools / name).write_text("#!/bin/false\n")
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tools))
    folder = tmp_path / "cache" / PACKAGE
    statement = folder / "usr" / "share" / "doc" / PACKAGE / "copyright"
    statement.parent.mkdir(parents=True)
    statement.write_text("Copyright: nobody")
    (folder / "VERSION").write_text("1\n")
    return [f"output={tmp_path / 'out'}", f"cache={tmp_path / 'cache'}", f"only={PACKAGE}"]


def fill(tmp_path: Path, *clips: np.ndarray) -> None:
    for number, clip in enumerate(clips):
        soundfile.write(tmp_path / "cache" / PACKAGE / f"{number}.wav", clip, RATE)


@needs_world
def test_the_command_lets_a_package_sing_credits_it_and_does_so_once(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, *(spoken(seed) for seed in range(3)))
    assert command.main(arguments) == 0
    assert re.search(r"synthetic singing .* s ", capsys.readouterr().err)
    path = tmp_path / "out" / "train" / "singing" / "synthetic_singing_festvox_ru_01.flac"
    singing, sample_rate = soundfile.read(path, dtype="float32")
    assert (singing.ndim, sample_rate) == (1, RATE)
    assert len(singing) > 3 * RATE
    assert active_level_dbfs(singing, RATE) == pytest.approx(-20, abs=0.5)
    rows = (tmp_path / "out" / "CREDITS.md").read_text().splitlines()
    (row,) = (row for row in rows if "synthetic_singing_festvox_ru_*.flac (synthetic" in row)
    assert row.endswith(f"| Nickolay V. Shmyrev | {PACKAGE} | 1 | BSD-like |")
    inode = path.stat().st_ino
    assert command.main(arguments) == 0
    assert path.stat().st_ino == inode


@needs_world
def test_a_package_without_a_voice_is_named(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, noise(1.0), noise(1.5))
    assert command.main(arguments) == 1
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "nothing to sing" in text)
    assert "festvox_ru_01.flac" in line
    assert not (tmp_path / "out" / "train" / "singing").exists()


def test_without_world_the_rest_is_built_and_one_line_says_how_to_get_it(
    tmp_path: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (command, plan):
        monkeypatch.setattr(module, "have_world", lambda: False)
    fill(tmp_path, spoken())
    assert command.main(arguments) == 1
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "pyworld" in text)
    assert "uv pip install" in line
    assert (tmp_path / "out" / "train" / "vocals" / "festvox_ru_01.flac").is_file()
    assert (tmp_path / "out" / "CREDITS.md").is_file()
    assert not (tmp_path / "out" / "train" / "singing").exists()
