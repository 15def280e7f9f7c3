"""python -m frametx.train: compose a config, build its parts, fit, test the best weights."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed
from hydra import compose
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies.launchers import subprocess_script
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from frametx.checkpoint import heard_by, read_checkpoint, recipe
from frametx.config import composition_message, hydra_main, quoted
from frametx.data.trained_on import TrainedOn
from frametx.evaluate import evaluate, evaluation_set, report
from frametx.initial_weights import (
    build_module,
    check_adapters,
    give_weights,
    is_child_process,
    load_members,
    members_of_ensemble,
    own_targets,
    prepare_discriminator,
    stored_config,
)
from frametx.loading import load
from frametx.losses.permutation_invariant import PermutationInvariantSiSnr
from frametx.separator import has_ordered_stems
from frametx.training.adapters import add_adapters
from frametx.training.callbacks import Recipe
from frametx.training.curriculum import ContextCurriculum
from frametx.training.mixtures import MixturesDataModule
from frametx.training.parameter_groups import freeze_parameters

FINISHED = "finished"  # a file in the folder of a stage that need not be run again


def train(cfg: DictConfig) -> Path | None:
    """Train as the config says; returns the best checkpoint, or the last one without validation.

    Raises:
        ValueError: for values that cannot work, before any process is started where possible.
    """
    quieten_lightning()
    check_trainer(cfg)
    resumed = checkpoint_to_resume(cfg)
    members = members_of_ensemble(cfg, resumed)
    L.seed_everything(cfg.seed, workers=True)
    if not cfg.test and cfg.data.get("test") is not None:
        cfg.data.test = None  # what is not scored need be neither found nor decoded
    data = instantiate(cfg.data)
    data.prepare_data()  # before other processes exist: a missing library ends here, in one line
    check_task(cfg, data)
    module = build_module(cfg, members)
    check_order(cfg, module)
    give_weights(cfg, module.separator, resumed)
    freeze_parameters(module, cfg.freeze)
    if cfg.lora.rank is not None:
        say_adapters(module.separator, add_adapters(module.separator, **cfg.lora))
    prepare_discriminator(cfg, module, resumed)
    if members:
        load_members(module.separator.members, members, resumed=resumed)
    check_adapters(cfg, module.separator, resumed)
    keep_metrics(Path(cfg.paths.output_dir))
    trainer = instantiate(cfg.trainer)
    made_by = recipe(stored_config(cfg, members), model=model_name(cfg))
    if cfg.pretraining is not None:
        made_by["pretraining"] = str(cfg.pretraining.task._target_).rpartition(".")[2]
    before = heard_before(cfg, resumed)
    trainer.callbacks.insert(0, Recipe(recipe=made_by, heard_before=before))
    try:
        data.curriculum.check(trainer.world_size)
        warn_of_missing_past(module.separator, data.curriculum)
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    return best_checkpoint(cfg) if trainer.is_global_zero else None


def heard_before(cfg: DictConfig, resumed: str | None) -> TrainedOn:
    """What the weights that a run starts with have heard: its own, or its members'."""
    sources = [resumed or cfg.init_from, cfg.get("discriminator_init_from"), *(cfg.members or ())]
    heard = TrainedOn()
    for source in sources:
        if source is not None:
            heard |= heard_by(source)
    return heard


def check_task(cfg: DictConfig, data: Any) -> None:
    """Refuse a task that cannot be learnt from the data, or two tasks at once.

    Raises:
        ValueError: naming the keys and the way out.
    """
    if cfg.pretraining is None:
        if isinstance(data, MixturesDataModule):
            raise ValueError(
                "data=mixtures has no stems to learn separation from: add pretraining=masked or "
                "pretraining=denoising, or give data with stems"
            )
        return
    if cfg.get("discriminator") is not None:
        raise ValueError("pretraining=... has no estimates to judge: leave discriminator at none")
    if cfg.test:
        raise ValueError("test=true: a network that is being pretrained separates nothing yet")


