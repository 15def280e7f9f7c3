"""The original state_dicts of the position-wise U-Net."""

import re
from typing import Any

from frametx.legacy.layers import (
    Convert,
    Weights,
    convert_blocks,
    count,
    linear,
    matrix,
    memory_attention,
    nested_affine,
    self_attention,
)
from frametx.models.positionwise import Positionwise

NAME = "positionwise"
NETWORK = Positionwise
_LINEAR = r"weight_(pw|dw)"
_NORM = r"norm\.(weight|bias)"
_ATTENTION = (
    rf"((rotary_)?embedding\.freqs|[qkv]_proj\.(0\.weight_pw|1\.weight)|[qk]_norm\.{_NORM}"
    r"|(out|o)_proj\.weight_pw)"
)
KEYS = re.compile(
    rf"out|(enc|dec)\d+\.((norm\d?)\.{_NORM}|(linear\d|identity)\.{_LINEAR})"
    rf"|(enc|dec)\d+_transformer\.(norm\d\.{_NORM}|attn\d?\.{_ATTENTION}|linear\d\.{_LINEAR})"
)


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `Positionwise`, and the weights to load into it.

    Args:
        state_dict: of the original network.
        num_heads: not needed: the norms of queries are as wide as a head.

    Raises:
        KeyError, ValueError: if this is not such a state_dict: an entry is missing, or too many.
    """
    old = dict(state_dict)
    config = _config(old)
    blocks: dict[str, tuple[str, Convert]] = {"out": ("out", matrix)}
    num_levels = len(config["widths"])
    for level in range(num_levels):
        name = f"enc{level + 1}"
        if config["has_unused_norms"]:
            blocks[f"unused_norms.{level}"] = (f"{name}_transformer.norm3", nested_affine)
        blocks[f"encoders.{level}"] = (name, encoder)
        blocks[f"encoder_transformers.{level}"] = (f"{name}_transformer", encoder_transformer)
    for level in range(num_levels - 1):
        name = f"dec{level + 1}"
        blocks[f"decoders.{level}"] = (name, decoder)
        blocks[f"decoder_transformers.{level}"] = (f"{name}_transformer", decoder_transformer)
    return config, convert_blocks(old, blocks)


def _config(old: Weights) -> dict[str, Any]:
    levels = [f"enc{i + 1}_transformer." for i in range(count(old, r"enc(\d+)\."))]
    maps, features, _ = zip(
        *(old[level + "attn.q_proj.0.weight_pw"].shape for level in levels), strict=True
    )
    out_channels, channels = old["out"].shape
    return {
        "in_channels": old["enc1.linear1.weight_dw"].shape[1],
        "out_channels": out_channels,
        "n_fft": 2 * features[0],
        "channels": channels,
        "widths": [count // channels for count in maps],
        "num_heads": [
            count // len(old[level + "attn.q_norm.norm.weight"])
            for level, count in zip(levels, features, strict=True)
        ],
        "expansion_factor": old[levels[0] + "linear1.weight_pw"].shape[1] // features[0],
        "num_taps": old[levels[0] + "attn.q_proj.1.weight"].shape[-1],
        "dropout": 0.1,
        "input_range": [-1.0, 1.0],
        "score_scale": "features",
        "angle_precision": "float32",
        "skips_join_dropout": True,
        "has_unused_norms": levels[0] + "norm3.norm.weight" in old,
    }


def encoder(old: Weights) -> Weights:
    """A step down; at the first level, where the features stay, the shortcut mixes maps only."""
    return _block(old, norm="norm1")


def decoder(old: Weights) -> Weights:
    """A step up, and the branch behind it."""
    join = {key: old.pop(key) for key in list(old) if re.match(r"norm2|linear[34]", key)}
    converted = {f"body.{key}": value for key, value in _block(old, norm="norm").items()}
    branch = _branch(norm="norm2", expand="linear3", contract="linear4")
    return converted | {f"join.{key}": value for key, value in convert_blocks(join, branch).items()}


def _block(old: Weights, *, norm: str) -> Weights:
    branch = _branch(norm=norm, expand="linear1", contract="linear2")
    blocks = {f"branch.{ours}": theirs for ours, theirs in branch.items()}
    return convert_blocks(old, blocks | {"shortcut": ("identity", _shortcut)})


def _branch(*, norm: str, expand: str, contract: str) -> dict[str, tuple[str, Convert]]:
    return {
        "norm": (norm, nested_affine),
        "expand": (expand, linear),
        "contract": (contract, linear),
    }


def _shortcut(old: Weights) -> Weights:
    return linear(old) if "weight_pw" in old else {"weight": old.pop("weight_dw")}


def encoder_transformer(old: Weights) -> Weights:
    """The transformer of an encoder level, without the norm that takes no part."""
    return convert_blocks(
        old,
        {
            "norm_attention": ("norm1", nested_affine),
            "attention": ("attn", self_attention),
            "norm_feed_forward": ("norm2", nested_affine),
            "feed_forward.expand": ("linear1", linear),
            "feed_forward.contract": ("linear2", linear),
        },
    )


def decoder_transformer(old: Weights) -> Weights:
    """The transformer of a decoder level."""
    return convert_blocks(
        old,
        {
            "norm_attention": ("norm1", nested_affine),
            "attention": ("attn1", self_attention),
            "norm_memory": ("norm2", nested_affine),
            "memory_attention": ("attn2", memory_attention),
            "norm_feed_forward": ("norm3", nested_affine),
            "feed_forward.expand": ("linear1", linear),
            "feed_forward.contract": ("linear2", linear),
        },
    )
