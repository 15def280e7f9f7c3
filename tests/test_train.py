import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from frametx import legacy
from frametx.checkpoint import build, load_separator, save_separator
from frametx.config import conf_dir, one_line
from frametx.data.synthetic import write_synthetic_tracks
from frametx.nn.block import Block
from frametx.train import give_weights, main, train, warn_of_missing_past
from frametx.training.callbacks import Ema
from frametx.training.curriculum import ContextCurriculum

Compose = Callable[..., DictConfig]
SMALL_MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*_small.yaml"))
GROWING = (
    "curriculum.stages=[{until_step:3,frames:9,batch_size:4,accumulate:1},"
    "{until_step:null,frames:17,batch_size:2,accumulate:2}]"
)


def instantiate_separator(cfg: DictConfig) -> dict[str, torch.Tensor]:
    """The weights that training starts from."""
    L.seed_everything(cfg.seed)
    return instantiate(cfg.module).separator.state_dict()


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait, on a machine of any speed, until something has happened while a process runs."""
    while not condition():
        assert process.poll() is None, "the process has ended before"
        time.sleep(0.02)


def assert_same_run(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Weights, average, optimiser, schedule and counters, to the last bit."""
    assert one["global_step"] == other["global_step"]
    assert one["frametx"]["stage"] == other["frametx"]["stage"]
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(one[key], other[key], atol=0, rtol=0)
    torch.testing.assert_close(one["averaging_state"], other["averaging_state"], atol=0, rtol=0)


def test_resume_is_exact_across_a_stage(tmp_path: Path, compose_tiny: Compose) -> None:
    train(compose_tiny(tmp_path / "whole", GROWING, "trainer.max_steps=6"))
    train(compose_tiny(tmp_path / "half", GROWING, "trainer.max_steps=2"))
    half = tmp_path / "half" / "checkpoints" / "last.ckpt"
    train(compose_tiny(tmp_path / "rest", GROWING, "trainer.max_steps=6", f"ckpt_path={half}"))
    assert last(tmp_path / "half")["frametx"]["stage"] == 0
    assert last(tmp_path / "rest")["frametx"]["stage"] == 1
    assert_same_run(last(tmp_path / "rest"), last(tmp_path / "whole"))
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same_run(last(tmp_path / "half"), last(tmp_path / "whole"))


def test_a_killed_run_resumes_exactly(
    tmp_path: Path, tiny_overrides: list[str], compose_tiny: Compose
) -> None:
    settings = (GROWING, "trainer.max_steps=100000", "callbacks.last.every_n_steps=5")
    command = [sys.executable, "-m", "frametx.train", *tiny_overrides, *settings, "name=killed"]
    saved = tmp_path / "runs" / "killed" / "checkpoints" / "last.ckpt"
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_for(saved.exists, run)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    step = torch.load(saved, weights_only=True)["global_step"]
    assert 0 < step < 100_000
    until = f"trainer.max_steps={step + 4}"
    train(compose_tiny(tmp_path / "rest", GROWING, until, f"ckpt_path={saved}"))
    train(compose_tiny(tmp_path / "whole", GROWING, until))
    assert_same_run(last(tmp_path / "rest"), last(tmp_path / "whole"))