def check_order(cfg: DictConfig, module: Any) -> None:
    """Refuse a loss that takes stems in any order for a separator that says theirs is fixed.

    Such a separator would not know that its stems may change places from chunk to chunk.

    Raises:
        ValueError: naming the keys and the way out.
    """
    loss = getattr(module, "loss", None)  # of pretraining there is none that compares stems
    if not isinstance(loss, nn.Module):
        return
    has_order = has_ordered_stems(module.separator)
    if has_order and any(isinstance(part, PermutationInvariantSiSnr) for part in loss.modules()):
        raise ValueError(
            "loss=pit_si_snr lets the network give its stems in any order, and with "
            "ordered_stems=true separation would not look for it in every chunk: add "
            "ordered_stems=false, as data=speakers does"
        )
    if not has_order and cfg.module.overlap == 0:
        raise ValueError(
            "module.overlap=0 with ordered_stems=false: only what two chunks both hold tells which "
            "stem is which: take module.overlap=0.25"
        )


def say_adapters(separator: nn.Module, adapted: Sequence[str]) -> None:
    """Print how many numbers learn beside how many that stay."""
    if is_child_process():
        return
    learning = sum(p.numel() for p in separator.parameters() if p.requires_grad)
    total = sum(p.numel() for p in separator.parameters())
    print(
        f"lora: {len(adapted)} weights have a product beside them; {learning / 1e6:.3g} M of "
        f"{total / 1e6:.3g} M numbers learn",
        flush=True,
    )


def warn_of_missing_past(separator: Any, curriculum: ContextCurriculum) -> None:
    """Say so if a network that is shown earlier crops never gets to see one in training."""
    past = getattr(separator, "num_past_frames", 0)
    longest = max(stage.frames for stage in curriculum.stages)
    if past and longest < past + separator.crop_frames:
        warnings.warn(
            f"this network reads {past} frames before the current {separator.crop_frames}, and the "
            f"curriculum's samples have at most {longest} frames: it learns without a past, or "
            "with a part of it; choose curriculum=long, or a smaller model.crop_frames",
            stacklevel=2,
        )


def quieten_lightning() -> None:
    """Leave out what Lightning says that a user can do nothing about."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",  # Lightning 2.6 uses a deprecated class of torch
        "Experiment logs directory",  # Hydra has just made it
        ".*does not have many workers",  # data_wait_percent says whether more would help
        ".*smaller than the logging interval",
        "Checkpoint directory .* exists",  # it is the run's own, resumed
        r"Found \d+ module\(s\) in eval mode",  # members of an ensemble
        ".*sync_dist=True",  # scores have been averaged over all devices by then
        "The dirpath has changed",  # a resumed run looks for its best checkpoint anew
    ):
        warnings.filterwarnings("ignore", message=message)


def check_trainer(cfg: DictConfig) -> None:
    """Refuse a trainer that this machine or this kind of training cannot run.

    Raises:
        ValueError: naming the key, what there is, and the way out.
    """
    devices, accelerator = cfg.trainer.devices, cfg.trainer.accelerator
    wanted = devices if isinstance(devices, int) else None
    num_gpus = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and num_gpus == 0:
        raise ValueError(
            f"trainer.accelerator={accelerator}: this machine has no GPU that torch can use; "
            "leave it at auto"
        )
    if accelerator != "cpu" and wanted is not None and wanted > max(1, num_gpus):
        raise ValueError(
            f"trainer.devices={wanted}: this machine has {num_gpus} GPU(s); give at most that "
            "many, or trainer.accelerator=cpu for as many processes on the CPU"
        )
    if cfg.trainer.max_steps < 1:
        raise ValueError(f"trainer.max_steps={cfg.trainer.max_steps} must be at least 1")
    if str(cfg.trainer.precision) in ("16", "16-mixed", "16-true"):
        raise ValueError(
            f"trainer.precision={cfg.trainer.precision} is not supported: half precision overflows "
            "in training; use strategy=bf16, or 32-true where the device has no bf16"
        )


def checkpoint_to_resume(cfg: DictConfig) -> str | None:
    """The checkpoint that ckpt_path names; `last` is this run's own, else the newest of all runs.

    Raises:
        ValueError: if there is none, or if this run's folder holds one that would be overwritten.
    """
    own = Path(cfg.paths.output_dir) / "checkpoints" / "last.ckpt"
    if cfg.ckpt_path is None:
        if own.exists() and not is_child_process():
            raise ValueError(
                f"{own.parent.parent} already holds a run: ckpt_path=last resumes it, "
                "name=... starts another"
            )
        return None
    if cfg.ckpt_path != "last":
        read_checkpoint(cfg.ckpt_path, also=own_targets(cfg))
        return str(cfg.ckpt_path)
    found = sorted(Path(cfg.paths.runs_dir).glob("**/last.ckpt"), key=lambda p: p.stat().st_mtime)
    if not own.exists() and not found:
        raise ValueError(f"ckpt_path=last: no run under {cfg.paths.runs_dir} has a last.ckpt")
    chosen = own if own.exists() else found[-1]
    print(f"resuming {chosen}", flush=True)
    return str(chosen)


def keep_metrics(run: Path) -> None:
    """Give the metrics of a run that is resumed a name that Lightning's logger does not delete."""
    metrics = run / "metrics.csv"
    if metrics.is_file() and not is_child_process():
        number = len(list(run.glob("metrics.part*.csv"))) + 1
        metrics.rename(run / f"metrics.part{number}.csv")


