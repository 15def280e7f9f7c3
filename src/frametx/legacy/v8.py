"""The original state_dicts of V8 and V8.1, which differ in how a script ran them alone."""

import re
from typing import Any

from frametx.legacy.layers import (
    Convert,
    Weights,
    affine,
    convert_blocks,
    count,
    memory_attention,
    mixed_linear,
    pointwise,
    read_num_heads,
    res_block,
    rotary_table,
    self_attention,
)
from frametx.models.v8 import V8

NAME = "v8"
NETWORK = V8
_AFFINE = r"(weight|bias)"
_LINEAR = r"weight_(pw|dw)"
KEYS = re.compile(
    rf"(enc|dec)\d+\.body\.(norm\.{_AFFINE}|(conv1|conv2|identity)\.weight)"
    rf"|(enc|dec)\d+_transformer\.(norm\.{_AFFINE}|conv[12]\.{_LINEAR}"
    rf"|(self|skip|src)_attn\.(embedding\.freqs|[qkv]_proj\.(0\.{_AFFINE}|1\.weight_pw)"
    rf"|o_proj\.{_LINEAR}))"
    rf"|out\.{_AFFINE}"
)


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `V8`, and the weights to load into it.

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
            f"encoders.{level}": (f"enc{level + 1}.body", res_block()),
            f"encoder_transformers.{level}": (f"enc{level + 1}_transformer", transformer),
        }
    for level in range(num_levels - 1):
        blocks |= {
            f"decoders.{level}.body": (f"dec{level + 1}.body", res_block()),
            f"decoder_transformers.{level}": (f"dec{level + 1}_transformer", transformer),
        }
    return config, convert_blocks(old, blocks)


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    num_levels = count(old, r"enc(\d+)\.body\.")
    maps = [len(old[f"enc{i + 1}.body.conv2.weight"]) for i in range(num_levels)]
    in_channels, _, num_bins = old["enc1.body.norm.weight"].shape
    first = "enc1_transformer.self_attn"
    return {
        "in_channels": in_channels,
        "out_channels": len(old["out.weight"]),
        "n_fft": 2 * num_bins,
        "channels": maps[0],
        "widths": [count // maps[0] for count in maps],
        "num_attention_maps": len(old[f"{first}.o_proj.weight_dw"]),
        "num_heads": read_num_heads(rotary_table(old, first), num_bins, given=num_heads),
        "expansions": [
            old[f"enc{i + 1}_transformer.conv1.weight_pw"].shape[1] for i in range(num_levels)
        ],
        "attention_kernel_size": old[f"{first}.q_proj.0.weight"].shape[-1],
        "dropout": 0.1,
        "score_scale": "features",
        "angle_precision": "float32",
        "rounds_upsampling": False,  # no trace in a file: V8.1 does not, one script of V8 does
    }


def transformer(old: Weights) -> Weights:
    """The transformer of a level; only that of a decoder attends to a skip connection."""
    return convert_blocks(
        old,
        {
            "norm": ("norm", affine),
            "attention": ("self_attn", mixed(self_attention)),
            "skip_attention": ("skip_attn", mixed(memory_attention)),
            "source_attention": ("src_attn", mixed(memory_attention)),
            "feed_forward.expand": ("conv1", mixed_linear),
            "feed_forward.contract": ("conv2", mixed_linear),
        },
        optional=("skip_attn",),
    )


def mixed(attention: Convert) -> Convert:
    """An attention whose last layer must mix the maps."""

    def convert_block(old: Weights) -> Weights:
        new = attention(old)
        if "to_out.mixing" not in new:
            raise KeyError("o_proj.weight_dw")
        return new

    return convert_block
