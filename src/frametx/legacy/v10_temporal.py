"""The original state_dicts of V10, the U-Net over frames."""

import re
from typing import Any

from frametx.legacy.layers import (
    Convert,
    Weights,
    affine,
    convert_blocks,
    convolutional_feed_forward,
    count,
    memory_attention,
    pointwise,
    read_num_heads,
    res_block,
    rotary_table,
    self_attention,
)
from frametx.models.v10_temporal import V10Temporal

NAME = "v10_temporal"
NETWORK = V10Temporal
_NORM = r"norm\d\.(weight|bias)"
_ATTENTION = (
    r"((rotary_)?embedding\.freqs|[qkv]_proj\.([02]\.weight|1\.weight_pw)"
    r"|(o_proj|out_proj)\.weight_pw)"
)
KEYS = re.compile(
    rf"(enc|dec)\d+\.({_NORM}|(conv1|conv2|idt)\.weight)"
    rf"|(enc|dec)\d+_transformer\.({_NORM}|(conv1|conv2)\.weight)"
    rf"|enc\d+_transformer\.attn\.{_ATTENTION}"
    rf"|dec\d+_transformer\.(self|skip)_attn\.{_ATTENTION}"
    r"|out\.weight"
)
_block = res_block(norm_name="norm1", shortcut_name="idt")


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `V10Temporal`, and the weights to load into it.

    Args:
        state_dict: of the original network.
        num_heads: for files without rotary tables, from which it is read otherwise.

    Raises:
        KeyError, ValueError: if this is not such a state_dict: an entry is missing, or too many.
    """
    old = dict(state_dict)
    config = _config(old, num_heads=num_heads)
    blocks: dict[str, tuple[str, Convert]] = {"out": ("out", pointwise)}
    num_levels = len(config["widths"])
    for level in range(num_levels):
        blocks |= {
            f"encoders.{level}": (f"enc{level + 1}", _block),
            f"encoder_transformers.{level}": (f"enc{level + 1}_transformer", encoder_transformer),
        }
    for level in range(num_levels - 1):
        blocks |= {
            f"decoders.{level}.body": (f"dec{level + 1}", _block),
            f"decoder_transformers.{level}": (f"dec{level + 1}_transformer", decoder_transformer),
        }
    return config, convert_blocks(old, blocks)


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    levels = range(1, 1 + count(old, r"enc(\d+)\."))
    maps = [len(old[f"enc{level}.conv2.weight"]) for level in levels]
    projections = [old[f"enc{level}_transformer.attn.q_proj.2.weight"] for level in levels]
    attended = [len(projection) for projection in projections]
    in_channels, _, num_bins = old["enc1.norm1.weight"].shape
    expand = old["enc1_transformer.conv1.weight"]
    table = rotary_table(old, "enc1_transformer.attn")
    return {
        "in_channels": in_channels,
        "out_channels": len(old["out.weight"]),
        "n_fft": 2 * num_bins,
        "channels": maps[0],
        "widths": [count // maps[0] for count in maps],
        "num_attention_maps": attended[0],
        "map_widths": [count // attended[0] for count in attended],
        "num_heads": read_num_heads(table, num_bins, given=num_heads),
        "expansion": expand.shape[0] // expand.shape[1],
        "kernel_size": expand.shape[-1],
        "projection_kernel_size": old["enc1_transformer.attn.q_proj.0.weight"].shape[-1],
        "num_taps": projections[0].shape[-1],
        "dropout": 0.1,
        "spares_single_maps": True,
        "score_scale": "features",
        "angle_precision": "float32",
    }


def encoder_transformer(old: Weights) -> Weights:
    """The transformer of an encoder level."""
    return _transformer(
        old,
        {
            "norm_attention": ("norm1", affine),
            "attention": ("attn", self_attention),
            "norm_feed_forward": ("norm2", affine),
        },
    )


def decoder_transformer(old: Weights) -> Weights:
    """The transformer of a decoder level."""
    return _transformer(
        old,
        {
            "norm_self": ("norm1", affine),
            "self_attention": ("self_attn", self_attention),
            "norm_skip": ("norm2", affine),
            "skip_attention": ("skip_attn", memory_attention),
            "norm_feed_forward": ("norm3", affine),
        },
    )


def _transformer(old: Weights, blocks: dict[str, tuple[str, Convert]]) -> Weights:
    """The convolutions of the feed-forward stand among the other blocks."""
    feed_forward = {key: old.pop(key) for key in ("conv1.weight", "conv2.weight")}
    converted = convolutional_feed_forward(feed_forward)
    new = {f"feed_forward.{key}": value for key, value in converted.items()}
    return new | convert_blocks(old, blocks)
