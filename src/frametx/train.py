"""python -m frametx.train: compose a config, build its parts, fit, test the best weights."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from frametx.checkpoint import (
    PREFIX,
    as_ours,
    heard_by,
    load_separator,
    load_weights,
    read_checkpoint,
    read_file,
    recipe,
    refuse_foreign_targets,
)
from frametx.checkpoint import separator_weights as weights_of
from frametx.config import hydra_main
from frametx.data.trained_on import TrainedOn
from frametx.evaluate import evaluate, evaluation_set, report
from frametx.loading import load
from frametx.losses.permutation_invariant import PermutationInvariantSiSnr
from frametx.nn.low_rank import has_adapters
from frametx.runs.fit import fit
from frametx.runs.folder import (
    best_checkpoint,
    check_folder,
    checkpoint_to_resume,
    is_sweep,
    keep_metrics,
    locked,
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
from frametx.training.initialisation import initialise
from frametx.training.mixtures import MixturesDataModule
from frametx.training.parameter_groups import freeze_parameters
from frametx.training.stopping import STOP, Stopped

Stored = tuple[str, dict[str, Any]]  # path and contents of a checkpoint


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
    module = instantiate(cfg.module if cfg.pretraining is None else cfg.pretraining)
    check_order(cfg, module)
    give_weights(cfg, module.separator, resumed)
    freeze_parameters(module, cfg.freeze)
    if cfg.lora.rank is not None:
        say_adapters(module.separator, add_adapters(module.separator, **cfg.lora))
    prepare_discriminator(cfg, module, resumed)
    if members:
        load_members(module.separator.members, members, resumed=resumed)
    check_adapters(module.separator, resumed)
    say_differences(cfg, module, data, settings, resumed)
    keep_metrics(Path(cfg.paths.output_dir))
    trainer = make_trainer(cfg)
    before = heard_before(cfg, resumed)
    cast(Any, trainer).callbacks.insert(
        0, Recipe(recipe=recipe_of(cfg, settings), heard_before=before)
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
    lines = check_resumed(resumed, cfg, module, data, read_checkpoint(resumed), settings)
    if not is_child_process():
        for line in lines:
            print(line, flush=True)


def recipe_of(cfg: DictConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoints of a run say about themselves."""
    config = cast(dict[str, Any], OmegaConf.to_container(cfg.separator, resolve=True))
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


def give_weights(cfg: DictConfig, separator: nn.Module, resumed: str | None) -> None:
    """Load what init_from names, and say what became of it; or see that a resumed run fits.

    Raises:
        ValueError: if weights do not fit, or init.* is given without init_from.
    """
    if resumed is not None:  # before Lightning does it: it would not say what does not fit
        load_weights(separator, weights_of(read_checkpoint(resumed)), resumed)
        return
    if cfg.init_from is None:
        if cfg.init.leave_out or not cfg.init.strict:
            raise ValueError(f"init={cfg.init} says how to start from a checkpoint: add init_from")
        return
    path = Path(str(cfg.init_from)).expanduser()
    stored = as_ours(read_file(path), path)
    done = initialise(
        separator,
        weights_of(stored),
        path=path,
        strict=cfg.init.strict,
        leave_out=list(cfg.init.leave_out),
        stored_config=stored["frametx"]["separator"],
        config=cast(dict[str, Any], OmegaConf.to_container(cfg.separator, resolve=True)),
    )
    if not is_child_process():
        print(done.describe(path), flush=True)


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


def check_adapters(separator: nn.Module, resumed: str | None) -> None:
    """See that a resumed run has the adapters that it was trained with.

    Raises:
        ValueError: if it has others.
    """
    if resumed is None:
        return
    stored = read_checkpoint(resumed)["state_dict"]
    there = {name: value.shape for name, value in stored.items() if name.startswith(PREFIX)}
    here = {f"{PREFIX}{name}": value.shape for name, value in separator.state_dict().items()}
    if there != here:
        raise ValueError(
            f"{resumed} was trained with {'other' if has_adapters(stored) else 'no'} adapters: "
            "resume with the same lora.rank, lora.targets, lora.trained and freeze, or start a new "
            "run with init_from"
        )


