"""What a dead process left is deleted; what anybody may still need is not."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from frametx import unfinished
from frametx.unfinished import clear_folders, clear_parts, part_beside, temporary_folder


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def made(path: Path, *, age_s: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def part_of(process: int, folder: Path, mark: str | None = None) -> Path:
    _, _, number = part_beside(folder / "x").name.split("-")
    mark = unfinished.machine_mark() if mark is None else mark
    return folder / f".{process:x}-{mark}-{number}"


def test_parts_of_dead_processes_go_and_those_of_living_ones_stay(
    tmp_path: Path, dead: int
) -> None:
    gone = made(part_of(dead, tmp_path))
    own = made(part_beside(tmp_path / "x.wav"))
    parent = made(part_of(os.getppid(), tmp_path))
    below = made(part_of(dead, tmp_path / "below"))
    clear_parts([tmp_path, tmp_path / "nowhere"])
    assert not gone.exists()
    assert own.exists()
    assert parent.exists()
    assert below.exists()
    clear_parts([below.parent])
    assert not below.exists()


def test_an_earlier_process_of_our_own_number_is_dead(tmp_path: Path) -> None:
    before = made(part_beside(tmp_path / "x"), age_s=time.time() - unfinished.STARTED + 60)
    clear_parts([tmp_path])
    assert not before.exists()


def test_other_machines_and_older_versions_are_given_a_week(tmp_path: Path, dead: int) -> None:
    day = 24 * 3600
    foreign = made(part_of(dead, tmp_path, "000000"), age_s=day)
    older = made(tmp_path / f".{dead:x}-0123abcd.part", age_s=day)
    forgotten = made(part_of(dead, tmp_path, "000001"), age_s=8 * day)
    clear_parts([tmp_path])
    assert foreign.exists()
    assert older.exists()
    assert not forgotten.exists()


def test_files_of_the_user_stay_whatever_their_age(tmp_path: Path, dead: int) -> None:
    mark = unfinished.machine_mark()
    names = [
        *("song.part", ".part", f".{dead:x}.part", f".{dead:x}-{mark}.part", f"{dead:x}-{mark}"),
        *(f".{dead:x}-{mark}-0123abcd.wav", f".{dead:x}-{mark}-0123abcd.part.bak", ".-x-y.part"),
        f".xyz-{mark}-0123abcd.part",
    ]
    for name in names:
        made(tmp_path / name, age_s=1e8)
    folder = part_of(dead, tmp_path)
    folder.mkdir()
    made(folder / "mine.txt")
    clear_parts([tmp_path])
    assert {path.name for path in tmp_path.iterdir()} == {*names, folder.name}
    assert (folder / "mine.txt").exists()


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path: Path, dead: int) -> None:
    target = made(tmp_path / "mine.wav")
    link = part_of(dead, tmp_path)
    link.symlink_to(target)
    clear_parts([tmp_path])
    assert target.exists()


def test_temporary_folders_of_dead_processes_go(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as living, temporary_folder("app-") as page:
        names = [Path(folder).name for folder in (living, page)]
        for name in names:
            gone = name.replace(f"{os.getpid():x}-", f"{dead:x}-", 1)
            made(tmp_path / gone / "stems" / "x.wav")
        made(tmp_path / "frametx-mine" / "x.wav", age_s=1e8)
        made(tmp_path / "frametx-testdata" / "x.wav", age_s=1e8)
        clear_folders()
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {*names, "frametx-mine", "frametx-testdata"}
    assert not Path(living).exists()
