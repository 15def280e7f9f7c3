"""The original state_dicts of V9, the patch transformer."""

import re
from typing import Any

from frametx.legacy.layers import (
    Convert,
    Weights,
    affine,
    convert_blocks,
    count,
    linear,
    pointwise,
    read_num_heads,
    res_block,
    rotary_table,
    self_attention,
)
from frametx.models.v9_patch import V9Patch

NAME = "v9_patch"
NETWORK = V9Patch
_AFFINE = r"(weight|bias)"
_ATTENTION = (
    r"((rotary_)?embedding\.freqs|[qkv]_proj\.(0\.weight|1\.weight_pw)|(out|o)_proj\.weight_pw)"
)
KEYS = re.compile(
    rf"(enc|dec)\d+\.(norm1\.{_AFFINE}|(conv1|conv2|idt)\.weight)|out\.{_AFFINE}"
    rf"|transformer\.\d+\.(norm\d\.{_AFFINE}|attn\.{_ATTENTION}|conv1\.weight_pw"
    r"|conv2\.weight_(pw|dw))"
)
_block_of_convolutions = res_block(norm_name="norm1", shortcut_name="idt")


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `V9Patch`, and the weights to load into it.

    Bins and crops leave no trace: `n_fft` is the released network's, 2048, and crops are as long as
    it was run with, 4096 frames.

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
        # only the first keeps the size, and it may keep the maps as well
        is_plain = level == 0 and len(old["enc1.norm1.weight"]) == len(old["enc1.conv2.weight"])
        blocks[f"encoders.{level}"] = (
            f"enc{level + 1}",
            _block_of_convolutions if is_plain else changing_block,
        )
    for level in range(num_levels - 1):
        blocks[f"decoders.{level}.body"] = (f"dec{level + 1}", changing_block)
    for layer in range(config["num_layers"]):
        blocks[f"transformers.{layer}"] = (f"transformer.{layer}", patch_transformer)
    return config, convert_blocks(old, blocks)


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    num_levels = count(old, r"enc(\d+)\.")
    maps = [len(old[f"enc{i + 1}.conv2.weight"]) for i in range(num_levels)]
    out_channels, channels = old["out.weight"].shape[:2]
    crop_channels = len(old["enc1.norm1.weight"])
    num_crops, rest = divmod(crop_channels, out_channels)
    if rest or num_crops % 2 == 0:
        raise ValueError(
            f"{crop_channels} channels are not a mixture of {out_channels} channels, and a mixture "
            "and an estimate of every crop before it"
        )
    attention = "transformer.0.attn"
    chunk_size = old[f"{attention}.q_proj.1.weight_pw"].shape[-1]
    return {
        "in_channels": out_channels,
        "num_past_crops": num_crops // 2,
        "crop_frames": 4096,
        "out_channels": out_channels,
        "n_fft": 2048,
        "channels": channels,
        "widths": [count // channels for count in maps],
        "num_layers": count(old, r"transformer\.(\d+)\."),
        "chunk_size": chunk_size,
        "num_heads": read_num_heads(rotary_table(old, attention), chunk_size, given=num_heads),
        "expansion": old["transformer.0.conv1.weight_pw"].shape[1],
        "kernel_size": old[f"{attention}.q_proj.0.weight"].shape[-1],
        "dropout": 0.1,
        "score_scale": "chunk",
        "angle_precision": "float32",
    }


def changing_block(old: Weights) -> Weights:
    """A residual block whose maps or size change, so that it has a shortcut."""
    if "idt.weight" not in old:
        raise KeyError("idt.weight")
    return _block_of_convolutions(old)


def patch_transformer(old: Weights) -> Weights:
    """A transformer of the bottom."""
    return convert_blocks(
        old,
        {
            "norm_attention": ("norm1", affine),
            "attention": ("attn", self_attention),
            "norm_feed_forward": ("norm2", affine),
            "feed_forward.expand": ("conv1", linear),
            "feed_forward.contract": ("conv2", linear),
        },
    )