def test_two_ranks_take_the_step_of_one(
    tmp_path: Path, tiny_overrides: list[str], compose_tiny: Compose
) -> None:
    """Without dropout, one step of plain gradient descent shows the gradient itself.

    Each rank makes its share in two micro-batches and must exchange gradients after the second.
    """
    settings = [
        "curriculum.stages=[{until_step:null,frames:9,batch_size:1,accumulate:4}]",
        "model.dropout=0.0",
        "optimizer=sgd",
        "optimizer.lr=1.0",
        "optimizer.momentum=0.0",
        "module.weight_decay=0.0",
        "scheduler.shape=constant",
        "scheduler.warmup_steps=0",
        "trainer.max_steps=1",
    ]
    one = compose_tiny(tmp_path / "one", *settings)
    train(one)
    command = [sys.executable, "-m", "frametx.train", *tiny_overrides, *settings]
    done = subprocess.run(
        [*command, "trainer.devices=2", "name=two"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    ours = last(tmp_path / "one")["current_model_state"]
    theirs = last(tmp_path / "runs" / "two")["current_model_state"]
    torch.testing.assert_close(theirs, ours, atol=2e-6, rtol=1e-4)
    start = instantiate_separator(one)
    moved = max(float((ours[f"separator.{n}"] - w).abs().max()) for n, w in start.items())
    assert moved > 100 * 2e-6  # the step is far larger than what is tolerated


def test_what_is_not_scored_is_not_looked_for(tmp_path: Path, compose_tiny: Compose) -> None:
    missing = "data.test={_target_: frametx.data.tracks.Tracks, root: /nowhere, stems: [vocals]}"
    train(compose_tiny(tmp_path, missing, "trainer.max_steps=1"))
    with pytest.raises(InstantiationException, match="/nowhere does not exist"):
        train(compose_tiny(tmp_path / "tested", missing, "trainer.max_steps=1", "test=true"))


@pytest.mark.slow
def test_a_sweep_over_two_devices_runs_every_job(tmp_path: Path, tiny_overrides: list[str]) -> None:
    command = [sys.executable, "-m", "frametx.train", "-m", *tiny_overrides]
    settings = ["trainer.devices=2", "trainer.max_steps=2", "optimizer.lr=1e-4,3e-4", "name=sweep"]
    done = subprocess.run(
        [*command, *settings], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    rates = [
        last(tmp_path / "runs" / "sweep" / job)["optimizer_states"][0]["param_groups"][0][
            "initial_lr"
        ]
        for job in ("0", "1")
    ]
    assert rates == [1e-4, 3e-4]


def test_the_average_is_what_is_validated_saved_and_loaded(
    tmp_path: Path, compose_tiny: Compose
) -> None:
    best = train(
        compose_tiny(
            tmp_path,
            "trainer.max_steps=6",
            "trainer.val_check_interval=3",
            "optimizer.lr=1e-2",
            "callbacks.ema.decay=0.9",
        )
    )
    assert best is not None
    assert best.name == "best.ckpt"
    checkpoint = last(tmp_path)
    average, live = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert any(not torch.equal(average[name], live[name]) for name in average)
    loaded = load_separator(tmp_path / "checkpoints" / "last.ckpt")
    assert isinstance(loaded, torch.nn.Module)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, average[f"separator.{name}"])
    metrics = (tmp_path / "metrics.csv").read_text()
    assert "val/usdr/vocals" in metrics
    assert "val/si_sdr/instrumental" in metrics


def test_init_from_takes_the_weights_and_nothing_else(
    tmp_path: Path, compose_tiny: Compose
) -> None:
    train(compose_tiny(tmp_path / "first", "trainer.max_steps=3"))
    first = tmp_path / "first" / "checkpoints" / "last.ckpt"
    still = ["optimizer.lr=0.0", "module.weight_decay=0.0", "trainer.max_steps=1"]
    train(compose_tiny(tmp_path / "second", f"init_from={first}", *still))
    taken, given = last(tmp_path / "second"), last(tmp_path / "first")
    assert taken["global_step"] == 1
    torch.testing.assert_close(taken["current_model_state"], given["state_dict"], atol=0, rtol=0)


def test_a_batch_that_is_not_finite_is_named_skipped_and_counted(
    tmp_path: Path, compose_tiny: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["optimizer.lr=1e30", "module.clip_norm=1e30", "trainer.max_steps=12"]
    with pytest.raises(FloatingPointError, match="max_nonfinite=2"):
        train(compose_tiny(tmp_path, *settings, "module.max_nonfinite=2"))
    printed = capsys.readouterr().out
    assert "2 in a row" in printed
    assert "vocals" in printed
    assert ".wav at " in printed


def test_training_begins_with_a_line_of_what_each_library_leaves_out(
    tmp_path: Path, libraries: Path, compose_tiny: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    vocals = Path(shutil.copytree(libraries / "vocals", tmp_path / "vocals"))
    (vocals / "voice_000.wav").rename(vocals / os.fsdecode(b"caf\xe9\n.wav"))
    (vocals / "junk.wav").write_text("junk")
    (vocals / "song.m4a").write_bytes(b"content")
    soundfile.write(vocals / "loud.wav", np.full(16_000, 1e20), 16_000, subtype="FLOAT")
    train(compose_tiny(tmp_path / "run", f"data.vocals={vocals}", "trainer.max_steps=2"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert lines == [
        "data.vocals: 6 files, 3 left out (1 unreadable, 1 too loud to be audio, 1 in formats that "
        "are not read): junk.wav, loud.wav, song.m4a; python -m frametx.check names all"
    ]
    assert last(tmp_path / "run")["global_step"] == 2


def test_one_batch_is_learnt_by_heart(tmp_path: Path, compose_tiny: Compose) -> None:
    settings = ["data.repeat_first_step=true", "model.dropout=0.0", "optimizer.lr=3e-3"]
    length = ["trainer.max_steps=40", "scheduler.total_steps=100"]
    train(compose_tiny(tmp_path, *settings, *length))
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("train/loss")
    losses = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("key", ["ckpt_path", "init_from"])
def test_a_checkpoint_of_another_architecture_is_refused(
    key: str, tmp_path: Path, compose_tiny: Compose
) -> None:
    train(compose_tiny(tmp_path / "first", "trainer.max_steps=1"))
    first = tmp_path / "first" / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match="another architecture"):
        train(compose_tiny(tmp_path / "second", "model.expansion=16", f"{key}={first}"))


def test_a_run_resumed_in_place_keeps_its_metrics(tmp_path: Path, compose_tiny: Compose) -> None:
    train(compose_tiny(tmp_path, "trainer.max_steps=2"))
    earlier = (tmp_path / "metrics.csv").read_text()
    train(compose_tiny(tmp_path, "trainer.max_steps=3", "ckpt_path=last"))
    assert last(tmp_path)["global_step"] == 3
    assert (tmp_path / "metrics.part1.csv").read_text() == earlier
    assert (tmp_path / "metrics.csv").read_text() != earlier


def test_a_run_is_not_written_over(tmp_path: Path, compose_tiny: Compose) -> None:
    train(compose_tiny(tmp_path, "trainer.max_steps=1"))
    with pytest.raises(ValueError, match="already holds a run"):
        train(compose_tiny(tmp_path, "trainer.max_steps=1"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainer.max_steps=0", "max_steps=0"),
        ("trainer.precision=16-mixed", "use strategy=bf16"),
        ("ckpt_path=none.ckpt", "no such checkpoint"),
        ("ckpt_path=last", "no run under"),
        ("+trainer.gradient_clip_val=1.0", "gradient_clip"),
    ],
)
def test_impossible_runs_are_refused(
    override: str, says: str, tmp_path: Path, compose_tiny: Compose
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        train(compose_tiny(tmp_path, f"paths.runs_dir={tmp_path}", override))


def test_aligned_tracks_are_trained_on_and_validated(
    tmp_path: Path, tiny_overrides: list[str]
) -> None:
    for part, seed in (("train", 0), ("test", 1)):
        write_synthetic_tracks(
            tmp_path / "songs" / part,
            seconds=0.5,
            num_tracks=2,
            sample_rate=16_000,
            seed=seed,
            stems=("vocals", "drums", "other"),
        )
    general = [o for o in tiny_overrides if not o.startswith("data")]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(
            "train",
            [
                *general,
                "data=tracks",
                f"data.root={tmp_path / 'songs'}",
                "data.num_workers=0",
                f"paths.output_dir={tmp_path / 'run'}",
                "trainer.max_steps=2",
                "trainer.val_check_interval=2",
            ],
        )
    best = train(cfg)
    assert best is not None
    assert best.name == "best.ckpt"


@pytest.mark.parametrize("backend", ["fused", "materialised"])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_module_sets_the_backend_and_what_runs_again(
    tmp_path: Path, compose_tiny: Compose, backend: str, recompute: bool
) -> None:
    options = (f"module.attention={backend}", f"module.recompute={str(recompute).lower()}")
    parts = list(instantiate(compose_tiny(tmp_path, *options).module).separator.modules())
    backends = {
        vars(part)["attention_backend"] for part in parts if "attention_backend" in vars(part)
    }
    assert backends == {backend}
    assert any(isinstance(part, Block) and part.recomputes for part in parts) is recompute


def test_a_network_that_reads_its_past_says_so_when_samples_hold_none() -> None:
    class Separator:
        num_past_frames, crop_frames = 512, 256

    def curriculum(frames: int) -> ContextCurriculum:
        stage = {"until_step": None, "frames": frames, "batch_size": 1, "accumulate": 1}
        return ContextCurriculum(stages=[stage])

    with pytest.warns(UserWarning, match="at most 256 frames"):
        warn_of_missing_past(Separator(), curriculum(256))
    warn_of_missing_past(Separator(), curriculum(768))
    warn_of_missing_past(object(), curriculum(256))


ENSEMBLE = ["model=neural_ensemble", "model.channels=1", "model.expansions=[8,8,8]"]


@pytest.fixture
def members(tmp_path: Path, tiny_overrides: list[str]) -> list[Path]:
    """Two separators of different weights and STFT, as files."""
    paths = [tmp_path / "one.ckpt", tmp_path / "two.safetensors"]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", [*tiny_overrides, f"audio.n_fft={64 * (1 + seed)}"])
        config = OmegaConf.to_container(cfg.separator, resolve=True)
        assert isinstance(config, dict)
        named = {str(key): value for key, value in config.items()}
        save_separator(path, instantiate(cfg.separator), named, model="asym_unet_mct_tiny")
    return paths


@pytest.fixture
def compose_ensemble(tiny_overrides: list[str]) -> Compose:
    """Compose a tiny run of an ensemble."""
    chosen = [text for text in tiny_overrides if not text.startswith("model")]

    def compose_run(output: Path, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("train", [*chosen, *ENSEMBLE, f"paths.output_dir={output}", *overrides])

    return compose_run


def as_members(paths: list[Path]) -> str:
    return f"members=[{','.join(map(str, paths))}]"


def weights_of_members(paths: list[Path]) -> dict[str, torch.Tensor]:
    """As they are called in a checkpoint of their ensemble."""
    return {
        f"separator.members.{number}.{name}": weight
        for number, path in enumerate(paths)
        for name, weight in cast(torch.nn.Module, load_separator(path)).state_dict().items()
    }


def test_an_ensemble_trains_around_its_members_and_resumes_without_their_files(
    tmp_path: Path, compose_ensemble: Compose, members: list[Path]
) -> None:
    given = [as_members(members), "optimizer.lr=1e-2", "trainer.val_check_interval=2"]
    best = train(compose_ensemble(tmp_path / "whole", *given, "trainer.max_steps=4"))
    train(compose_ensemble(tmp_path / "half", *given, "trainer.max_steps=2"))
    before = weights_of_members(members)
    size = sum(path.stat().st_size for path in members)
    for path in members:
        path.unlink()
    half = tmp_path / "half" / "checkpoints" / "last.ckpt"
    rest = ["optimizer.lr=1e-2", "trainer.val_check_interval=2", f"ckpt_path={half}"]
    train(compose_ensemble(tmp_path / "rest", *rest, "trainer.max_steps=4"))
    whole = last(tmp_path / "whole")
    assert_same_run(last(tmp_path / "rest"), whole)

    learned = dict(whole["current_model_state"])
    for state in ("state_dict", "current_model_state"):
        of_members = {n: w for n, w in whole[state].items() if ".members." in n}
        torch.testing.assert_close(of_members, before, atol=0, rtol=0)
    assert learned["separator.network.out.weight"].abs().min() > 0
    num_learning = sum(w.numel() for n, w in learned.items() if ".members." not in n)
    # live and averaged weights and two moments of those that learn, but the members only once
    limit = size + 4 * 4 * num_learning + 600_000
    assert (tmp_path / "whole" / "checkpoints" / "last.ckpt").stat().st_size < limit
    assert best is not None
    loaded = load_separator(best)
    assert loaded.stems == ("vocals", "instrumental")
    with torch.inference_mode():
        assert loaded(torch.randn(1, 1, 3000)).isfinite().all()


def test_a_resumed_ensemble_refuses_other_members(
    tmp_path: Path, compose_ensemble: Compose, members: list[Path]
) -> None:
    train(compose_ensemble(tmp_path / "run", as_members(members), "trainer.max_steps=1"))
    again = [f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt", "trainer.max_steps=2"]
    train(compose_ensemble(tmp_path / "same", as_members(members), *again))
    other = tmp_path / "other.ckpt"
    changed = torch.load(members[0], weights_only=True)
    next(iter(changed["state_dict"].values())).add_(1e-3)
    torch.save(changed, other)
    with pytest.raises(ValueError, match=r"other.ckpt is not the member that .*last.ckpt was"):
        train(compose_ensemble(tmp_path / "other", as_members([other, members[1]]), *again))


def test_init_from_gives_an_ensemble_its_network_and_members_their_own(
    tmp_path: Path, compose_ensemble: Compose, members: list[Path]
) -> None:
    given = [as_members(members), "optimizer.lr=1e-2", "trainer.max_steps=1"]
    train(compose_ensemble(tmp_path / "first", *given))
    first = tmp_path / "first" / "checkpoints" / "last.ckpt"
    still = ["optimizer.lr=0.0", "module.weight_decay=0.0", "trainer.max_steps=1"]
    train(compose_ensemble(tmp_path / "second", f"init_from={first}", *still))
    taken, source = last(tmp_path / "second"), last(tmp_path / "first")
    torch.testing.assert_close(taken["current_model_state"], source["state_dict"], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "an ensemble needs trained separators: members="),
        (["members=none.ckpt"], "members=none.ckpt must be a list"),
        (["members=[none.ckpt,none.ckpt]"], "none.ckpt: no such checkpoint"),
        (
            [
                *("members=[{one},{two}]", "stems=[speech,music]", "complement=speech"),
                *("data.vocals=null", "data.instrumental=null"),
                *("+data.speech={voices}", "+data.music={voices}"),
            ],
            "the ensemble",
        ),
        (["members=[{one},{two}]", "complement=null"], "complement=None must be one of the stems"),
    ],
)
def test_an_ensemble_whose_members_do_not_fit_is_refused(
    overrides: list[str],
    says: str,
    tmp_path: Path,
    compose_ensemble: Compose,
    members: list[Path],
    libraries: Path,
) -> None:
    one, two = members
    voices = libraries / "vocals"
    chosen = [text.format(one=one, two=two, voices=voices) for text in overrides]
    with pytest.raises((ValueError, FileNotFoundError, InstantiationException)) as refused:
        train(compose_ensemble(tmp_path / "run", *chosen))
    assert re.search(says, one_line(refused.value)), one_line(refused.value)


def test_members_of_another_model_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["frametx.train", "model=v7_small", "members=[a.ckpt]"])
    with pytest.raises(SystemExit) as stopped:
        main()
    GlobalHydra.instance().clear()
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: members=['a.ckpt'] need model=neural_ensemble")


def test_what_does_not_learn_is_not_averaged_but_shared() -> None:
    frozen, learning = torch.nn.Linear(3, 3).requires_grad_(False), torch.nn.Linear(3, 3)
    module = around(torch.nn.Sequential(frozen, learning))
    ema = Ema(decay=0.9, start_step=0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    ema.setup(trainer, module, "fit")
    ema.on_fit_start(trainer, module)
    average = ema._average_model
    assert average is not None
    shared, averaged = cast(Any, average.module).network
    before = frozen.weight.clone()
    for _ in range(5):
        with torch.no_grad():
            learning.weight.add_(1)
        average.update_parameters(module)
    assert shared.weight.data_ptr() == frozen.weight.data_ptr()
    assert torch.equal(shared.weight, before)
    behind = (learning.weight - averaged.weight).detach()
    torch.testing.assert_close(behind, torch.full_like(behind, sum(0.9**n for n in range(1, 5))))


def around(network: torch.nn.Module) -> L.LightningModule:
    """A module around a network, as Lightning's callbacks want one."""
    module = L.LightningModule()
    module.network = network
    return module


PRETRAINING = {
    "denoising": ["pretraining=denoising"],
    "masked": ["pretraining=masked", "pretraining.task.token_frames=[2,4]"],
}


@pytest.fixture
def compose_songs(libraries: Path, tiny_overrides: list[str]) -> Compose:
    """Compose a tiny run on songs without stems."""
    folders = ("data=", "data.vocals", "data.instrumental", "data.held_out")
    kept = [text for text in tiny_overrides if not text.startswith(folders)]
    mixtures = f"data.mixtures=[{libraries / 'vocals'},{libraries / 'instrumental'}]"
    held_out = ["data.held_out=0.34", "data.held_out_excerpts=2", "data.held_out_seconds=0.5"]

    def compose_run(output: Path, *overrides: str) -> DictConfig:
        given = ["data=mixtures", mixtures, *held_out, f"paths.output_dir={output}", *overrides]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("train", [*kept, *given])

    return compose_run


@pytest.mark.parametrize("task", PRETRAINING)
def test_pretraining_on_songs_resumes_exactly_and_keeps_the_best(
    task: str, tmp_path: Path, compose_songs: Compose
) -> None:
    def run(name: str, *overrides: str) -> None:
        train(compose_songs(tmp_path / name, *PRETRAINING[task], *overrides))

    run("whole", "trainer.max_steps=4", "trainer.val_check_interval=2")
    run("half", "trainer.max_steps=2", "trainer.val_check_interval=2")
    half = tmp_path / "half" / "checkpoints" / "last.ckpt"
    run("rest", "trainer.max_steps=4", "trainer.val_check_interval=2", f"ckpt_path={half}")
    assert_same_run(last(tmp_path / "rest"), last(tmp_path / "whole"))
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same_run(last(tmp_path / "half"), last(tmp_path / "whole"))
    header, *rows = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("val/loss")
    losses = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
    best = tmp_path / "whole" / "checkpoints" / "best.ckpt"
    callbacks = torch.load(best, weights_only=True)["callbacks"].values()
    kept = [state["best_model_score"] for state in callbacks if "best_model_score" in state]
    assert [float(score) for score in kept] == pytest.approx([min(losses)])
    with pytest.raises(ValueError, match="separates nothing yet: train it on"):
        load_separator(best)


def test_pretraining_takes_stems_too_and_stereo_tracks_for_a_mono_network(
    tmp_path: Path, tiny_overrides: list[str]
) -> None:
    for part, seed in (("train", 0), ("test", 1)):
        write_synthetic_tracks(
            tmp_path / "songs" / part, seconds=0.5, num_tracks=2, sample_rate=22_050, seed=seed
        )
    general = [text for text in tiny_overrides if not text.startswith("data")]
    data = ["data=tracks", f"data.root={tmp_path / 'songs'}", "data.num_workers=0"]
    length = ["trainer.max_steps=2", "trainer.val_check_interval=1", "optimizer.lr=1e-2"]
    given = [*PRETRAINING["masked"], *data, *length, f"paths.output_dir={tmp_path / 'run'}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        train(compose("train", [*general, *given]))
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("val/loss")
    losses = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
    assert len({*losses}) == 2
    assert all(0 < loss < 1 for loss in losses)


def test_a_pretrained_network_is_trained_on_without_its_head(
    tmp_path: Path,
    compose_songs: Compose,
    compose_tiny: Compose,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = tmp_path / "first"
    overrides = ["trainer.max_steps=2", "optimizer.lr=1e-2"]
    train(compose_songs(first, *PRETRAINING["masked"], *overrides))
    still = ["optimizer.lr=0.0", "module.weight_decay=0.0", "trainer.max_steps=1"]
    taken = [f"init_from={first}/checkpoints/last.ckpt", "init.leave_out=[network.out.*]"]
    second = compose_tiny(tmp_path / "second", *taken, *still)
    train(second)
    source, drawn = last(first)["state_dict"], instantiate_separator(second)
    for name, weight in last(tmp_path / "second")["current_model_state"].items():
        short = name.removeprefix("separator.")
        expected = drawn[short] if short.startswith("network.out.") else source[name]
        assert torch.equal(weight, expected), name
    printed = capsys.readouterr().out
    assert "left out 2 of the file: network.out.weight, network.out.bias" in printed
    assert "start anew 2 of the network: network.out.weight, network.out.bias" in printed
    assert load_separator(tmp_path / "second" / "checkpoints" / "last.ckpt")


def test_training_starts_from_an_original_programs_weights(
    tmp_path: Path,
    reference: Callable[[str], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = reference("v10_temporal")["state_dict"]
    converted = legacy.convert(original)
    config = legacy.separator_config(converted)
    torch.save(original, tmp_path / "theirs.pth")
    separator = build(config | {"top_bin": "copy"})
    init = {"strict": True, "leave_out": []}
    given = {"init_from": str(tmp_path / "theirs.pth"), "init": init}
    ours = {"separator": config | {"top_bin": "copy"}}
    give_weights(OmegaConf.create({**given, **ours}), separator, None)
    for name, weight in converted.weights.items():
        assert torch.equal(separator.state_dict()[f"network.{name}"], weight)
    assert "options that differ: top_bin: file zero, network copy" in capsys.readouterr().out


def test_frozen_parts_stay_and_rates_fall_with_depth(tmp_path: Path, compose_tiny: Compose) -> None:
    settings = ["freeze=[network.encoders.*]", "layer_decay=0.5", "optimizer.lr=1e-2"]
    constant = ["scheduler.shape=constant", "scheduler.warmup_steps=0", "trainer.max_steps=2"]
    cfg = compose_tiny(tmp_path, *settings, *constant)
    train(cfg)
    start, done = instantiate_separator(cfg), last(tmp_path)
    for state in ("state_dict", "current_model_state"):
        still = {n for n, w in start.items() if torch.equal(w, done[state][f"separator.{n}"])}
        assert {n for n in start if n.startswith("network.encoders.")} <= still
        assert "network.out.weight" not in still
    rates = [group["lr"] for group in done["optimizer_states"][0]["param_groups"]]
    assert rates[0] == 1e-2  # of the output
    assert {*rates} <= {1e-2 * 0.5**n for n in range(20)}
    assert len({*rates}) > 3


def test_adapters_resume_exactly_and_their_checkpoint_separates_as_it_is(
    tmp_path: Path, compose_tiny: Compose
) -> None:
    train(compose_tiny(tmp_path / "first", "trainer.max_steps=1"))
    first = tmp_path / "first" / "checkpoints" / "last.ckpt"
    settings = ["lora.rank=1", "optimizer.lr=1e-2", "lora.trained=[network.out.*]"]
    start = f"init_from={first}"
    train(compose_tiny(tmp_path / "whole", *settings, start, "trainer.max_steps=4"))
    train(compose_tiny(tmp_path / "half", *settings, start, "trainer.max_steps=2"))
    half = f"ckpt_path={tmp_path}/half/checkpoints/last.ckpt"
    train(compose_tiny(tmp_path / "rest", *settings, half, "trainer.max_steps=4"))
    assert_same_run(last(tmp_path / "rest"), last(tmp_path / "whole"))

    before = load_separator(first)
    after = load_separator(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    names = [name for name, _ in cast(torch.nn.Module, after).named_parameters()]
    assert not [name for name in names if "parametrizations" in name]
    mixture = torch.randn(1, 1, 3000)
    with torch.inference_mode():
        assert not torch.equal(after(mixture), before(mixture))
    for wrong in (["lora.rank=2"], ["lora.rank=null"]):
        with pytest.raises(ValueError, match="with the same lora"):
            train(compose_tiny(tmp_path / "wrong", *settings, half, *wrong))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["pretraining=masked", "discriminator=patchgan_tiny"], "no estimates to judge"),
        (["pretraining=denoising", "test=true"], "separates nothing yet"),
        (["init.leave_out=[network.out.*]"], "add init_from"),
        (["init.strict=false"], "add init_from"),
        (["freeze=[network.encoder.*]"], r"freeze: network.encoder.\* fits no parameter"),
        (["lora.rank=1", "lora.targets=[network.nothing]"], "lora.targets: network.nothing fits"),
        (["pretraining=masked"], "hold no two tokens of 16"),
        (["layer_decay=2.0"], "layer_decay=2.0 must be above 0 and at most 1"),
    ],
)
def test_starts_that_cannot_be_are_refused(
    overrides: list[str], says: str, tmp_path: Path, compose_tiny: Compose
) -> None:
    with pytest.raises(ValueError, match=says):
        train(compose_tiny(tmp_path, *overrides, "trainer.max_steps=1"))


def test_songs_without_stems_do_not_teach_separation(
    tmp_path: Path, compose_songs: Compose
) -> None:
    with pytest.raises(ValueError, match="data=mixtures has no stems"):
        train(compose_songs(tmp_path))


STAGES = (
    "stages={unsupervised: ['pretraining=masked', 'trainer.max_steps=2', "
    "'pretraining.task.token_frames=[2,4]'], "
    "supervised: ['trainer.max_steps=100000'], "
    "adversarial: ['discriminator=patchgan_tiny', 'discriminator.num_layers=1']}"
)


def test_the_stages_of_the_shipped_pipeline_compose(tmp_path: Path) -> None:
    pipeline = ["experiment=pipeline", f"paths.output_dir={tmp_path}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        stages = compose("train", pipeline).stages
        made = {n: compose("train", [*texts, *pipeline]) for n, texts in stages.items()}
    assert list(made) == ["unsupervised", "supervised", "adversarial"]
    assert made["unsupervised"].pretraining.task._target_.endswith("MaskedFrames")
    assert made["supervised"].pretraining is None
    assert made["supervised"].discriminator is None
    assert made["adversarial"].module._target_.endswith("AdversarialSeparationModule")


def run_main(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The command line, in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["frametx.train", *arguments])
    try:
        with pytest.raises(SystemExit) as stopped:
            main()
    finally:
        GlobalHydra.instance().clear()
    return int(cast(int, stopped.value.code))


def test_a_pipeline_killed_in_the_middle_runs_only_what_is_left(
    tmp_path: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pipeline = [*tiny_overrides, STAGES, "callbacks.last.every_n_steps=1"]
    pipeline += ["+logger.csv.flush_logs_every_n_steps=1"]  # so that the kill finds metrics
    command = [sys.executable, "-m", "frametx.train", *pipeline, "name=killed"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "killed"
    saved = folder / "2_supervised" / "checkpoints" / "last.ckpt"
    wait_for(lambda: saved.exists() and (saved.parents[1] / "metrics.csv").exists(), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = last(saved.parents[1])["global_step"]
    assert 0 < step < 100_000
    assert (folder / "1_unsupervised" / "finished").is_file()
    first = (folder / "1_unsupervised" / "checkpoints" / "last.ckpt").stat().st_mtime_ns

    monkeypatch.chdir(tmp_path)
    more = [*pipeline, f"trainer.max_steps={step + 2}", "ckpt_path=last"]
    assert run_main(*more, monkeypatch=monkeypatch) == 0
    printed = capfd.readouterr().out
    assert "stage unsupervised: finished before" in printed
    assert f"loaded {len(last(saved.parents[1])['state_dict'])} weights" in printed
    assert (folder / "1_unsupervised" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == first
    assert last(saved.parents[1])["global_step"] == step + 2
    assert (saved.parents[1] / "metrics.part1.csv").is_file()  # it was resumed, not repeated
    adversarial = last(folder / "3_adversarial")
    assert adversarial["global_step"] == step + 2
    assert any(name.startswith("discriminator.") for name in adversarial["state_dict"])
    assert run_main(*pipeline, "name=killed", monkeypatch=monkeypatch) == 2
    assert "already holds a pipeline: ckpt_path=last" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["stages={a: ['discriminator=unknown']}"], "stages.a=['discriminator=unknown']"),
        (["stages={a: ['nothing=1']}"], "nothing is no key"),
        (["stages={a: []}", "ckpt_path=some.ckpt"], "goes on where it stopped"),
        (["stages={a: []}", "ckpt_path=last"], "no pipeline under"),
    ],
)
def test_pipelines_that_cannot_be_are_refused_before_anything_runs(
    overrides: list[str],
    says: str,
    tmp_path: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code = run_main(*tiny_overrides, "name=bad", *overrides, monkeypatch=monkeypatch)
    assert code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert says in line


@pytest.mark.slow
def test_a_pipeline_on_two_devices_runs_every_stage(
    tmp_path: Path, tiny_overrides: list[str]
) -> None:
    """One track to validate on, so that the second device has none."""
    settings = [STAGES, "trainer.devices=2", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    command = [sys.executable, "-m", "frametx.train", *tiny_overrides, *settings, "name=two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "two"
    assert len(list(folder.glob("*/finished"))) == 3
    assert "val/loss" in (folder / "1_unsupervised" / "metrics.csv").read_text()
    assert load_separator(folder / "3_adversarial" / "checkpoints" / "best.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL_MODELS)
def test_every_network_trains_on_the_demo_as_typed_and_its_checkpoint_separates(
    model: str, tmp_path: Path
) -> None:
    """Shorter samples than the default's, because ten networks take their time on a CPU."""
    command = [sys.executable, "-m"]
    train = ["frametx.train", f"model={model}", "trainer.max_steps=2", "name=run", "test=false"]
    stages = "curriculum.stages=[{until_step:null,frames:64,batch_size:1,accumulate:1}]"
    train += [stages, "trainer.accelerator=cpu", f"paths.runs_dir={tmp_path}", "logger=csv"]
    done = subprocess.run([*command, *train], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    song = sorted(Path("data/demo/validation/war_of_freedom_1").glob("instrumental.*"))[0]
    separate = ["frametx.separate", f"ckpt={tmp_path}/run/checkpoints/last.ckpt", f"input={song}"]
    separate += [f"output={tmp_path / 'stems'}", "device=cpu"]
    done = subprocess.run([*command, *separate], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "stems").rglob("instrumental.*"))) == 1


@pytest.mark.slow
def test_the_shipped_pipeline_and_a_discriminator_run_to_the_end_on_the_demo(
    tmp_path: Path,
) -> None:
    """With few steps; README.md has the numbers of the whole runs."""
    few = ["trainer.max_steps=8", "trainer.val_check_interval=8", f"paths.runs_dir={tmp_path}"]
    few += ["scheduler.warmup_steps=2", "trainer.enable_progress_bar=false", "~callbacks.progress"]
    for name, kind in (
        ("pipe", ["experiment=pipeline"]),
        ("gan", ["experiment=demo", "discriminator=patchgan_tiny", "test=false"]),
    ):
        command = [sys.executable, "-m", "frametx.train", *kind, *few, f"name={name}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=900
        )
        assert done.returncode == 0, done.stderr[-2_000:]
    last = tmp_path / "pipe" / "3_adversarial" / "checkpoints" / "best.ckpt"
    for ckpt in (last, tmp_path / "gan" / "checkpoints" / "best.ckpt"):
        assert load_separator(ckpt).stems == ("vocals", "instrumental")
    assert len(list((tmp_path / "pipe").glob("*/finished"))) == 3
    supervised = load_separator(tmp_path / "pipe" / "2_supervised" / "checkpoints" / "best.ckpt")
    after = load_separator(last)
    assert isinstance(supervised, torch.nn.Module)
    assert isinstance(after, torch.nn.Module)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(supervised.parameters(), after.parameters(), strict=True)
    )
