"""Weights that a training run starts with, from the checkpoints that its config names.

Configs stored in checkpoints never become a part of the run's own config: that one is filled in and
instantiated. Members of an ensemble are built by `frametx.stored_config` and handed over as
objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from frametx.checkpoint import (
    PREFIX,
    as_ours,
    build_member,
    load_separator,
    load_weights,
    read_checkpoint,
    read_file,
    separator_weights,
)
from frametx.neural_ensemble import num_maps
from frametx.nn.low_rank import has_adapters
from frametx.pretrained import is_name
from frametx.training.initialisation import initialise
from frametx.training.stopping import is_child_process

MAX_STEPS = 1 << 53  # of a counter


@dataclass(frozen=True)
class Member:
    """A separator inside an ensemble.

    Attributes:
        path: of the checkpoint that its weights are from.
        config: as stored there; plain data.
        weights: under a separator's names.
        is_own: the checkpoint is that separator's own, and not the ensemble's.
    """

    path: str
    config: dict[str, Any]
    weights: Mapping[str, Tensor]
    is_own: bool


def _print_once(text: str) -> None:
    if not is_child_process():
        print(text, flush=True)


def own_targets(cfg: DictConfig) -> list[str]:
    """Classes that the run's own config asks for, which its checkpoints may therefore name."""
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.extend(str(node[key]) for key in node if key == "_target_")
        for child in node.values() if isinstance(node, dict) else node:
            if isinstance(child, dict | list):
                walk(child)

    walk(OmegaConf.to_container(cfg.separator, resolve=True))
    return found


def members_of_ensemble(cfg: DictConfig, resumed: str | None) -> list[Member]:
    """The members that `members` names; the size of the ensemble's network is filled in.

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
    source = resumed or cfg.init_from
    if cfg.members:
        members = [_member_of(str(path)) for path in cfg.members]
    elif source is not None:
        members = _members_inside(str(Path(str(source)).expanduser()))
    else:
        members = []
    if not members:
        raise ValueError("an ensemble needs trained separators: members=[a.ckpt,b.ckpt]")
    cfg.separator.members = None
    cfg.model.in_channels = num_maps(
        num_members=len(members),
        num_given_stems=len(cfg.stems) - 1,
        num_channels=cfg.audio.num_channels,
        maps=cfg.separator.get("maps", "magnitude"),
    )
    return members


def _member_of(path: str) -> Member:
    if not is_name(path):
        path = str(Path(path).expanduser())
    stored = read_checkpoint(path)
    return Member(path, stored["frametx"]["separator"], separator_weights(stored, path), True)


def _members_inside(source: str) -> list[Member]:
    stored = read_checkpoint(source)
    configs = stored["frametx"]["separator"].get("members")
    if configs is None:
        raise ValueError(f"{source} is no ensemble: name its members by members=[a.ckpt,b.ckpt]")
    weights = separator_weights(stored, source)
    return [
        Member(source, config, _below(weights, f"members.{number}."), False)
        for number, config in enumerate(configs)
    ]


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def build_module(cfg: DictConfig, members: Sequence[Member]) -> Any:
    """The training module of a run, around its separator.

    Raises:
        ValueError: if a member's stored config is bad, or its weights do not fit it.
    """
    key = "module" if cfg.pretraining is None else "pretraining"
    if not members:
        return instantiate(cfg[key])
    # the order in which Hydra would: weights that are drawn depend on it
    ensemble = instantiate(cfg.separator, _partial_=True)
    separators = [build_member(one.config, one.weights, one.path) for one in members]
    separator = ensemble(members=separators)
    part = cfg.copy()
    with open_dict(part):
        part[key].separator = None
    return instantiate(part[key], _partial_=True)(separator=separator)


def stored_config(cfg: DictConfig, members: Sequence[Member]) -> dict[str, Any]:
    """The config of the run's separator as its checkpoints store it."""
    config = cast(dict[str, Any], OmegaConf.to_container(cfg.separator, resolve=True))
    if members:
        config["members"] = [member.config for member in members]
    return config


def load_members(
    separators: Sequence[nn.Module], members: Sequence[Member], *, resumed: str | None
) -> None:
    """Give an ensemble's members the weights of checkpoints of their own.

    Raises:
        ValueError: if the run that is resumed has others, which its checkpoint would bring back.
    """
    for separator, member in zip(separators, members, strict=True):
        if not member.is_own:
            continue  # they come with the ensemble's weights
        weights, have = member.weights, separator.state_dict()
        if resumed is None:
            load_weights(separator, weights, member.path)
        elif weights.keys() != have.keys() or any(
            not have[name].cpu().equal(weight) for name, weight in weights.items()
        ):
            raise ValueError(
                f"{member.path} is not the member that {resumed} was trained with, and holds: "
                "leave out members=..., or start a new run with init_from"
            )


