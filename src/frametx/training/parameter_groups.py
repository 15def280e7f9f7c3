"""Which parameters learn, and how fast: frozen parts, weight decay, rates that fall with depth."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # of any number of dimensions
from torch.optim import Optimizer

DOWN = ("encoders", "encoder_transformers")
MIDDLE = ("bridge", "transformers", "layers")
UP = ("decoders", "decoder_transformers")  # stored from the top level down, run from below


def parameter_groups(
    module: nn.Module,
    *,
    weight_decay: float,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The parameters that learn, as groups for an optimiser.

    Args:
        module: whose parameters.
        weight_decay: of matrices and kernels; norms, biases and vectors have none.
        layer_decay: the rate of a level is the full rate times this to the power of `distances`;
            None is the full rate for all. Its groups have an `lr_factor`, which `optimizer_of`
            knows what to do with.

    Raises:
        ValueError: if nothing is left to learn, or the decay cannot work.

    Source: rates that fall with depth: Clark et al., "ELECTRA" (2020), appendix A.
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(
            f"layer_decay={layer_decay} must be above 0 and at most 1, as 0.8; null gives every "
            "layer the same rate"
        )
    far = {} if layer_decay is None else distances(module)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_plain = parameter.ndim < 2 or "norm" in name or name.endswith("bias")
            groups.setdefault((far.get(name, 0), is_plain), []).append(parameter)
    if not groups:
        raise ValueError("freeze leaves nothing that could learn: give it fewer patterns")
    return [
        {"params": groups[distance, is_plain], "weight_decay": 0.0 if is_plain else weight_decay}
        | ({} if layer_decay is None else {"lr_factor": layer_decay**distance})
        for distance, is_plain in sorted(groups)
    ]


def optimizer_of(
    make: Callable[[Iterable[dict[str, Any]]], Optimizer], groups: Iterable[dict[str, Any]]
) -> Optimizer:
    """An optimiser for these groups, each with its share of the full rate.

    Raises:
        ValueError: if it does not take an option that it is given.
    """
    try:
        optimizer = make(groups)
    except TypeError as error:
        raise ValueError(f"optimizer: {error}: take that key out, or choose another") from error
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_factor", 1.0)
    return optimizer


def freeze_parameters(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Let the parameters with such names learn no more; returns their names.

    A batch norm that is frozen keeps the statistics it has. Dropout of a frozen part stays on: what
    learns behind it then sees what it saw in pretraining.

    Args:
        module: of training; `separator.` before its names may be left out.
        patterns: of names, with * and ?: `network.encoders.*`.

    Raises:
        ValueError: if a pattern fits no name, listing near ones.
    """
    found = match_names([name for name, _ in module.named_parameters()], patterns, key="freeze")
    for name, parameter in module.named_parameters():
        if name in found:
            parameter.requires_grad_(False)
    keep_statistics(module)
    return sorted(found)


def keep_statistics(module: nn.Module) -> None:
    """Let batch norms of which no parameter learns keep the statistics they have."""
    for layer in module.modules():
        learns = [parameter.requires_grad for parameter in layer.parameters()]
        if isinstance(layer, _BatchNorm) and learns and not any(learns):
            layer.momentum = 0.0


def match_names(names: Sequence[str], patterns: Sequence[str], *, key: str) -> set[str]:
    """The names that one of the patterns fits, with or without `separator.` before them.

    Args:
        names: to choose from.
        patterns: with * and ?.
        key: of the config, for the message.

    Raises:
        ValueError: if a pattern fits none, listing near names.
    """
    if isinstance(patterns, str):
        raise ValueError(f"{key}={patterns} must be a list: {key}=[{patterns}]")
    short = {name: name.removeprefix("separator.") for name in names}
    found: set[str] = set()
    for pattern in patterns:
        fits = {n for n in names if fnmatchcase(n, pattern) or fnmatchcase(short[n], pattern)}
        if not fits:
            near = difflib.get_close_matches(
                pattern.rstrip(".*"), _and_parents(short.values()), n=3, cutoff=0.4
            )
            hint = ", ".join(near) or ", ".join(list(short.values())[:3])
            raise ValueError(
                f"{key}: {pattern} fits no parameter; there is, for instance, {hint} "
                "(a whole part is named by its name and .*)"
            )
        found |= fits
    return found


def distances(module: nn.Module) -> dict[str, int]:
    """How many levels lie between each parameter and the output, by name.

    A network of the family is a U-Net of levels, or a pile of layers:

        input         embedding, input_transformer, ...     what is made before the first list
        down          encoders.0 ... encoders.n             with encoder_transformers beside them
        middle        bridge, transformers, layers          one level each; what leads in or out too
        up            decoders.n ... decoders.0             with decoder_transformers beside them
        output        norm_out, out, ...                    what is made behind the first list: 0

    Of lists side by side the shorter one has the deeper levels. What lies outside a network has
    distance 0.

    Raises:
        ValueError: if no network in the module has such levels.
    """
    networks = {
        name: part
        for name, part in module.named_modules()
        if any(isinstance(getattr(part, own, None), nn.ModuleList) for own in (*DOWN, *MIDDLE))
        and hasattr(part, "out")
    }
    if not networks:
        raise ValueError(
            f"layer_decay: {type(module).__name__} has no network with levels in it; leave it at "
            "null"
        )
    found: dict[str, int] = {}
    for prefix, network in networks.items():
        levels = _levels(network)
        for name, _ in network.named_parameters(prefix=prefix):
            child, entry = [*name.removeprefix(f"{prefix}.").split("."), ""][:2]
            found[name] = levels.get((child, entry), levels.get((child, ""), 0))
    return found


def _levels(network: nn.Module) -> Mapping[tuple[str, str], int]:
    """Distance from the output of every child, or of every entry of a list among the children."""
    children = dict(network.named_children())
    lists = {n: len(c) for n, c in children.items() if isinstance(c, nn.ModuleList)}
    names = list(children)
    first_list = min(names.index(n) for n in lists if n in (*DOWN, *MIDDLE, *UP))
    num_up = max([lists[n] for n in UP if n in lists], default=0)
    num_down = max([lists[n] for n in DOWN if n in lists], default=0)
    num_middle = sum(lists[n] for n in MIDDLE if n in lists)
    levels: dict[tuple[str, str], int] = {}
    behind = 1 + num_up
    for name in reversed(names):
        if name in MIDDLE and name in lists:
            for i in reversed(range(lists[name])):
                levels[name, str(i)] = behind
                behind += 1
    for name in names:
        size = lists.get(name, 0)
        if name in UP and size:
            for i in range(size):
                levels[name, str(i)] = 1 + num_up - size + i
        elif name in DOWN and size:
            for i in range(size):
                levels[name, str(i)] = num_up + num_middle + size - i
        elif name not in MIDDLE or not size:
            is_input = names.index(name) < first_list
            levels[name, ""] = 1 + num_up + num_middle + num_down if is_input else 0
    in_middle = [n for n in names if n in MIDDLE and n in lists]
    for before, name, after in zip(names, names[1:], names[2:], strict=False):
        if name not in lists and before in DOWN and after in in_middle:  # it leads into the middle
            levels[name, ""] = levels[after, "0"]
        elif name not in lists and before in in_middle and after in UP:  # and this one out of it
            levels[name, ""] = levels[before, str(lists[before] - 1)]
    return levels


def _and_parents(names: Iterable[str]) -> list[str]:
    """The names, and those of all parts above them."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            found[".".join(parts[:end])] = None
    return list(found)
