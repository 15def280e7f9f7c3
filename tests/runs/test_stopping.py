"""SIGTERM and Ctrl-C at a named line: what is saved, what is printed, and how it goes on."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from frametx.train import main, train
from frametx.training.datamodule import StepDataModule
from frametx.training.separation import SeparationModule

Compose = Callable[..., DictConfig]
Command = Callable[..., tuple[int, str, str]]
KEYS = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "averaging_state")
VALIDATED = ["trainer.val_check_interval=3", "data.held_out_mixtures=3", "optimizer.lr=1e-2"]


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["global_step"] == other["global_step"]
    for key in KEYS:
        torch.testing.assert_close(one[key], other[key], atol=0, rtol=0)


def column(metrics: Path, name: str) -> list[float]:
    header, *rows = metrics.read_text().splitlines()
    where = header.split(",").index(name)
    return [float(row.split(",")[where]) for row in rows if row.split(",")[where]]


@pytest.fixture
def command(
    tmp_path: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """Runs the command in this process; returns exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["frametx.train", *tiny_overrides, *arguments])
        try:
            with pytest.raises(SystemExit) as stopped:
                main()
        finally:
            GlobalHydra.instance().clear()
        out, err = capfd.readouterr()
        return int(cast(int, stopped.value.code or 0)), out, err

    return run


def signal_at(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, call: int, *numbers: int
) -> pytest.MonkeyPatch:
    """Let the process get signals at the beginning of a call of a method, counted from 1."""
    original = getattr(owner, method)
    seen = 0

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == call:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, wrapped)
    return monkeypatch


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_step_saves_behind_it_and_the_run_goes_on_to_the_last_bit(
    number: int, code: int, tmp_path: Path, command: Command, compose_tiny: Compose
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, SeparationModule, "training_step", 2, number)
        stopped, _, error = command("name=run", "trainer.max_steps=4")
    assert stopped == code
    (line,) = error.strip().splitlines()
    by = "Ctrl-C" if code == 130 else "SIGTERM"
    assert line.startswith(f"stopped by {by} after step 2: saved ")
    assert line.endswith("last.ckpt; the same command with ckpt_path=last goes on")
    run = tmp_path / "runs" / "run"
    assert last(run)["global_step"] == 2
    assert len(column(run / "metrics.csv", "train/loss")) == 2
    assert command("name=run", "trainer.max_steps=4", "ckpt_path=last")[0] == 0
    train(compose_tiny(tmp_path / "whole", "trainer.max_steps=4"))
    assert_same(last(run), last(tmp_path / "whole"))


def test_a_signal_in_validation_saves_the_step_before_it_and_repeats_the_validation(
    tmp_path: Path, command: Command, compose_tiny: Compose
) -> None:
    given = ["name=run", "trainer.max_steps=6", *VALIDATED]
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, SeparationModule, "validation_step", 2, signal.SIGTERM)
        code, _, error = command(*given)
    assert code == 143
    assert "after step 3: saved" in error
    run = tmp_path / "runs" / "run"
    assert not (run / "checkpoints" / "best.ckpt").exists()
    assert command(*given, "ckpt_path=last")[0] == 0
    train(compose_tiny(tmp_path / "whole", "trainer.max_steps=6", *VALIDATED))
    assert_same(last(run), last(tmp_path / "whole"))
    scores = [column(p / "metrics.csv", "val/si_sdr") for p in (run, tmp_path / "whole")]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 2


def test_before_the_first_step_there_is_nothing_to_save(tmp_path: Path, command: Command) -> None:
    for owner, method in ((StepDataModule, "prepare_data"), (StepDataModule, "train_dataloader")):
        with pytest.MonkeyPatch.context() as patch:
            signal_at(patch, owner, method, 1, signal.SIGTERM)
            code, _, error = command(f"name={method}", "trainer.max_steps=2")
        assert code == 143
        (line,) = error.strip().splitlines()
        assert line == "stopped by SIGTERM: nothing to save yet"
        assert not list((tmp_path / "runs" / method).glob("**/*.ckpt"))


def test_the_second_ctrl_c_stops_at_once(tmp_path: Path, command: Command) -> None:
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, SeparationModule, "training_step", 2, signal.SIGINT, signal.SIGINT)
        code, _, error = command(
            "name=run", "trainer.max_steps=4", "callbacks.last.every_n_steps=1"
        )
    assert code == 130
    (line,) = error.strip().splitlines()
    assert line.startswith("stopped by Ctrl-C: nothing new was saved; the same command with ckpt")
    assert last(tmp_path / "runs" / "run")["global_step"] == 1


def test_a_stopped_sweep_says_what_is_left_and_goes_on_by_the_same_command(
    tmp_path: Path, command: Command
) -> None:
    """Flags may stand behind overrides."""
    sweep = ["trainer.max_steps=2", "optimizer.lr=1e-4,2e-4,3e-4", "-m"]
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, SeparationModule, "training_step", 3, signal.SIGTERM)
        code, _, error = command(*sweep)
    assert code == 143
    lines = [line for line in error.splitlines() if line.startswith("stopped")]
    assert len(lines) == 1
    assert "(job 1; 1 of 3 jobs have not begun)" in lines[0]
    (folder,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"0", "1"}
    first = (folder / "0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns

    code, out, error = command(*sweep, "ckpt_path=last")
    assert code == 0, error
    assert "job 0: finished before" in out
    assert f"resuming {folder}/1/checkpoints/last.ckpt" in out
    assert (folder / "0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == first
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]
    rates = [
        last(folder / job)["optimizer_states"][0]["param_groups"][0]["initial_lr"]
        for job in ("0", "1", "2")
    ]
    assert rates == [1e-4, 2e-4, 3e-4]

    code, _, error = command("optimizer.lr=5e-4,2e-4", "-m", "ckpt_path=last")
    assert code == 2
    assert "no sweep with these overrides has begun" in error
    other = ["optimizer.lr=5e-4,2e-4", "trainer.max_steps=2", f"name={folder.name}"]
    code, _, error = command(*other, "--multirun", "ckpt_path=last")
    assert code == 2
    assert "job 0 of" in error
    assert "was optimizer.lr=0.0001, and would be optimizer.lr=0.0005" in error


def test_a_stopped_pipeline_goes_on_in_its_stage(tmp_path: Path, command: Command) -> None:
    stages = "stages={one: ['trainer.max_steps=1'], two: ['trainer.max_steps=3']}"
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, SeparationModule, "training_step", 3, signal.SIGTERM)
        code, _, error = command(stages, "name=pipe")
    assert code == 143
    assert "after step 2: saved" in error
    assert "2_two/checkpoints/last.ckpt" in error
    code, out, error = command(stages, "name=pipe", "ckpt_path=last")
    assert code == 0, error
    assert "stage one: finished before" in out
    assert last(tmp_path / "runs" / "pipe" / "2_two")["global_step"] == 3