def give_weights(cfg: DictConfig, separator: nn.Module, resumed: str | None) -> None:
    """Load what init_from names, and print what became of it; or see that a resumed run fits.

    Raises:
        ValueError: if weights do not fit, or init.* is given without init_from.
    """
    also = own_targets(cfg)
    if resumed is not None:  # before Lightning does it: it would not say what does not fit
        stored = read_checkpoint(resumed, also=also)
        check_resumable(stored, resumed)
        load_weights(separator, separator_weights(stored, resumed), resumed)
        return
    if cfg.init_from is None:
        if cfg.init.leave_out or not cfg.init.strict:
            raise ValueError(f"init={cfg.init} says how to start from a checkpoint: add init_from")
        return
    path = Path(str(cfg.init_from)).expanduser()
    stored = as_ours(read_file(path), path, also=also)
    done = initialise(
        separator,
        separator_weights(stored, path),
        path=path,
        strict=cfg.init.strict,
        leave_out=list(cfg.init.leave_out),
        stored_config=stored["frametx"]["separator"],
        config=cast(dict[str, Any], OmegaConf.to_container(cfg.separator, resolve=True)),
    )
    _print_once(done.describe(path))


def check_adapters(cfg: DictConfig, separator: nn.Module, resumed: str | None) -> None:
    """See that a resumed run has the adapters that it was trained with.

    Raises:
        ValueError: if it has others.
    """
    if resumed is None:
        return
    stored = read_checkpoint(resumed, also=own_targets(cfg))["state_dict"]
    there = {name: value.shape for name, value in stored.items() if name.startswith(PREFIX)}
    here = {f"{PREFIX}{name}": value.shape for name, value in separator.state_dict().items()}
    if there != here:
        raise ValueError(
            f"{resumed} was trained with {'other' if has_adapters(stored) else 'no'} adapters: "
            "resume with the same lora.rank, lora.targets, lora.trained and freeze, or start a new "
            "run with init_from"
        )


def prepare_discriminator(cfg: DictConfig, module: Any, resumed: str | None) -> None:
    """Give the discriminator the encoder of a separator, or see that the resumed run has its like.

    Raises:
        ValueError: if it cannot start so, or the resumed run was trained with another one or none.
    """
    discriminator = getattr(module, "discriminator", None)
    if resumed is not None:
        stored = read_checkpoint(resumed, also=own_targets(cfg))["state_dict"]
        weights = _below(stored, "discriminator.")
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
    _print_once(f"discriminator, from {source}\n{copied}")


def check_resumable(stored: Mapping[str, Any], path: Path | str) -> None:
    """See that the state of training in a checkpoint is what Lightning takes it for.

    Lightning deletes the files that a checkpoint names as its best ones when better ones come, so
    these must be checkpoints in the folder of their run.

    Raises:
        ValueError: naming what is wrong, or missing.
    """
    kinds = {
        "epoch": int,
        "global_step": int,
        "pytorch-lightning_version": str,
        "loops": dict,
        "callbacks": dict,
        "optimizer_states": list,
        "lr_schedulers": list,
    }
    for key, kind in kinds.items():
        if type(stored.get(key)) is not kind:
            raise ValueError(
                f"{path} cannot be resumed, because it has no {key}: it holds weights alone, which "
                "init_from=... takes"
            )
    if not stored["pytorch-lightning_version"].startswith("2."):
        raise ValueError(f"{path} cannot be resumed: it was written by another Lightning than 2.x")
    _check_counters(stored["loops"], f"{path}: loops")
    for key in ("epoch", "global_step", "num_skipped", "num_skipped_discriminator"):
        _check_counters(stored.get(key, 0), f"{path}: {key}")
    for state in (*stored["optimizer_states"], *stored["lr_schedulers"]):
        if not isinstance(state, dict):
            raise ValueError(f"{path} cannot be resumed: the state of its optimiser is damaged")
    for state in stored["callbacks"].values():
        _check_files(state, path)


def _check_counters(value: Any, place: str) -> None:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _check_counters(one, place)
    elif not (isinstance(value, int | None) and 0 <= (value or 0) < MAX_STEPS):
        raise ValueError(f"{place} holds what is no number of steps, so it cannot be resumed")


def _check_files(state: Any, path: Path | str) -> None:
    """Refuse the names of other files than checkpoints in the folder of the run."""
    if not isinstance(state, dict):
        raise ValueError(f"{path} cannot be resumed: the state of a callback is damaged")
    folder = state.get("dirpath")
    names = [state.get(f"{kind}_model_path") for kind in ("best", "last", "kth_best")]
    best = state.get("best_k_models") or {}
    if not isinstance(best, dict):
        raise ValueError(f"{path} cannot be resumed: the state of a callback is damaged")
    for name in (*names, *best):
        if name in (None, ""):
            continue
        is_ours = (
            isinstance(name, str)
            and isinstance(folder, str)
            and not any(mark in name for mark in ("://", "::"))  # of places that are no disk
            and Path(name).suffix == ".ckpt"
            and ".." not in Path(name).parts
            and Path(name).absolute().parent == Path(folder).absolute()
        )
        if not is_ours:
            raise ValueError(
                f"{path} cannot be resumed: it names {ascii(name)[:80]} as a checkpoint of its "
                "run, which is none in the run's folder"
            )
