"""A disk that is full at any step: the song fails in one line, and leaves nothing."""

import errno
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutagen.flac
import mutagen.id3
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from frametx.audio.tags import Tags, write_tags

PROFILE = settings.get_profile("bad_input")
STEPS: dict[str, tuple[Any, str]] = {
    "folder": (Path, "mkdir"),
    "touch": (Path, "touch"),
    "open": (sf.SoundFile, "__init__"),
    "write": (sf.SoundFile, "write"),
    "close": (sf.SoundFile, "close"),
    "tags": (mutagen.flac.FLAC, "save"),
    "tags of wav": (mutagen.id3.ID3, "save"),
    "rename": (Path, "replace"),
    "copy": (shutil, "copyfile"),
}


def song(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal((3_000, 2)) * 0.3
    sf.write(path, noise.clip(-1, 1), 8_000, subtype="PCM_16")
    write_tags(path, Tags(text={"title": "x"}))
    return path


class FullDisk:
    """Lets a step go through some times below a folder, fails a few times, and then works again."""

    def __init__(self, folder: Path, *, first: int, times: int, code: int) -> None:
        self.folder = folder
        self.first, self.times, self.code = first, times, code
        self.num_seen = self.num_failed = 0

    def around(self, step: Callable[..., Any], name: str) -> Callable[..., Any]:
        def tried(*args: Any, **kwargs: Any) -> Any:
            is_open = not (name == "close" and args[0].closed)
            if is_open and any(self._is_below(arg) for arg in args):
                self.num_seen += 1
                if self.first < self.num_seen <= self.first + self.times:
                    self.num_failed += 1
                    if name == "close":
                        step(*args)  # what was not written is lost, but the file is closed
                    if name == "__init__":
                        args[0]._file = None
                    raise OSError(self.code, "No space left on device")
            return step(*args, **kwargs)

        return tried

    def _is_below(self, argument: Any) -> bool:
        name = getattr(argument, "name", None) if isinstance(argument, sf.SoundFile) else argument
        if isinstance(argument, mutagen.flac.FLAC | mutagen.id3.ID3):
            name = argument.filename
        if isinstance(name, bytes):
            name = name.decode()
        return isinstance(name, str | Path) and Path(name).is_relative_to(self.folder)


@settings(PROFILE, max_examples=80)
@given(
    step=st.sampled_from(sorted(STEPS)),
    first=st.integers(0, 8),
    times=st.integers(1, 4),
    code=st.sampled_from([errno.ENOSPC, errno.EIO, errno.EDQUOT]),
    clipping=st.sampled_from(["float", "scale", "clip"]),
    format=st.sampled_from(["same", "wav", "mp3", "ogg"]),
    member=st.sampled_from(["quiet", "loud"]),
    is_listed=st.booleans(),
)
def test_a_disk_that_fills_at_any_step_costs_only_songs(
    separated: Any,
    step: str,
    first: int,
    times: int,
    code: int,
    clipping: str,
    format: str,
    member: str,
    is_listed: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        names = ["a.flac", "b.wav", "c.flac"]
        songs = [song(Path(folder) / "songs" / name) for name in names]
        wanted = songs[0].parent
        if is_listed:
            wanted = wanted / "album.json"
            wanted.write_text('{"convert": ["a.flac", "b.wav"], "copy": ["c.flac"]}')
        output = Path(folder) / "out"
        output.mkdir()
        disk = FullDisk(output, first=first, times=times, code=code)
        owner, name = STEPS[step]
        patch.setattr(owner, name, disk.around(getattr(owner, name), name))
        outcome = separated(wanted, output, ckpt=[member], clipping=clipping, format=format)
        patch.undo()
        outcome.check(songs)
        failed = outcome.report.count("failed")
        assert failed <= disk.num_failed
        if failed:
            said = [file.reason or "" for file in outcome.report.files if file.status == "failed"]
            assert all("No space left on device" in reason or "disk" in reason for reason in said)


def test_a_report_that_finds_no_room_costs_the_exit_code_and_no_song(
    separated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = song(tmp_path / "x.flac")
    write = Path.write_text

    def full(path: Path, *args: Any, **kwargs: Any) -> int:
        if path.suffix == ".part":  # of all that is written as text, the report
            write(path, "half", encoding="utf-8")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    outcome = separated(source, tmp_path / "out")
    assert outcome.report.exit_code == 1
    assert (
        outcome.lines[-1] == f"report: {tmp_path / 'out' / 'report.json'}: No space left on device"
    )
    found = sorted(path.name for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["instrumental.flac", "vocals.flac"]
