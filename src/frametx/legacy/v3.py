"""The original state_dicts of V3."""

import re
from typing import Any

from frametx.legacy.layers import (
    Convert,
    Weights,
    affine,
    conv,
    convert_blocks,
    convolutional_feed_forward,
    count,
    pointwise,
    read_num_heads,
    rotary_table,
    self_attention,
)
from frametx.models.v3 import V3

NAME = "v3"
NETWORK = V3
KEYS = re.compile(
    r"(embed|out)\.weight"
    r"|transformer\.\d+\.(norm[12]\.(weight|bias)|conv[12]\.weight"
    r"|attn\.((rotary_)?embedding\.freqs|[qkvo]_proj\.weight_(pw|dw)))"
)


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `V3`, and the weights to load into it.

    A file does not say what its output means: the head is the mask's, which later training scripts
    and the original's only program for separation take it for.

    Args:
        state_dict: of the original network.
        num_heads: for files without rotary tables, from which it is read otherwise.

    Raises:
        KeyError, ValueError: if this is not such a state_dict: an entry is missing, or too many.
    """
    old = dict(state_dict)
    config = _config(old, num_heads=num_heads)
    blocks: dict[str, tuple[str, Convert]] = {"embed": ("embed", conv), "out": ("out", pointwise)}
    for layer in range(config["num_layers"]):
        blocks[f"layers.{layer}"] = (f"transformer.{layer}", transformer)
    return config, convert_blocks(old, blocks)


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    channels, in_channels, _, embedding_kernel_size = old["embed.weight"].shape
    hidden_channels, _, _, kernel_size = old["transformer.0.conv1.weight"].shape
    num_bins = old["transformer.0.norm1.weight"].shape[-1]
    table = rotary_table(old, "transformer.0.attn")
    return {
        "in_channels": in_channels,
        "out_channels": len(old["out.weight"]),
        "n_fft": 2 * num_bins,
        "channels": channels,
        "num_layers": count(old, r"transformer\.(\d+)\."),
        "num_heads": read_num_heads(table, num_bins, given=num_heads),
        "expansion": hidden_channels // channels,
        "kernel_size": kernel_size,
        "embedding_kernel_size": embedding_kernel_size,
        "dropout": 0.1,
        "head": "mask",
        "score_scale": "features",
        "angle_precision": "float32",
        "normalizes_output": False,
    }


def transformer(old: Weights) -> Weights:
    """One layer; the two convolutions of its feed-forward are entries of the layer's own."""
    feed_forward = {key: old.pop(key) for key in list(old) if key.startswith("conv")}
    layer = convert_blocks(
        old,
        {
            "norm_attention": ("norm1", affine),
            "attention": ("attn", self_attention),
            "norm_feed_forward": ("norm2", affine),
        },
    )
    converted = convolutional_feed_forward(feed_forward)
    return layer | {f"feed_forward.{key}": value for key, value in converted.items()}
