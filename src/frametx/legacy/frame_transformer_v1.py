"""The original state_dicts of FrameTransformerV1, under the names of both its years."""

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
    pointwise,
    read_num_heads,
    res_block,
    rotary_table,
    self_attention,
)
from frametx.models.frame_transformer_v1 import FrameTransformerV1

NAME = "frame_transformer_v1"
NETWORK = FrameTransformerV1
_AFFINE = r"(weight|bias)"
_ATTENTION = r"((rotary_)?embedding\.freqs|([qkvo]|out)_proj\.weight_pw)"
KEYS = re.compile(
    rf"out|(enc|dec)\d+\.body\.0\.(norm\.norm\.{_AFFINE}|(conv1|conv2|identity)\.weight)"
    rf"|(enc|dec)\d+_transformer\.(embed\.{_AFFINE}|norm\d\.norm\.{_AFFINE}"
    rf"|attn[12]?\.{_ATTENTION}|conv[12]\.weight_pw)"
)


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `FrameTransformerV1`, and the weights to load into it.

    Args:
        state_dict: of the original network.
        num_heads: for files without rotary tables, from which it is read otherwise.

    Raises:
        KeyError, ValueError: if this is not such a state_dict: an entry is missing, or too many.
    """
    old = dict(state_dict)
    config = _config(old, num_heads=num_heads)
    num_levels = len(config["widths"])
    blocks: dict[str, tuple[str, Convert]] = {
        "input_transformer": ("enc0_transformer", encoder_transformer),
        "out": ("out", matrix),
    }
    for level in range(num_levels):
        blocks |= {
            f"encoders.{level}": (f"enc{level + 1}.body.0", res_block(norm=nested_affine)),
            f"encoder_transformers.{level}": (f"enc{level + 1}_transformer", encoder_transformer),
        }
    for level in range(num_levels - 1):
        blocks |= {
            f"decoders.{level}.body": (f"dec{level + 1}.body.0", res_block(norm=nested_affine)),
            f"decoder_transformers.{level}": (f"dec{level + 1}_transformer", decoder_transformer),
        }
    return config, convert_blocks(old, blocks)


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    num_levels = count(old, r"enc(\d+)\.body\.")
    maps = [len(old[f"enc{i + 1}.body.0.conv2.weight"]) for i in range(num_levels)]
    table = rotary_table(old, "enc0_transformer.attn")
    _, hidden_features, num_bins = old["enc0_transformer.conv1.weight_pw"].shape
    return {
        "in_channels": old["enc0_transformer.embed.weight"].shape[1],
        "out_channels": len(old["out"]),
        "n_fft": 2 * num_bins,
        "channels": maps[0],
        "widths": [width // maps[0] for width in maps],
        "num_heads": read_num_heads(table, num_bins, given=num_heads),
        "expansion": hidden_features // num_bins,
        "dropout": 0.1,
        "score_scale": "features",
        "angle_precision": "float32",
        "shares_attention_norm": True,
    }


def encoder_transformer(old: Weights) -> Weights:
    """The transformer of an encoder level, or of the input."""
    return convert_blocks(
        old,
        {
            "embed": ("embed", pointwise),
            "layer.norm_attention": ("norm1", nested_affine),
            "layer.attention": ("attn", self_attention),
            "layer.norm_feed_forward": ("norm2", nested_affine),
            "layer.feed_forward.expand": ("conv1", linear),
            "layer.feed_forward.contract": ("conv2", linear),
        },
    )


def decoder_transformer(old: Weights) -> Weights:
    """The transformer of a decoder level; the third norm is the one that no file ever used."""
    return convert_blocks(
        old,
        {
            "embed": ("embed", pointwise),
            "layer.norm_attention": ("norm1", nested_affine),
            "layer.attention": ("attn1", self_attention),
            "layer.memory_attention": ("attn2", memory_attention),
            "layer.norm_feed_forward": ("norm2", nested_affine),
            "layer.norm_memory": ("norm3", nested_affine),
            "layer.feed_forward.expand": ("conv1", linear),
            "layer.feed_forward.contract": ("conv2", linear),
        },
    )
