"""Checkpoints of the original programs: which network a state_dict is of, and its weights as ours.

Everything is read from the names and shapes of the entries. A variant is a module with

    NAME       what the user types after `model=`
    NETWORK    the class
    KEYS       a pattern that every entry's name matches as a whole
    convert    state_dict -> arguments of the class, and weights under our names
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from frametx.legacy import (
    asym_unet_mct,
    bert,
    frame_transformer_v1,
    positionwise,
    v2b,
    v3,
    v7,
    v8,
    v9_patch,
    v10_temporal,
)
from frametx.legacy.layers import Weights

VARIANTS: tuple[ModuleType, ...] = (
    asym_unet_mct,
    bert,
    frame_transformer_v1,
    positionwise,
    v10_temporal,
    v2b,
    v3,
    v7,
    v8,
    v9_patch,
)


# What reading sizes from shapes raises where these are of no network of a variant.
_MISFITS = (LookupError, ValueError, ArithmeticError, RuntimeError, TypeError, AttributeError)
MAX_NAME_LETTERS = 500  # of an entry: names are matched by patterns

# Under these names training scripts keep a network's weights among other things.
WRAPPERS = ("state_dict", "model_state_dict", "model", "generator", "net")


class Converted(NamedTuple):
    """A state_dict that was understood.

    Attributes:
        name: of the variant, what the user types after `model=`.
        config: arguments of its class.
        weights: to load into it.
    """

    name: str
    config: dict[str, Any]
    weights: Weights


def recognise(
    state_dict: Mapping[str, Tensor],
    *,
    num_heads: int | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[str, dict[str, Any]]:
    """Name and configuration of the network a state_dict was saved from, see `convert`."""
    name, config, _ = convert(state_dict, num_heads=num_heads, options=options)
    return name, config


def convert(
    state_dict: Mapping[str, Tensor],
    *,
    num_heads: int | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Converted:
    """Find the variant by its entries' names and shapes, and convert its weights.

    Args:
        state_dict: of an original network, with or without the `module.` of a parallel wrapper.
        num_heads: of every attention, for files that do not tell.
        options: arguments of the network's class that leave no trace in a file (dropout, quirks),
            instead of those the original had.

    Raises:
        ValueError: if it is none of the variants, naming the nearest and what differs, or if the
            network has no such option.
    """
    old = {key.removeprefix("module."): value for key, value in state_dict.items()}
    by_match = sorted(VARIANTS, key=lambda variant: len(_unknown(variant, old)))
    nearest, complaint = by_match[0], ""
    for variant in by_match:
        if _unknown(variant, old):
            break
        try:
            config, weights = variant.convert(old, num_heads=num_heads)
        except _MISFITS as error:
            missing = f"the file has no {error}" if isinstance(error, KeyError) else str(error)
            if not complaint:
                nearest, complaint = variant, missing
        else:
            unknown = sorted(options.keys() - config.keys())
            if unknown:
                raise ValueError(
                    f"options {', '.join(unknown)}: {variant.NAME} has none of that name; "
                    f"it has {', '.join(sorted(config))}"
                )
            return Converted(variant.NAME, config | dict(options), weights)
    if not complaint:
        unknown = _unknown(nearest, old)
        complaint = f"it has no place for {len(unknown)} of {len(old)} entries: " + ", ".join(
            f"{key} {tuple(old[key].shape)}" for key in unknown[:3]
        )
    raise ValueError(
        f"no known network has these entries; the nearest is {nearest.NAME}, but {complaint}"
    )


def build(
    state_dict: Mapping[str, Tensor],
    *,
    num_heads: int | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """The network of a state_dict with its weights, in evaluation mode; see `convert`."""
    name, config, weights = convert(state_dict, num_heads=num_heads, options=options)
    network = network_class(name)(**config)
    network.load_state_dict(weights)
    return network.eval()


def state_dict_of(stored: Any) -> Mapping[str, Tensor]:
    """The network's weights in what was read, at the top or one level down.

    Raises:
        ValueError: if there are none, or the file is ours.
    """
    if isinstance(stored, Mapping) and "frametx" in stored:
        raise ValueError("this is a frametx checkpoint already; separate and evaluate take it")
    candidates = [stored]
    if isinstance(stored, Mapping):
        candidates += [stored[name] for name in WRAPPERS if name in stored]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate:
            values = candidate.values()
            if all(isinstance(value, Tensor) for value in values):
                names = [str(name) for name in candidate]
                if max(map(len, names)) > MAX_NAME_LETTERS:
                    raise ValueError(f"an entry has a name of {max(map(len, names))} letters")
                return {name: value.float() for name, value in zip(names, values, strict=True)}
    found = type(stored).__name__
    if isinstance(stored, Mapping):
        found = ", ".join(ascii(name).strip("'")[:40] for name in list(stored)[:8])
    raise ValueError(f"it holds no weights of a network, but {found or 'nothing'}")


def separator_config(
    converted: Converted,
    *,
    stems: Sequence[str] = ("vocals", "instrumental"),
    complement: str = "vocals",
    sample_rate: int = 44_100,
    hop_length: int | None = None,
    chunk_frames: int | None = None,
    top_bin: str = "zero",
) -> dict[str, Any]:
    """What a checkpoint stores to build the separator of a converted network.

    Args:
        converted: the network.
        stems: the originals' mask is that of the instruments.
        complement: the stem that is the mixture minus the other.
        sample_rate: Hz.
        hop_length: samples; None is half of n_fft, as all originals had it.
        chunk_frames: of a chunk at separation time; None is 1024, or a crop of a network that has
            crops.
        top_bin: whom the Nyquist bin goes to: `zero` is the complement, as in the originals.
    """
    network = network_class(converted.name)
    n_fft = converted.config["n_fft"]
    return {
        "_target_": "frametx.separator.SpectrogramSeparator",
        "stft": {
            "_target_": "frametx.audio.stft.Stft",
            "n_fft": n_fft,
            "hop_length": n_fft // 2 if hop_length is None else hop_length,
        },
        "network": {
            "_target_": f"{network.__module__}.{network.__qualname__}",
            **converted.config,
        },
        "stems": list(stems),
        "complement": complement,
        "sample_rate": sample_rate,
        "num_channels": converted.config["in_channels"],
        "chunk_frames": converted.config.get("crop_frames", 1024)
        if chunk_frames is None
        else chunk_frames,
        "scale": "chunk_peak",
        "top_bin": top_bin,
    }


def network_class(name: str) -> type[nn.Module]:
    """The class of a variant."""
    return next(variant.NETWORK for variant in VARIANTS if name == variant.NAME)


def _unknown(variant: ModuleType, old: Mapping[str, Tensor]) -> list[str]:
    return [key for key in old if not variant.KEYS.fullmatch(key)]
