"""python -m frametx.train: compose a config, build its parts, fit, test the best weights."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from torch import nn

from frametx.checkpoint import heard_by, read_checkpoint, recipe
from frametx.config import hydra_main
from frametx.data.trained_on import TrainedOn
from frametx.evaluate import evaluate, evaluation_set, report
from frametx.loading import load
from frametx.losses.permutation_invariant import PermutationInvariantSiSnr
from frametx.runs.fit import fit
from frametx.runs.folder import (
    best_checkpoint,
    check_folder,
    checkpoint_to_resume,
    is_sweep,
    keep_metrics,
    locked,
)
from frametx.runs.initial_weights import (
    Member,
    build_module,
    check_adapters,
    give_weights,
    load_members,
    members_of_ensemble,
    own_targets,
    prepare_discriminator,
    stored_config,
)
from frametx.runs.interruption import describe_stop
from frametx.runs.processes import is_child_process, leave_process_group
from frametx.runs.resume import check_resumed, settings_of
from frametx.runs.stages import run_stages
from frametx.runs.sweeps import continued, is_finished, job_number, mark_finished
from frametx.runs.trainer import check_trainer, make_trainer, quieten_lightning
from frametx.separator import has_ordered_stems
from frametx.training.adapters import add_adapters
from frametx.training.callbacks import Recipe
from frametx.training.curriculum import ContextCurriculum
from frametx.training.mixtures import MixturesDataModule
from frametx.training.parameter_groups import freeze_parameters
from frametx.training.stopping import STOP, Stopped


def train(cfg: DictConfig) -> Path | None:
    """Train as the config says; returns the best checkpoint, or the last one without validation.

    Raises:
        ValueError: for values that cannot work, before any process is started where possible.
    """
    quieten_lightning()
    check_trainer(cfg)
    settings = settings_of(cfg)  # before instantiate, which fills interpolations in
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
    say_differences(cfg, module, data, settings, resumed)
    keep_metrics(Path(cfg.paths.output_dir))
    trainer = make_trainer(cfg)
    before = heard_before(cfg, resumed)
    cast(Any, trainer).callbacks.insert(
        0, Recipe(recipe=recipe_of(cfg, members, settings), heard_before=before)
    )
    check_curriculum(data.curriculum, trainer)
    warn_of_missing_past(module.separator, data.curriculum)
    fit(trainer, module, data, resumed=resumed, folder=Path(cfg.paths.output_dir))
    return best_checkpoint(cfg) if trainer.is_global_zero else None


def say_differences(
    cfg: DictConfig, module: Any, data: Any, settings: dict[str, Any], resumed: str | None
) -> None:
    """Print what is new about a run that goes on, a line each.

    Raises:
        ValueError: if it cannot go on so.
    """
    if resumed is None:
        return
    stored = read_checkpoint(resumed, also=own_targets(cfg))
    lines = check_resumed(resumed, cfg, module, data, stored, settings)
    if not is_child_process():
        for line in lines:
            print(line, flush=True)


def recipe_of(
    cfg: DictConfig, members: Sequence[Member], settings: dict[str, Any]
) -> dict[str, Any]:
    """What the checkpoints of a run say about themselves."""
    config = stored_config(cfg, members)
    made_by = recipe(config, model=model_name(cfg)) | {"settings": settings}
    if cfg.pretraining is not None:
        made_by["pretraining"] = str(cfg.pretraining.task._target_).rpartition(".")[2]
    return made_by


def check_curriculum(curriculum: ContextCurriculum, trainer: L.Trainer) -> None:
    """See that the devices can share every step.

    Raises:
        ValueError: if they cannot, or Lightning refuses the devices.
    """
    try:
        curriculum.check(trainer.world_size)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error


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


def model_name(cfg: DictConfig) -> str:
    """The name after `model=`."""
    if HydraConfig.initialized():
        return str(HydraConfig.get().runtime.choices.get("model"))
    return str(cfg.model._target_).rpartition(".")[2]


def run(cfg: DictConfig) -> Path | None:
    """Train, then evaluate the best weights on data.test; returns their checkpoint."""
    with locked(Path(cfg.paths.output_dir)):
        try:
            best = train(cfg)
        finally:
            if (cfg.stage_of is not None or is_sweep()) and not is_child_process():
                leave_process_group()
        if best is None:
            return None
        print(f"checkpoint: {best}", flush=True)
        try:
            score(cfg, best)
        except Stopped as stopped:
            stopped.note = f"training had ended: python -m frametx.evaluate ckpt={best} scores it"
            raise
    return best


def score(cfg: DictConfig, best: Path) -> None:
    """Evaluate a checkpoint on data.test, if test=true."""
    if cfg.test:
        device = "cpu" if cfg.trainer.accelerator == "cpu" else "auto"
        pipeline = load(best, device=device, precision="fp32")
        evaluation = evaluate(pipeline, evaluation_set(cfg, pipeline), trained_on=heard_by(best))
        report(evaluation, Path(cfg.paths.output_dir) / "evaluation")


def run_job(cfg: DictConfig) -> None:
    """Train, or run the stages of a pipeline, as one job of a sweep or as the only one."""
    if not is_sweep():
        run_all(cfg)
    elif is_finished(cfg):
        print(f"job {job_number()}: finished before", flush=True)
    else:
        with locked(Path(cfg.paths.output_dir).parent):
            run_all(cfg)
            mark_finished(cfg)


def run_all(cfg: DictConfig) -> None:
    """Train, or run the stages of a pipeline one after the other."""
    if cfg.stages is None:
        run(cfg)
    else:
        run_stages(cfg, run)


@hydra_main("train", prepare=continued, before=check_folder)
def command(cfg: DictConfig) -> None:
    """Run, and end in one line if a signal says so."""
    try:
        run_job(cfg)
    except Stopped as stopped:
        if is_child_process():
            sys.exit(0)  # the main process speaks for all, and takes no other code well
        print(describe_stop(stopped, cfg), file=sys.stderr, flush=True)
        stopped.is_reported = True
        raise


def main() -> None:
    """Run the command line, which SIGTERM and Ctrl-C stop between two steps."""
    with STOP.caught():
        try:
            command()
        except Stopped as stopped:
            if not stopped.is_reported:
                print(f"stopped by {stopped.by}: nothing to save yet", file=sys.stderr, flush=True)
            raise


if __name__ == "__main__":
    main()
