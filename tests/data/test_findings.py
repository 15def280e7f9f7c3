from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from frametx.data.findings import (
    KINDS,
    Finding,
    Limits,
    Part,
    find_all,
    group_of,
    kind_of_rejection,
    shared_folders,
)
from frametx.data.library import Library
from frametx.data.survey import FactsCache, survey

RATE = 44_100


def noise(seconds: float = 1.0, *, seed: int = 0, rate: int = RATE) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), 2))


def write(path: Path, waveform: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, subtype=subtype)
    return path


def part(root: Path, split: str = "train", role: str = "vocals") -> Part:
    library = Library.open(root, role=role, cache_dir=root.parent / "cache")
    return Part(split, role, library.files, library.rejected)


def findings(*parts: Part, limits: Limits | None = None) -> dict[str, dict[str, str]]:
    """Reason by kind by file name."""
    files = [file for one in parts for file in one.files]
    cache_dir = files[0].path.parents[1] / "cache"
    with FactsCache(cache_dir / "survey.sqlite") as cache:
        facts = survey(files, cache=cache)
    found: dict[str, dict[str, str]] = {}
    for finding in find_all(parts, facts, limits or Limits()):
        assert finding.kind in KINDS
        found.setdefault(finding.path.name, {})[finding.kind] = finding.reason
    return found


def test_each_fault_is_found_and_a_good_file_has_none(tmp_path: Path) -> None:
    root = tmp_path / "vocals"
    fade = np.linspace(1, 0, RATE)[:, None]
    write(root / "good.wav", noise(seed=0) * fade)
    write(root / "loud_end.wav", noise(seed=1))
    write(root / "clipped.wav", (40 * noise(seed=2)).clip(-1, 1) * (fade > 0.1))
    left = (noise(seed=3) * fade)[:, :1]
    write(root / "mono.wav", np.repeat(left, 2, axis=1))
    write(root / "narrow.wav", soxr.resample(noise(seed=4, rate=16_000), 16_000, RATE) * fade)
    write(root / "quiet.wav", 0.003 * noise(seed=5))
    write(root / "silent.wav", 0 * noise())
    broken = noise(seed=6)
    broken[100, 1] = np.inf
    write(root / "infinite.wav", broken)
    whole = write(tmp_path / "whole.wav", noise(seed=7)).read_bytes()
    (root / "cut.wav").write_bytes(whole[: len(whole) // 2])
    write(root / "empty.wav", np.zeros((0, 2)))
    (root / "text.wav").write_text("this is no audio")
    found = findings(part(root))
    assert {name: set(kinds) for name, kinds in found.items()} == {
        "loud_end.wav": {"abrupt_end"},
        "clipped.wav": {"clipped"},
        "mono.wav": {"mono"},
        "narrow.wav": {"band_limited"},
        "quiet.wav": {"silent"},
        "silent.wav": {"silent"},
        "infinite.wav": {"non_finite"},
        "cut.wav": {"truncated"},
        "empty.wav": {"empty"},
        "text.wav": {"unreadable"},
    }
    assert (
        "8." in found["narrow.wav"]["band_limited"] or "7." in found["narrow.wav"]["band_limited"]
    )


def test_every_limit_decides(tmp_path: Path) -> None:
    root = tmp_path / "vocals"
    write(root / "a.wav", (12 * noise()).clip(-1, 1))
    write(root / "b.wav", noise(seed=1) * np.linspace(1, 0, RATE)[:, None])
    assert set(findings(part(root))["a.wav"]) == {"clipped", "abrupt_end"}
    relaxed = Limits(clipped_share=0.9, end_db=20)
    assert findings(part(root), limits=relaxed) == {}
    severe = Limits(silent_db=0, clipped_share=0, mono_db=0, cliff_db=0, end_db=-200)
    assert set(findings(part(root), limits=severe)) == {"a.wav", "b.wav"}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("is silent from end to end: its peak is 0.0e+00", "silent"),
        ("is silent below -50 dBFS: its loudest 0.1 s has -60 dBFS", "silent"),
        ("cut short, 400 bytes of its samples are missing", "truncated"),
        ("cannot be decoded after sample 0: damaged or cut short", "truncated"),
        ("holds no samples", "empty"),
        ("is empty", "empty"),
        ("sample 4 (0.1 s) of channel 0 is nan: repair the file", "non_finite"),
        ("sample 4 (0.1 s) of channel 0 is -inf: repair the file", "non_finite"),
        ("is not audio that can be read: Format not recognised.", "unreadable"),
    ],
)
def test_reasons_of_the_index_have_their_kinds(reason: str, kind: str) -> None:
    assert kind_of_rejection(reason) == kind


def test_of_copies_the_best_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "vocals"
    steps = np.round(noise() * 32_767).astype(np.int16)
    for name in ("b.wav", "a/b.flac", "c.wav"):
        write(root / name, steps, subtype="PCM_16")
    write(root / "other.wav", noise(seed=1))
    found = findings(part(root), limits=Limits(end_db=100))
    assert {name: set(kinds) for name, kinds in found.items()} == {
        "b.wav": {"duplicate"}, "c.wav": {"duplicate"},
    }  # fmt: skip
    assert "the same samples as" in found["b.wav"]["duplicate"]
    assert "b.flac" in found["c.wav"]["duplicate"]


def test_a_recording_on_both_sides_is_taken_from_training(tmp_path: Path) -> None:
    for name in ("train/a.wav", "train/b.wav", "validation/x.wav", "validation/x2.wav"):
        write(tmp_path / name, noise(seed=int(name.endswith("b.wav"))))
    train, held = part(tmp_path / "train"), part(tmp_path / "validation", "validation")
    found = findings(train, held, limits=Limits(end_db=100))
    assert {name: set(kinds) for name, kinds in found.items()} == {
        "a.wav": {"shared"}, "x2.wav": {"duplicate"},
    }  # fmt: skip
    assert "validation vocals" in found["a.wav"]["shared"]


def test_a_file_in_two_roles_is_told_in_both(tmp_path: Path) -> None:
    write(tmp_path / "vocals" / "v.wav", noise())
    write(tmp_path / "music" / "m.wav", noise())
    write(tmp_path / "music" / "n.wav", noise(seed=1))
    parts = [part(tmp_path / "vocals"), part(tmp_path / "music", role="instrumental")]
    found = findings(*parts, limits=Limits(end_db=100))
    assert {name: set(kinds) for name, kinds in found.items()} == {
        "v.wav": {"both_roles"}, "m.wav": {"both_roles"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("speaker 1/a.wav", "speaker 1"),
        ("Artist - Song/vocals.wav", "Artist"),
        ("Artist - Song.wav", "Artist"),
        ("deep/er/a.wav", "deep"),
        ("song.wav", None),
        ("hy-phen.wav", None),
    ],
)
def test_names_tell_the_artist(name: str, group: str | None) -> None:
    assert group_of(name) == group


def test_artists_on_both_sides_are_told(tmp_path: Path) -> None:
    for name in ("train/Ann - a.wav", "train/Bob/b.wav", "train/c.wav", "held/ann/x.wav"):
        write(tmp_path / name, noise(0.1))
    train, held = part(tmp_path / "train"), part(tmp_path / "held", "validation")
    (finding,) = shared_folders([train, held])
    assert isinstance(finding, Finding)
    assert finding.path.name == "Ann - a.wav"
    assert "validation vocals" in finding.reason
    assert shared_folders([train, part(tmp_path / "held", "validation", "music")]) == []
