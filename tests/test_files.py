"""A file is whole under its name at any time, whatever ends the writing."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from frametx.checkpoint import save_separator
from frametx.files import atomic_write, remove_parts, save_tensors
from frametx.training.saving import AtomicCheckpoints

PLACES = ("write", "sync", "replace", "behind")
KILLED = """
import os, signal, sys, torch
from pathlib import Path
import frametx.files

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def die_in_the_middle(recorder, data):
    recorder.file.write(bytes(data)[: len(data) // 2])
    recorder.file.flush()
    die()

def save_and_die_at(place, path):
    replace = os.replace
    if place == "write":
        frametx.files._ErrorRecorder.write = die_in_the_middle
    elif place == "sync":
        frametx.files.sync = die
    elif place == "replace":
        frametx.files.os.replace = die
    elif place == "behind":
        frametx.files.os.replace = lambda *args: (replace(*args), die())
    frametx.files.save_tensors({"x": torch.ones(1000)}, path)

for path in sys.argv[1:]:
    if os.fork() == 0:
        save_and_die_at(Path(path).parent.name, path)
    assert os.wait()[1] == signal.SIGKILL
"""


def test_a_process_killed_while_it_saves_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """With the temporary folder elsewhere, where nothing is left either."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths = [tmp_path / place / "last.ckpt" for place in PLACES]
    for path in paths:
        path.parent.mkdir()
        save_tensors({"x": torch.zeros(1000)}, path)
    command = [sys.executable, "-c", KILLED, *map(str, paths)]
    subprocess.run(command, env=os.environ | {"TMPDIR": str(elsewhere)}, check=True)
    for place, path in zip(PLACES, paths, strict=True):
        found = torch.load(path, weights_only=True)["x"]
        assert torch.equal(found, torch.full((1000,), float(place == "behind")))
        assert len(list(path.parent.iterdir())) == 1 + (place != "behind")
        remove_parts(path.parent)
        assert list(path.parent.iterdir()) == [path]
    assert not list(elsewhere.iterdir())


def fail(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_full_disk_leaves_the_old_file_and_names_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    save_separator(path, torch.nn.Linear(10, 10), {}, model="a")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match=path.name) as refused:
            save_separator(path, torch.nn.Linear(100, 100), {}, model="a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert refused.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_raises_while_writing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def break_off() -> None:
        with atomic_write(path) as part:
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert not list(tmp_path.iterdir())
    with atomic_write(path) as part:
        part.write_text("whole")
        assert part.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"


def test_training_goes_on_when_a_checkpoint_finds_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints, path = AtomicCheckpoints(), tmp_path / "checkpoints" / "last.ckpt"
    with monkeypatch.context() as patch:
        patch.setattr("frametx.files.sync", fail)
        for _ in range(2):
            checkpoints.save_checkpoint({"x": 1}, path)
    assert checkpoints.failed == {path: "No space left on device"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path} could not be saved: No space left on device (the disk")
    assert str(path.parent) in line
    checkpoints.save_checkpoint({"x": 1}, path)
    assert not checkpoints.failed
    assert torch.load(path, weights_only=True) == {"x": 1}