def best_checkpoint(cfg: DictConfig) -> Path | None:
    """The best checkpoint of a finished run where there was validation, else its last one."""
    folder = Path(cfg.paths.output_dir) / "checkpoints"
    return next((p for n in ("best", "last") if (p := folder / f"{n}.ckpt").is_file()), None)


def model_name(cfg: DictConfig) -> str:
    """The name after `model=`."""
    if HydraConfig.initialized():
        return str(HydraConfig.get().runtime.choices.get("model"))
    return str(cfg.model._target_).rpartition(".")[2]


def child_command(local_rank: int) -> tuple[list[str], str]:
    """The command that starts one more process of this job, and the folder to start it in.

    Lightning repeats the command line of the parent, which in a sweep holds all values of all jobs
    and -m itself: the child then dies on its arguments. This one repeats the overrides of the job.
    """
    flags = get_args_parser().parse_args(sys.argv[1:])
    command = [sys.executable, "-m", "frametx.train"]
    for flag in ("config_dir", "config_path", "config_name"):
        if getattr(flags, flag):
            command += [f"--{flag.replace('_', '-')}", getattr(flags, flag)]
    hydra = HydraConfig.get()
    command += list(hydra.overrides.task)
    command += [
        f"hydra.run.dir='{hydra.runtime.output_dir}'",
        f"hydra.job.name=train_process_{local_rank}",
        "hydra.output_subdir=null",
    ]
    return command, hydra.runtime.cwd


