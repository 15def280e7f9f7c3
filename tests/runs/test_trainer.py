"""Trainer keys that Lightning refuses, loggers that end with their run, processes that are lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from frametx.config import UnfinishedError
from frametx.runs.trainer import make_trainer
from frametx.train import main, train

Compose = Callable[..., DictConfig]


@pytest.mark.parametrize(
    "override",
    [
        "trainer.accelerator=abacus",
        "trainer.max_time=yesterday",
        "+trainer.no_such_option=1",
        "trainer.val_check_interval=-0.5",
        "trainer.precision=12",
        "+trainer.enable_checkpointing=false",
        "trainer.strategy=no_such_strategy",
    ],
)
def test_a_key_that_lightning_refuses_is_a_users_error(
    override: str, tmp_path: Path, compose_tiny: Compose
) -> None:
    with pytest.raises(ValueError, match=r"trainer: \S+") as refused:
        make_trainer(compose_tiny(tmp_path, override))
    assert "\n" not in str(refused.value)


def test_a_run_without_a_progress_bar_needs_no_other_key(
    tmp_path: Path, compose_tiny: Compose
) -> None:
    """The overrides of the tiny run take the bar out, so it is put back first."""
    bar = "{_target_: lightning.pytorch.callbacks.TQDMProgressBar}"
    cfg = compose_tiny(tmp_path, f"+callbacks.mine={bar}")
    callbacks = [type(one).__name__ for one in cast(Any, make_trainer(cfg)).callbacks]
    assert "TQDMProgressBar" not in callbacks
    assert "LastCheckpoint" in callbacks


def run_main(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["frametx.train", *arguments])
    try:
        with pytest.raises(SystemExit) as stopped:
            main()
    finally:
        GlobalHydra.instance().clear()
    return int(cast(int, stopped.value.code or 0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", ["sweep", "pipeline"])
def test_every_run_of_a_process_is_a_wandb_run_of_its_own(
    kind: str,
    tmp_path: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import wandb

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    several = {
        "sweep": ["-m", "optimizer.lr=1e-3,2e-3"],
        "pipeline": ["stages={a: ['optimizer.lr=1e-3'], b: ['optimizer.lr=2e-3']}"],
    }
    given = ["logger=wandb", "logger.wandb.offline=true", "trainer.max_steps=1", "name=two"]
    code = run_main(*tiny_overrides, *several[kind], *given, monkeypatch=monkeypatch)
    assert code == 0, capfd.readouterr().err
    assert wandb.run is None
    folders = ("0", "1") if kind == "sweep" else ("1_a", "2_b")
    for folder in folders:
        assert len(list((tmp_path / "runs" / "two" / folder / "wandb").glob("offline-run-*"))) == 1


def test_a_last_state_that_found_no_room_costs_the_exit_code(
    tmp_path: Path,
    compose_tiny: Compose,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("frametx.files.sync", full)
    says = r"last.ckpt could not be saved: No space left on device; it is not there"
    with pytest.raises(UnfinishedError, match=says):
        train(compose_tiny(tmp_path, "trainer.max_steps=3", "callbacks.last.every_n_steps=1"))
    assert capsys.readouterr().err.count("warning: ") == 1
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "is_child", "code", "says"),
    [
        (signal.SIGTERM, False, 143, "stopped by SIGTERM after step"),
        (signal.SIGTERM, True, 143, "stopped by SIGTERM after step"),
        (signal.SIGINT, None, 130, "stopped by Ctrl-C after step"),
        (signal.SIGKILL, True, 1, "error: process 1 of this run was killed by SIGKILL"),
    ],
)
def test_two_devices_stop_together_in_one_line(
    number: int,
    is_child: bool | None,
    code: int,
    says: str,
    tmp_path: Path,
    tiny_overrides: list[str],
) -> None:
    """A signal to the main process, to the other one, or (Ctrl-C) to all of the terminal's."""
    settings = ["trainer.devices=2", "trainer.max_steps=100000", "callbacks.last.every_n_steps=1"]
    command = [sys.executable, "-m", "frametx.train", *tiny_overrides, *settings, "name=two"]
    run = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    saved = tmp_path / "runs" / "two" / "checkpoints" / "last.ckpt"
    while not saved.exists():
        assert run.poll() is None
        time.sleep(0.05)
    if is_child is None:
        os.killpg(run.pid, number)
    elif is_child:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(children[0]), number)
    else:
        run.send_signal(number)
    _, error = run.communicate(timeout=600)
    assert run.returncode == code, error
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith(("stopped", "error"))]
    assert len(lines) == 1, error
    assert lines[0].startswith(says)
    assert torch.load(saved, weights_only=True)["global_step"] > 0