def members_of_ensemble(cfg: DictConfig, resumed: str | None) -> list[Stored]:
    """The checkpoints that `members` names; their configs become a part of the ensemble's.

    Of a run that goes on from an ensemble's checkpoint, which holds its members, they need not be
    named again.

    Raises:
        ValueError: if an ensemble has no members, or another model has some, or they are not
            checkpoints of ours.
    """
    is_ensemble = "members" in cfg.separator
    if not is_ensemble and cfg.members is None:
        return []
    if not is_ensemble:
        raise ValueError(f"members={cfg.members} need model=neural_ensemble beside them")
    if not (cfg.members is None or OmegaConf.is_list(cfg.members)):
        raise ValueError(f"members={cfg.members} must be a list: members=[a.ckpt,b.ckpt]")
    paths = [str(Path(path).expanduser()) for path in cfg.members or ()]
    stored = [(path, read_checkpoint(path)) for path in paths]
    configs = [checkpoint["frametx"]["separator"] for _, checkpoint in stored]
    source = resumed or cfg.init_from
    if not stored and source is not None:
        configs = read_checkpoint(source)["frametx"]["separator"].get("members")
        if configs is None:
            raise ValueError(
                f"{source} is no ensemble: name its members by members=[a.ckpt,b.ckpt]"
            )
    if not configs:
        raise ValueError("model=neural_ensemble needs trained separators: members=[a.ckpt,b.ckpt]")
    for path, checkpoint in stored:
        refuse_foreign_targets(checkpoint["frametx"]["separator"], path)
    cfg.separator.members = configs
    num_maps = (len(cfg.stems) - 1) * cfg.audio.num_channels  # of one member's masks
    cfg.model.in_channels = cfg.audio.num_channels + len(configs) * num_maps
    return stored


def load_members(
    members: Iterable[nn.Module], stored: Iterable[Stored], *, resumed: str | None
) -> None:
    """Give an ensemble's members their weights.

    Raises:
        ValueError: if the run that is resumed has others, which its checkpoint would bring back.
    """
    for member, (path, checkpoint) in zip(members, stored, strict=True):
        weights, have = weights_of(checkpoint), member.state_dict()
        if resumed is None:
            load_weights(member, weights, path)
        elif weights.keys() != have.keys() or any(
            not torch.equal(have[name].cpu(), weight) for name, weight in weights.items()
        ):
            raise ValueError(
                f"{path} is not the member that {resumed} was trained with, and holds: leave out "
                "members=..., or start a new run with init_from"
            )


def prepare_discriminator(cfg: DictConfig, module: Any, resumed: str | None) -> None:
    """Give the discriminator the encoder of a separator, or see that the resumed run has its like.

    Raises:
        ValueError: if it cannot start so, or the resumed run was trained with another one or none.
    """
    discriminator = getattr(module, "discriminator", None)
    if resumed is not None:
        prefix = "discriminator."
        stored = read_checkpoint(resumed)["state_dict"]
        weights = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        if bool(weights) != (discriminator is not None):
            there, here = ("a", "none") if weights else ("no", "one")
            raise ValueError(
                f"{resumed} was trained with {there} discriminator and this run has {here}: resume "
                "with the same discriminator=..., or start a new run with init_from"
            )
        if discriminator is not None:
            load_weights(discriminator, weights, f"the discriminator in {resumed}")
    source = cfg.get("discriminator_init_from")
    if source is None or resumed is not None:
        return
    if not hasattr(discriminator, "from_generator"):
        raise ValueError(
            f"discriminator_init_from={source}: {type(discriminator).__name__} is no encoder half "
            "of a separator; take discriminator=frame, or leave it out"
        )
    generator = load_separator(source)
    copied = cast(Any, discriminator).from_generator(cast(Any, generator).network)
    print(f"discriminator, from {source}\n{copied}", flush=True)


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
