import os
import shutil
import sqlite3
import time
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.data.files import Folder
from frametx.data.index import Index
from frametx.data.library import Library, Weighting

RATE = 8_000


def write_tone(path: Path, seconds: float = 0.5, *, rate: int = RATE, channels: int = 1) -> Path:
    time_s = np.arange(round(seconds * rate)) / rate
    tone = np.repeat(0.5 * np.sin(2 * np.pi * 440 * time_s)[:, None], channels, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone, rate)
    return path


def open_library(root: Path, **options) -> Library:
    return Library.open(root, role="vocals", cache_dir=root.parent / "cache", **options)


def index_file(root: Path) -> Path:
    (path,) = (root.parent / "cache").glob("library-*.sqlite")
    return path


def count_checks(root: Path) -> tuple[Library, int]:
    checked = []
    library = open_library(root, progress=lambda done, total: checked.append((done, total)))
    assert checked == [(number, len(checked)) for number in range(1, len(checked) + 1)]
    return library, len(checked)


def test_every_format_rate_and_channel_count_is_found_at_any_depth(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    write_tone(root / "b.wav", 0.5)
    write_tone(root / "a" / "deep" / "c.FLAC", 1.0, rate=48_000, channels=2)
    write_tone(root / "a" / "d.ogg", 1.5, rate=44_100, channels=2)
    write_tone(root / "e.Mp3", 2.0, rate=44_100)
    write_tone(root / ".hidden.wav")
    (root / "cover.txt").write_text("not audio, and not called so")
    library = open_library(root)
    assert [file.name for file in library.files] == ["a/d.ogg", "a/deep/c.FLAC", "b.wav", "e.Mp3"]
    assert library.rejected == ()
    assert library.total_seconds == pytest.approx(5.0, abs=0.1)
    assert [file.num_channels for file in library.files] == [2, 2, 1, 1]
    assert library.files[1].num_samples == 48_000
    assert library.files[1].num_samples_at(16_000) == 16_000


def test_bad_files_are_left_out_with_their_reason(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    write_tone(root / "good.wav")
    (root / "text.wav").write_text("this is no audio")
    (root / "empty.flac").write_bytes(b"")
    soundfile.write(root / "no_samples.wav", np.zeros((0, 2)), RATE)
    soundfile.write(root / "silent.wav", np.full(RATE, 3e-5), RATE, subtype="FLOAT")
    broken = np.full(RATE, 0.1)
    broken[RATE // 2] = np.nan
    soundfile.write(root / "nan.wav", broken, RATE, subtype="FLOAT")
    for suffix in ("wav", "flac"):
        whole = write_tone(tmp_path / f"whole.{suffix}", 2).read_bytes()
        (root / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    library = open_library(root)
    reasons = {file.name: file.reason for file in library.rejected}
    assert [file.name for file in library.files] == ["good.wav"]
    assert set(reasons) == {
        "text.wav", "empty.flac", "no_samples.wav", "silent.wav", "nan.wav", "cut.wav", "cut.flac",
    }  # fmt: skip
    assert all(reason and "\n" not in reason for reason in reasons.values())
    assert str(root) not in " ".join(reasons.values())
    assert "no samples" in reasons["no_samples.wav"]
    assert "silent" in reasons["silent.wav"]
    assert "0.500 s" in reasons["nan.wav"]
    assert "cut short" in reasons["cut.wav"]


def test_a_library_without_a_usable_file_says_why(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    root.mkdir()
    with pytest.raises(ValueError, match=r"vocals: no \.wav, .* file in .*songs"):
        open_library(root)
    for number in range(5):
        (root / f"{number}.wav").write_text("text")
    with pytest.raises(ValueError, match=r"none of the 5 files .* 0\.wav .*; and 2 more"):
        open_library(root)


def test_a_missing_folder_is_named_with_its_role(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vocals: .*nowhere does not exist; give a folder"):
        open_library(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"tone\.wav is not a folder"):
        open_library(write_tone(tmp_path / "tone.wav"))


def test_a_cache_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_tone(tmp_path / "songs" / "tone.wav")
    Library.open(tmp_path / "songs", role="vocals", cache_dir="~/cache")
    assert len([*(tmp_path / "cache").glob("library-*.sqlite")]) == 1
    assert not (tmp_path / "~").exists()


def test_a_second_opening_decodes_nothing_and_gives_the_same(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    for number in range(3):
        write_tone(root / f"{number}.wav")
    (root / "bad.wav").write_text("text")
    first, checked = count_checks(root)
    assert checked == 4
    again, checked = count_checks(root)
    assert checked == 0
    assert again == first


def test_only_changed_files_are_decoded_again_and_removed_ones_are_forgotten(
    tmp_path: Path,
) -> None:
    root = tmp_path / "songs"
    for number in range(3):
        write_tone(root / f"{number}.wav")
    before = open_library(root)
    write_tone(root / "1.wav", 0.75)
    (root / "2.wav").unlink()
    write_tone(root / "3.wav")
    after, checked = count_checks(root)
    assert checked == 2
    assert [file.name for file in after.files] == ["0.wav", "1.wav", "3.wav"]
    assert after.files[1].num_samples == 0.75 * RATE
    assert after.fingerprint != before.fingerprint
    with closing(sqlite3.connect(index_file(root))) as index:
        names = [Path(path).name for (path,) in index.execute("SELECT path FROM files")]
    assert sorted(names) == ["0.wav", "1.wav", "3.wav"]


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "zeroed", "no table"])
def test_a_damaged_index_is_rebuilt(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "songs"
    for number in range(40):  # more than a page of the database
        write_tone(root / f"{number:0100d}.wav", 0.01)
    first = open_library(root)
    path = index_file(root)
    whole = path.read_bytes()
    if damage == "no table":
        with closing(sqlite3.connect(path)) as index, index:
            index.execute("DROP TABLE files")
    else:
        half = len(whole) // 2
        zeroed = whole[:4096] + bytes(len(whole) - 4096)
        contents = {"empty": b"", "text": b"{}" * 999, "cut": whole[:half], "zeroed": zeroed}
        path.write_bytes(contents[damage])
    assert open_library(root) == first
    assert count_checks(root) == (first, 0)
    assert damage in ("empty",) or "is damaged" in caplog.text
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".sqlite"]


@pytest.mark.parametrize(
    "change", ["num_samples = 7", "peak = NULL", "loudness = X'00'", "reason = 'no'"]
)
def test_an_entry_that_was_tampered_with_is_learnt_again(tmp_path: Path, change: str) -> None:
    root = tmp_path / "songs"
    for number in range(3):
        write_tone(root / f"{number}.wav")
    first = open_library(root)
    with closing(sqlite3.connect(index_file(root))) as index, index:
        index.execute(f"UPDATE files SET {change} WHERE path LIKE '%1.wav'")
    assert count_checks(root) == (first, 1)


def test_an_index_that_cannot_be_kept_says_so(tmp_path: Path) -> None:
    write_tone(tmp_path / "songs" / "a.wav")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cache"):
        open_library(tmp_path / "songs")


def test_stopping_halfway_keeps_what_was_learnt(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    for number in range(12):
        write_tone(root / f"{number}.wav")

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_library(root, progress=stop)
    library, checked = count_checks(root)
    assert checked == 7
    assert len(library.files) == 12


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_looked_at_again(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    write_tone(root / "a.wav")
    locked = write_tone(root / "b.wav")
    locked.chmod(0)
    assert "ermission" in open_library(root).rejected[0].reason
    locked.chmod(0o600)
    assert open_library(root).rejected == ()


def test_a_moved_library_keeps_its_fingerprint_and_its_split(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    for number in range(8):
        write_tone(root / f"{number}.wav")
    here = open_library(root)
    there = open_library(Path(shutil.copytree(root, tmp_path / "elsewhere" / "songs")))
    assert there.fingerprint == here.fingerprint
    for mine, theirs in zip(here.split(0.3), there.split(0.3), strict=True):
        assert [file.name for file in mine.files] == [file.name for file in theirs.files]


def test_several_roots_and_excluded_patterns(tmp_path: Path) -> None:
    for name in ("one/a.wav", "one/live/b.wav", "two/a.wav"):
        write_tone(tmp_path / name)
    roots = [tmp_path / "one", str(tmp_path / "two"), tmp_path / "one"]
    library = Library.open(roots, role="v", cache_dir=tmp_path / "cache", exclude=["live/*"])
    assert [file.path.parent.name for file in library.files] == ["one", "two"]
    alone = Library.open(roots[1], role="v", cache_dir=tmp_path / "cache", exclude="*b.wav")
    assert [file.name for file in alone.files] == ["a.wav"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    write_tone(root / "a.wav")
    (root / "again").symlink_to(root)
    (root / "dead.wav").symlink_to(root / "nowhere.wav")
    write_tone(tmp_path / "other" / "b.wav")
    (root / "linked").symlink_to(tmp_path / "other")
    assert [file.name for file in open_library(root).files] == ["a.wav", "linked/b.wav"]


def test_a_split_divides_and_keeps_sides_when_files_come(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    source = write_tone(root / "0.wav", 0.05)
    for number in range(1, 60):
        shutil.copy(source, root / f"{number}.wav")
    train, held_out = open_library(root).split(0.25)
    assert {*train.files} | {*held_out.files} == {*open_library(root).files}
    assert not {*train.files} & {*held_out.files}
    assert 5 <= len(held_out.files) <= 25
    for number in range(60, 90):
        shutil.copy(source, root / f"{number}.wav")
    later_train, later_held_out = open_library(root).split(0.25)
    assert {*train.files} <= {*later_train.files}
    assert {*held_out.files} <= {*later_held_out.files}


def test_a_split_leaves_no_side_empty(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    write_tone(root / "a.wav")
    with pytest.raises(ValueError, match=r"a single file \(a\.wav\) cannot be divided"):
        open_library(root).split(0.1)
    write_tone(root / "b.wav")
    for share in (0.001, 0.5, 0.999):
        train, held_out = open_library(root).split(share)
        assert (len(train.files), len(held_out.files)) == (1, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        open_library(root).split(1.0)


@pytest.mark.slow
def test_twenty_thousand_files_are_listed_in_seconds(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    for number in range(200):
        (root / f"artist_{number:03d}").mkdir(parents=True)
    paths = [root / f"artist_{n % 200:03d}" / f"{n:05d}.flac" for n in range(20_000)]
    for path in paths:
        path.touch()
    source = Folder(root)
    index = Index(tmp_path / "cache", [source])
    found = [(0, file, source) for file in source.scan()]
    loudness = bytes(range(60, 120)) * 40  # four minutes
    index._save(
        [
            (str(file.path), file.size, file.mtime_ns, 10_584_000, 44_100, 2, 0.9, loudness, None)
            for _, file, _ in found
        ]
    )
    tracemalloc.start()
    began = time.monotonic()
    library, checked = count_checks(root)
    elapsed, (_, peak_bytes) = time.monotonic() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(library.files), checked) == (20_000, 0)
    assert library.files[777].loudness == loudness
    assert library.total_seconds == 20_000 * 240
    assert elapsed < 300  # 2.3 s where memory is not traced, on a busy machine of two processors
    assert peak_bytes < 20_000 * (len(loudness) + 3_000)


def test_files_below_the_floor_are_rejected_and_come_back_without_it(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    write_tone(root / "loud.wav")
    noise = 1e-3 * np.random.default_rng(0).standard_normal(RATE)
    soundfile.write(root / "quiet.wav", noise, RATE, subtype="FLOAT")
    library = open_library(root, min_loudness_db=-50)
    assert [file.name for file in library.files] == ["loud.wav"]
    (rejected,) = library.rejected
    assert rejected.name == "quiet.wav"
    assert "is silent below -50 dBFS: its loudest 0.1 s has -" in rejected.reason
    assert len(open_library(root).files) == 2
    assert len(open_library(root, min_loudness_db=-70).files) == 2


def shares_of(library: Library) -> dict[str, float]:
    sampler = library.sampler(sample_rate=RATE, seed=0, stream="v")
    names = [library.files[sampler.draw(n, 100).file].name for n in range(4_000)]
    return {name: names.count(name) / len(names) for name in dict.fromkeys(names)}


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("seconds", (0.4, 0.2, 0.2, 0.2)),
        ("files", (1 / 4, 1 / 4, 1 / 4, 1 / 4)),
        ("folder", (2 / 9, 1 / 9, 1 / 3, 1 / 3)),
        ("library", (1 / 4, 1 / 8, 1 / 8, 1 / 2)),
    ],
)
def test_what_is_equally_likely_can_be_chosen(
    tmp_path: Path, weighting: Weighting, expected: tuple[float, ...]
) -> None:
    seconds = {"a/ann/1.wav": 1.0, "a/ann/2.wav": 0.5, "a/bob/deep/3.wav": 0.5, "b/4.wav": 0.5}
    for name, length in seconds.items():
        write_tone(tmp_path / name, length)
    roots = [tmp_path / "a", tmp_path / "b"]
    library = Library.open(roots, role="v", cache_dir=tmp_path / "c", weighting=weighting)
    found = shares_of(library)
    names = [name.partition("/")[2] for name in seconds]
    assert tuple(found[name] for name in names) == pytest.approx(expected, abs=0.03)


def test_a_root_of_weight_three_is_drawn_three_times_as_often(tmp_path: Path) -> None:
    for name in ("a/1.wav", "b/2.wav"):
        write_tone(tmp_path / name)
    roots = [{"root": str(tmp_path / "a"), "weight": 3}, str(tmp_path / "b")]
    library = Library.open(roots, role="v", cache_dir=tmp_path / "c", min_loudness_db=-50)
    assert shares_of(library) == pytest.approx({"1.wav": 0.75, "2.wav": 0.25}, abs=0.03)
    assert library.rules.root_weights == (3.0, 1.0)


def test_bad_rules_say_what_is_right(tmp_path: Path) -> None:
    write_tone(tmp_path / "a" / "1.wav")
    with pytest.raises(ValueError, match="must be one of seconds, files, folder, library"):
        open_library(tmp_path / "a", weighting="songs")
    with pytest.raises(ValueError, match="must not be negative"):
        Library.open({"root": tmp_path / "a", "weight": -1}, role="v", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="must have the keys root and, if wanted, weight"):
        Library.open({"roots": tmp_path / "a"}, role="v", cache_dir=tmp_path)
