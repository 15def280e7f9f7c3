from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from frametx.data.fingerprint import Fingerprint, find_matches
from frametx.data.library import Library
from frametx.data.survey import examine
from frametx.data.synthetic import music

RATE = 44_100
SONG = Path(__file__).parents[2] / "data/demo/train/instrumental/feelings.ogg"


@pytest.fixture(scope="module")
def song() -> np.ndarray:
    """A minute of real music: what lasts and what changes in it cannot be made up."""
    waveform, rate = soundfile.read(SONG, dtype="float32", frames=60 * RATE)
    assert rate == RATE
    return waveform


def fingerprint(folder: Path, name: str, waveform: np.ndarray, rate: int = RATE) -> Fingerprint:
    folder.mkdir(exist_ok=True)
    channels = 1 if waveform.ndim == 1 else waveform.shape[1]
    with soundfile.SoundFile(folder / name, "w", rate, channels) as file:
        for start in range(0, len(waveform), 65_536):  # libsndfile's Vorbis takes no more at once
            file.write(waveform[start : start + 65_536])
    library = Library.open(folder, role="any", cache_dir=folder.parent / "cache")
    (found,) = [file for file in library.files if file.name == name]
    return examine(found).fingerprint


@pytest.mark.parametrize(
    "change", ["mp3", "ogg", "quieter", "mono", "resampled", "later", "excerpt"]
)
def test_a_recording_is_found_again_after(change: str, song: np.ndarray, tmp_path: Path) -> None:
    changed = {
        "mp3": ("b.mp3", song, RATE),
        "ogg": ("b.ogg", song, RATE),
        "quieter": ("b.wav", 0.1 * song, RATE),
        "mono": ("b.wav", song.mean(axis=1), RATE),
        "resampled": ("b.wav", soxr.resample(song, RATE, 16_000), 16_000),
        "later": ("b.wav", np.concatenate([np.zeros((3 * RATE + 500, 2)), song]), RATE),
        "excerpt": ("b.wav", song[10 * RATE + 1300 : 50 * RATE], RATE),
    }
    original = fingerprint(tmp_path / "songs", "a.wav", song)
    again = fingerprint(tmp_path / "songs", *changed[change])
    (match,) = find_matches([original, again])
    shift_seconds = {"later": -3 - 500 / RATE, "excerpt": 10 + 1300 / RATE}.get(change, 0.0)
    assert (match.first, match.second) == (0, 1)
    assert match.shift_seconds == pytest.approx(shift_seconds, abs=0.08)


def test_other_recordings_do_not_match(song: np.ndarray, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    faster = soxr.resample(song, RATE, round(RATE * 1.2))
    others = [
        0.3 * rng.standard_normal((10 * RATE, 2)),
        np.stack([np.sin(np.arange(10 * RATE) * f) for f in (0.1, 0.11)], axis=1) * 0.5,
        music(10 * RATE, sample_rate=RATE, rng=rng),
        1e-3 + 1e-4 * np.sin(np.arange(20 * RATE).reshape(-1, 2) * 1e-4),  # nearly a constant
        faster,
        song,
    ]
    prints = [fingerprint(tmp_path / "a", f"{n}.wav", other) for n, other in enumerate(others)]
    assert len(prints[5].words) > 50
    assert find_matches(prints) == []


def test_few_words_agree_by_chance_and_are_no_match() -> None:
    rng = np.random.default_rng(0)
    prints = [
        Fingerprint(rng.integers(0, 2**12, 500, dtype=np.uint32), np.arange(500, dtype=np.int32))
        for _ in range(20)
    ]
    assert find_matches(prints) == []
    copy = Fingerprint(prints[3].words[100:200], prints[3].frames[100:200] - 40)
    (match,) = find_matches([*prints, copy])
    assert (match.first, match.second) == (3, 20)
    assert match.shift_seconds == pytest.approx(40 * 2048 / 44_100, abs=0.1)


def test_nothing_matches_nothing() -> None:
    empty = Fingerprint(np.zeros(0, np.uint32), np.zeros(0, np.int32))
    assert find_matches([]) == []
    assert find_matches([empty]) == []
    assert find_matches([empty, empty]) == []
