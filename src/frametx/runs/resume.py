"""What is new about a run that goes on: applied where that is sound, refused where it is not.

A checkpoint holds the settings of its run beside its state. Nearly all of them are free to change
between two steps, because the data and the schedule are pure functions of the step; each that did
change is printed. What the state of the optimiser or the meaning of the weights depends on is not.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from frametx.training.optimizer_settings import group_settings

WATCHED = (
    *("seed", "optimizer", "scheduler", "curriculum", "loss", "module", "augment", "data"),
    *("discriminator", "contest", "pretraining", "freeze", "layer_decay", "lora"),
    "callbacks.ema",
)
"""Parts of a config that decide about the numbers of training."""
FREE = (
    *("data.cache_dir", "data.num_workers", "data.decode_once", "data.remote_cache_gb"),
    *("data.test", "optimizer.fused", "module.attention", "module.recompute"),
    "module.discriminator_optimizer.fused",
)
"""What may change without a word: it changes where or how fast something is computed."""
FREE_OF_NETWORK = ("chunk_frames", "chunk_seconds", "ordered_stems", "members")
"""Options of a separator, beside any dropout, that do not change what its weights mean."""
WAY_OUT = "start a new run from these weights by init_from={0} instead of ckpt_path"
HYPERPARAMETERS = {"initial_lr": "optimizer.lr", "weight_decay": "module.weight_decay"}


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """The settings of a run that its checkpoints keep: plain values by dotted key.

    Interpolations of what is kept anyway are left out, and so are paths: a checkpoint does not tell
    how a disk is organised.
    """
    found: dict[str, Any] = {}
    for part in WATCHED:
        parent, _, key = part.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if isinstance(node, DictConfig) and key in node:
            found.update(_flat(node, key, part))
    return {k: v for k, v in found.items() if not any(f"{k}.".startswith(f"{f}.") for f in FREE)}


def _flat(parent: DictConfig, key: str, path: str) -> dict[str, Any]:
    raw = cast(Any, parent._get_node(key))
    raw = raw._value() if raw is not None else None
    if isinstance(raw, str) and raw.startswith("${") and raw.endswith("}"):
        source = raw[2:-1]
        if source.split(".")[0] in WATCHED or isinstance(parent[key], DictConfig):
            return {}
    if OmegaConf.is_missing(parent, key):
        return {}
    value = parent[key]
    if isinstance(value, DictConfig):
        found = [_flat(value, str(name), f"{path}.{name}") for name in value]
        return {name: one for part in found for name, one in part.items()}
    if isinstance(value, ListConfig):
        value = OmegaConf.to_container(value, resolve=True)
    return {} if _holds_path(value) else {path: value}


def _holds_path(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_path, value.values()))
    if isinstance(value, list):
        return any(map(_holds_path, value))
    return isinstance(value, str) and ("/" in value or "\\" in value)


def check_resumed(
    path: str,
    cfg: DictConfig,
    module: Any,
    data: Any,
    stored: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> list[str]:
    """Compare a run with the one that a checkpoint is of; returns a line for each difference.

    Args:
        path: of the checkpoint.
        cfg: of the run.
        module: of training, whose optimisers are made as they will be.
        data: whose fingerprint is compared.
        stored: contents of the checkpoint.
        settings: of the run.

    Raises:
        ValueError: for a difference that no run can go on with, in one line with the way out.
    """
    recipe = stored["frametx"]
    _check_task(cfg, recipe.get("pretraining"), path)
    separator = cast(dict[str, Any], OmegaConf.to_container(cfg.separator, resolve=True))
    _check_separator(recipe["separator"], separator, path)
    optimizers = module.configure_optimizers()[0]
    changed = _check_optimizers(stored.get("optimizer_states", []), optimizers, cfg, path)
    if recipe.get("settings") is not None:
        changed = differences(recipe["settings"], settings)
    here, there = data.fingerprint, recipe.get("data_fingerprint") or data.fingerprint
    if here != there:
        changed.append(
            f"data {there} -> {here}: the files are not those of the checkpoint; from here on "
            "samples are drawn from these"
        )
    return [f"resume: {line}" for line in changed]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A line for each setting that differs; a part of another class counts as one."""
    replaced = [
        key.removesuffix("._target_")
        for key in there
        if key.endswith("._target_") and here.get(key, there[key]) != there[key]
    ]
    lines = [
        f"{part} {_name(there[f'{part}._target_'])} -> {_name(here[f'{part}._target_'])}"
        for part in replaced
    ]
    for key in dict.fromkeys([*there, *here]):
        if any(key.startswith(f"{part}.") for part in replaced):
            continue
        old, new = there.get(key), here.get(key)
        if _plain(old) != _plain(new):
            lines.append(f"{key} {_text(old)} -> {_text(new)}")
    return lines


