"""Whose folder a run has, and which checkpoint it goes on from."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from frametx.runs.folder import checkpoint_to_resume, locked
from frametx.train import main

HOLD = """
import sys
from pathlib import Path
from frametx.runs.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
Compose = Callable[..., DictConfig]


def test_a_folder_is_for_one_process_until_that_dies(
    tmp_path: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "runs" / "x"
    monkeypatch.chdir(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        in_use = pytest.raises(ValueError, match=f"in use by process {holder.pid} on .*name=...")
        with in_use, locked(run):
            pass
        monkeypatch.setattr(sys, "argv", ["frametx.train", *tiny_overrides, "name=x"])
        with pytest.raises(SystemExit) as stopped:
            main()
        GlobalHydra.instance().clear()
        assert stopped.value.code == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert line.startswith(f"error: runs/x is in use by process {holder.pid} on ")
        assert not (run / ".hydra").exists()  # the config of the other run is not written over
        holder.kill()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / ".last.ckpt.12ab34cd.part").touch()
    with locked(run):
        assert not list((run / "checkpoints").iterdir())  # of the process that was killed


def with_checkpoint(run: Path) -> Path:
    path = run / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_a_named_run_goes_on_with_its_own_checkpoint_or_not_at_all(
    tmp_path: Path, compose_tiny: Compose
) -> None:
    runs = tmp_path / "runs"
    other = with_checkpoint(runs / "other")
    given = [f"paths.runs_dir={runs}", "ckpt_path=last"]
    assert checkpoint_to_resume(compose_tiny(runs / "now", *given)) == str(other)
    named = compose_tiny(runs / "mine", *given, "name=mine")
    with pytest.raises(ValueError, match=r"no run under .*/mine has a last.ckpt; the newest run"):
        checkpoint_to_resume(named)
    best = runs / "mine" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    best.touch()
    with pytest.raises(ValueError, match=r"but there is .*mine/checkpoints/best.ckpt"):
        checkpoint_to_resume(named)
    own = best.with_name("last.ckpt")
    own.touch()
    assert checkpoint_to_resume(named) == str(own)


@pytest.mark.parametrize("kind", [[], ["stages={a: []}"]])
def test_a_named_run_or_pipeline_that_has_not_begun_is_refused(
    kind: list[str],
    tmp_path: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with_checkpoint(tmp_path / "runs" / "other")
    with_checkpoint(tmp_path / "runs" / "pipe" / "1_a")
    monkeypatch.chdir(tmp_path)
    arguments = [*tiny_overrides, *kind, "name=mine", "ckpt_path=last"]
    monkeypatch.setattr(sys, "argv", ["frametx.train", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    GlobalHydra.instance().clear()
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "/runs/mine" in line
    assert line.startswith("error: ckpt_path=last: no ")
