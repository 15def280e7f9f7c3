"""What a training starts from: the weights of another one, and what became of each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from frametx.training.parameter_groups import match_names

NUM_NAMED = 4  # of each kind in a report


@dataclass(frozen=True)
class Initialisation:
    """What became of a file's weights and of a network's.

    Attributes:
        loaded: by name, how many numbers.
        left_out: of the file, because the network has none of that name, or was to start anew.
        anew: of the network, as it was drawn.
        reshaped: names of both whose shapes differ: file, network; such a weight is anew.
        options: of the network, told otherwise by the file: file, network.
    """

    loaded: Mapping[str, int]
    left_out: Sequence[str]
    anew: Sequence[str]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    options: Mapping[str, tuple[Any, Any]]

    def describe(self, path: Path | str) -> str:
        """In a few lines, with the first names of each kind."""
        millions = sum(self.loaded.values()) / 1e6
        lines = [
            f"init_from={path}:",
            f"  loaded {len(self.loaded)} weights ({millions:.3g} M numbers)",
        ]
        if self.left_out:
            lines.append(f"  left out {len(self.left_out)} of the file: {_some(self.left_out)}")
        if self.anew:
            lines.append(f"  start anew {len(self.anew)} of the network: {_some(self.anew)}")
        shapes = [f"{n}: file {a}, network {b}" for n, (a, b) in self.reshaped.items()]
        if shapes:
            lines.append(f"  of these, {len(shapes)} have another shape: {_some(shapes)}")
        told = [f"{n}: file {a}, network {b}" for n, (a, b) in self.options.items()]
        if told:
            lines.append(f"  options that differ: {_some(told)}")
        return "\n".join(lines)


def initialise(
    separator: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    path: Path | str,
    strict: bool,
    leave_out: Sequence[str],
    stored_config: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Initialisation:
    """Give a separator the weights of a file, as far as they fit.

    Args:
        separator: freshly drawn.
        weights: of the file, under a separator's names.
        path: of the file, for messages.
        strict: everything must fit, but for what is left out.
        leave_out: patterns of weights that stay as they were drawn.
        stored_config: of the separator in the file.
        config: of this one.

    Raises:
        ValueError: if nothing fits, or, being strict, not everything does.
    """
    have = separator.state_dict()
    refused = match_names(list(have | dict(weights)), leave_out, key="init.leave_out")
    fits = [
        name
        for name, weight in weights.items()
        if name in have and name not in refused and have[name].shape == weight.shape
    ]
    reshaped = {
        name: (tuple(weight.shape), tuple(have[name].shape))
        for name, weight in weights.items()
        if name in have and name not in refused and have[name].shape != weight.shape
    }
    left_out = [name for name in weights if name not in have or name in refused]
    anew = [name for name in have if name not in fits]
    unexpected = [n for n in (*left_out, *anew) if n not in refused]
    if strict and unexpected:
        shapes = [f"{n}: file {a}, network {b}" for n, (a, b) in reshaped.items()]
        raise ValueError(
            f"{path} is a checkpoint of another architecture: {len(set(unexpected))} of "
            f"{len(have | dict(weights))} weights differ ({_some(shapes or unexpected)}); choose "
            "the model it was trained as, or init.strict=false to load what fits"
        )
    if not fits:
        raise ValueError(
            f"{path}: none of its {len(weights)} weights fits the network; choose the model it was "
            "trained as"
        )
    separator.load_state_dict({name: weights[name] for name in fits}, strict=False)
    return Initialisation(
        loaded={name: weights[name].numel() for name in fits},
        left_out=left_out,
        anew=anew,
        reshaped=reshaped,
        options=_different(stored_config, config),
    )


def _different(
    stored: Mapping[str, Any], config: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Plain values that both configs have and tell differently."""
    found: dict[str, tuple[Any, Any]] = {}
    for key, here in config.items():
        there = stored.get(key, here)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            found |= _different(there, here, f"{prefix}{key}.")
        elif _plain(here) != _plain(there):
            found[f"{prefix}{key}"] = (there, here)
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