def _check_task(cfg: DictConfig, pretraining: str | None, path: str) -> None:
    if bool(pretraining) != (cfg.pretraining is not None):
        there = f"pretraining ({pretraining})" if pretraining else "training to separate"
        here = "pretraining" if cfg.pretraining is not None else "training to separate"
        raise ValueError(
            f"ckpt_path={path} is of {there}, and this run is {here}: {WAY_OUT.format(path)}"
        )


def _check_separator(there: Any, here: Any, path: str, key: str = "separator") -> None:
    """Refuse another network or another way to show it the sound, even if the weights would fit.

    What only one of the two has was not there when the other was written, and is not compared.
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in there.keys() & here.keys():
            if name not in FREE_OF_NETWORK and "dropout" not in name:
                _check_separator(there[name], here[name], path, f"{key}.{name}")
    elif _plain(there) != _plain(here):
        key = key.replace("separator.network", "model").replace("model._target_", "model")
        raise ValueError(
            f"{key}={_text(here)} and ckpt_path={path}, whose run had {_text(there)}: the weights "
            f"would mean something else; leave it out, or {WAY_OUT.format(path)}"
        )


def _check_optimizers(
    states: Iterable[Mapping[str, Any]], optimizers: Iterable[Any], cfg: DictConfig, path: str
) -> list[str]:
    """Refuse a state that is of another optimiser; returns a line for each setting that differs."""
    lines: dict[str, None] = {}
    names = ("optimizer", "module.discriminator_optimizer")
    for name, state, optimizer in zip(names, states, optimizers, strict=False):
        groups = state["param_groups"]
        kind = _name(OmegaConf.select(cfg, f"{name}._target_") or type(optimizer).__name__)
        if _signature(groups[0]) != _signature(optimizer.param_groups[0]):
            raise ValueError(
                f"{name}={kind.lower()} and ckpt_path={path}, which holds the state of another "
                f"optimizer ({_guess(groups[0])}): leave it out, or {WAY_OUT.format(path)}"
            )
        sizes = [[len(g["params"]) for g in one] for one in (groups, optimizer.param_groups)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"ckpt_path={path}: other parameters learn, or in other groups, than in its run: "
                "resume with the same freeze, layer_decay, lora and loss, or "
                f"{WAY_OUT.format(path)}"
            )
        for old, new in zip(groups, group_settings(optimizer), strict=True):
            for key in sorted(new.keys() & old.keys() - {"fused", "foreach", "lr", "params"}):
                if _plain(old[key]) != _plain(new[key]):
                    shown = HYPERPARAMETERS.get(key, f"optimizer.{key}")
                    shown = shown if name == "optimizer" else f"{name}.{key.split('_')[-1]}"
                    lines[f"{shown} {_text(old[key])} -> {_text(new[key])}"] = None
    return list(lines)


def _signature(group: Mapping[str, Any]) -> tuple[frozenset[str], Any]:
    """What tells optimisers apart: the names of their settings, and Adam from AdamW."""
    added = ("params", "initial_lr", "lr_factor")  # by us, and by the schedule
    return frozenset(group) - frozenset(added), group.get("decoupled_weight_decay")


def _guess(group: Mapping[str, Any]) -> str:
    if "momentum" in group and "nesterov" in group:
        return "sgd"
    if "betas" in group:
        return "adamw" if group.get("decoupled_weight_decay", True) else "adam"
    return "of other settings"


def _name(target: str) -> str:
    return str(target).rpartition(".")[2]


def _plain(value: Any) -> Any:
    """Values that are equal whatever they went through: tuples as lists, whole floats as such."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return value


def _text(value: Any) -> str:
    """A value as short as it may be typed: 1e-4 for 0.0001."""
    if isinstance(value, float):
        plain = f"{value:g}"
        digits, _, exponent = f"{value:e}".partition("e")
        short = f"{float(digits):g}e{int(exponent)}"
        return short if len(short) < len(plain) else plain
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_text(one)}' for key, one in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
