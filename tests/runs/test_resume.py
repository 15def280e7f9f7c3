"""A run that goes on has the settings of the command line, or is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from frametx.runs.resume import _text, differences, settings_of
from frametx.train import train

Compose = Callable[..., DictConfig]
SETTINGS = ("scheduler.warmup_steps=0", "scheduler.shape=constant")


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, compose_tiny: Compose) -> Path:
    """The checkpoint of a run of one step."""
    run = tmp_path_factory.mktemp("half")
    train(compose_tiny(run, *SETTINGS, "trainer.max_steps=1"))
    return run / "checkpoints" / "last.ckpt"


@pytest.fixture
def older(half: Path, tmp_path: Path) -> Path:
    """The same, as it was written before checkpoints kept their settings."""
    stored = torch.load(half, weights_only=True)
    del stored["frametx"]["settings"]
    torch.save(stored, tmp_path / "older.ckpt")
    return tmp_path / "older.ckpt"


CHANGES = {
    "optimizer.lr=1e-5": "optimizer.lr 1e-4 -> 1e-5",
    "optimizer.betas=[0.8,0.99]": "optimizer.betas [0.9,0.999] -> [0.8,0.99]",
    "optimizer.eps=1e-6": "optimizer.eps 1e-8 -> 1e-6",
    "module.weight_decay=0.1": "module.weight_decay 0.01 -> 0.1",
}


@pytest.mark.parametrize("is_older", [False, True])
def test_settings_of_the_optimizer_are_applied_and_printed(
    is_older: bool,
    half: Path,
    older: Path,
    tmp_path: Path,
    compose_tiny: Compose,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ckpt = older if is_older else half
    given = [*SETTINGS, "trainer.max_steps=2", f"ckpt_path={ckpt}"]
    train(compose_tiny(tmp_path / "run", *given, *CHANGES))
    printed = [
        line.removeprefix("resume: ")
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("resume: ")
    ]
    assert sorted(printed) == sorted(CHANGES.values())
    groups = last(tmp_path / "run")["optimizer_states"][0]["param_groups"]
    assert {group["lr"] for group in groups} == {1e-5}
    assert {group["initial_lr"] for group in groups} == {1e-5}
    assert {tuple(group["betas"]) for group in groups} == {(0.8, 0.99)}
    assert {group["eps"] for group in groups} == {1e-6}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert last(tmp_path / "run")["lr_schedulers"][0]["base_lrs"] == [1e-5] * len(groups)


def test_everything_else_that_decides_about_the_numbers_is_printed(
    half: Path, tmp_path: Path, compose_tiny: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "scheduler.warmup_steps=0",
        "scheduler.shape=polynomial",
        "seed=5",
        "curriculum.stages=[{until_step:null,frames:9,batch_size:1,accumulate:2}]",
        "loss=waveform_l1",
        "model.dropout=0.3",
        "callbacks.ema.decay=0.9",
        "data.num_workers=0",
        "trainer.log_every_n_steps=2",
        f"ckpt_path={half}",
    ]
    train(compose_tiny(tmp_path / "run", *given, "trainer.max_steps=2"))
    printed = [x for x in capsys.readouterr().out.splitlines() if x.startswith("resume: ")]
    stage = "{until_step:null,frames:9,batch_size:%d,accumulate:2}"
    assert sorted(printed) == [
        "resume: callbacks.ema.decay 0.999 -> 0.9",
        f"resume: curriculum.stages [{stage % 2}] -> [{stage % 1}]",
        "resume: loss MagnitudeL1 -> WaveformL1",
        "resume: scheduler.shape constant -> polynomial",
        "resume: seed 0 -> 5",
    ]
    rate = last(tmp_path / "run")["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate < 1e-4  # the new shape falls


def test_another_library_is_said_to_be_one(
    half: Path, tmp_path: Path, compose_tiny: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*SETTINGS, f"ckpt_path={half}", "trainer.max_steps=2"]
    others = half.parents[1] / "others"
    for stem in ("vocals", "instrumental"):
        folder = Path(compose_tiny(tmp_path).data[stem])
        for file in folder.glob("*.wav"):
            (others / stem).mkdir(parents=True, exist_ok=True)
            (others / stem / f"other_{file.name}").write_bytes(file.read_bytes())
    moved = [f"data.{stem}={others / stem}" for stem in ("vocals", "instrumental")]
    train(compose_tiny(tmp_path / "run", *given, *moved))
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("resume: ")]
    assert "the files are not those of the checkpoint" in line


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["optimizer=sgd"],
            r"optimizer=sgd and ckpt_path=.*another optimizer \(adamw\).*init_from",
        ),
        (["optimizer=adam"], r"optimizer=adam and ckpt_path=.*\(adamw\).*init_from"),
        (["layer_decay=0.5"], "the same freeze, layer_decay, lora and loss"),
        (["freeze=[network.out.*]"], "the same freeze, layer_decay, lora and loss"),
        (["separator.scale=none"], "separator.scale=none and .*chunk_peak.*init_from"),
        (["pretraining=masked", "pretraining.task.token_frames=[2,4]"], "is of training to separ"),
    ],
)
def test_what_the_state_cannot_go_on_with_is_refused(
    is_older: bool,
    overrides: list[str],
    says: str,
    half: Path,
    older: Path,
    tmp_path: Path,
    compose_tiny: Compose,
) -> None:
    given = [*SETTINGS, f"ckpt_path={older if is_older else half}", "trainer.max_steps=2"]
    with pytest.raises(ValueError, match=says) as refused:
        train(compose_tiny(tmp_path / "run", *given, *overrides))
    assert "\n" not in str(refused.value)


def test_settings_hold_each_value_once_and_no_path(tmp_path: Path, compose_tiny: Compose) -> None:
    settings = settings_of(compose_tiny(tmp_path, "scheduler=warmup_polynomial"))
    assert settings["seed"] == 0
    assert not {"module.seed", "data.seed", "augment.seed", "module.layer_decay"} & settings.keys()
    assert settings["scheduler.shape"] == "polynomial"
    assert settings["data.held_out"] == 0.34
    assert not [k for k, v in settings.items() if isinstance(v, str) and "/" in v]
    assert not [key for key in settings if key.startswith(("module.separator", "data.curriculum"))]


def test_a_part_of_another_class_is_one_difference() -> None:
    there = {"loss._target_": "a.One", "loss.weight": 1.0, "seed": 0, "lr": 0.001}
    here = {"loss._target_": "b.Two", "loss.terms.x": 2, "seed": 0, "lr": 0.001, "more": None}
    assert differences(there, here) == ["loss One -> Two"]
    assert differences(there, there | {"seed": 1, "more": True}) == [
        "seed 0 -> 1",
        "more null -> true",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-4, "1e-4"), (0.01, "0.01"), (2.5e-5, "2.5e-5"), (1, "1"), (True, "true"), (None, "null")],
)
def test_values_are_written_as_they_are_typed(value: object, text: str) -> None:
    assert _text(value) == text