def leave_process_group() -> None:
    """Forget the process group and the environment of a job, so that a sweep's next one starts."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def run(cfg: DictConfig) -> Path | None:
    """Train, then evaluate the best weights on data.test; returns their checkpoint."""
    try:
        best = train(cfg)
    finally:
        if cfg.stage_of is not None or HydraConfig.get().mode == RunMode.MULTIRUN:
            leave_process_group()
    if best is None:
        return None
    print(f"checkpoint: {best}", flush=True)
    if cfg.test:
        device = "cpu" if cfg.trainer.accelerator == "cpu" else "auto"
        pipeline = load(best, device=device, precision="fp32")
        evaluation = evaluate(pipeline, evaluation_set(cfg, pipeline), trained_on=heard_by(best))
        report(evaluation, Path(cfg.paths.output_dir) / "evaluation")
    return best


def run_stages(cfg: DictConfig) -> None:
    """Run the stages of a pipeline, each from the best weights of the one before.

    A stage has a folder of its own, and leaves a file `finished` in it. With ckpt_path=last stages
    that are finished are passed over, and the one that was interrupted is resumed.

    Raises:
        ValueError: if a stage's config cannot be, before any is run, or the folder holds another
            pipeline.
    """
    folder = folder_of_stages(cfg)
    jobs = [stage_config(cfg, name, place) for name, place in stage_folders(cfg, folder)]
    best: Path | None = None
    for job, (name, place) in zip(jobs, stage_folders(cfg, folder), strict=True):
        mark = place / FINISHED
        if not mark.is_file():
            print(f"stage {name}: {place}", flush=True)
            with as_own_job(job, place):
                with open_dict(job):
                    unfinished = place / "checkpoints" / "last.ckpt"
                    job.ckpt_path = str(unfinished) if unfinished.is_file() else None
                    job.init_from = job.init_from if best is None else str(best)
                if run(job) is not None:
                    mark.touch()
        else:
            print(f"stage {name}: finished before", flush=True)
        best = best_checkpoint(job)


def folder_of_stages(cfg: DictConfig) -> Path:
    """Where the folders of the stages lie: this run's own, or the newest with ckpt_path=last.

    Raises:
        ValueError: if there is nothing to go on with, or something that must not be written over.
    """
    own = Path(cfg.paths.output_dir)
    if cfg.ckpt_path not in (None, "last"):
        raise ValueError(
            f"ckpt_path={cfg.ckpt_path}: a pipeline goes on where it stopped, by ckpt_path=last"
        )
    has_begun = any(place.exists() for _, place in stage_folders(cfg, own))
    if cfg.ckpt_path is None:
        if has_begun:
            raise ValueError(
                f"{own} already holds a pipeline: ckpt_path=last goes on with it, name=... starts "
                "another"
            )
        return own
    if has_begun:
        return own
    names = {place.name for _, place in stage_folders(cfg, own)}
    found = [
        path.parent.parent
        for path in Path(cfg.paths.runs_dir).glob("**/last.ckpt")
        if path.parent.parent.name in names
    ]
    if not found:
        raise ValueError(f"ckpt_path=last: no pipeline under {cfg.paths.runs_dir} has begun")
    newest = max(found, key=lambda place: (place / "checkpoints" / "last.ckpt").stat().st_mtime)
    print(f"going on with {newest.parent}", flush=True)
    return newest.parent


def stage_folders(cfg: DictConfig, folder: Path) -> list[tuple[str, Path]]:
    """Name and folder of every stage, in order."""
    return [(str(n), folder / f"{i}_{n}") for i, n in enumerate(cfg.stages, start=1)]


def stage_config(cfg: DictConfig, name: str, place: Path) -> DictConfig:
    """One stage as a run of its own: its overrides, and over them those of the command line.

    Raises:
        ValueError: if it cannot be composed.
    """
    overrides = [
        *(str(text) for text in cfg.stages[name]),
        *HydraConfig.get().overrides.task,
        "stages=null",
        f"stage_of={quoted(place.parent)}",
        f"paths.output_dir={quoted(place)}",
    ]
    try:
        return compose("train", overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        message = composition_message(error, "train", overrides)
        raise ValueError(f"stages.{name}={list(cfg.stages[name])}: {message}") from error


@contextmanager
def as_own_job(job: DictConfig, place: Path) -> Iterator[None]:
    """Let what asks Hydra for its job see this one: names of groups, commands of more processes."""
    pipeline = HydraConfig.instance().cfg
    with open_dict(job):
        job.hydra.runtime.output_dir = str(place)
    place.mkdir(parents=True, exist_ok=True)
    HydraConfig.instance().set_config(job)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = pipeline


@hydra_main("train")
def main(cfg: DictConfig) -> None:
    """Train, or run the stages of a pipeline one after the other."""
    setattr(subprocess_script, "_hydra_subprocess_cmd", child_command)  # noqa: B010 - a private name
    if cfg.stages is None:
        run(cfg)
    else:
        run_stages(cfg)


if __name__ == "__main__":
    main()
