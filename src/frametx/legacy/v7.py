"""The original state_dicts of V7, and of the version before it."""

import re
from typing import Any

from frametx.legacy.layers import (
    Convert,
    Weights,
    affine,
    convert_blocks,
    convolutional_embedding,
    count,
    linear,
    memory_attention,
    mixed_linear,
    pointwise,
    read_num_heads,
    res_block,
    rotary_table,
    self_attention,
)
from frametx.models.v7 import V7

NAME = "v7"
NETWORK = V7
_AFFINE = r"(weight|bias)"
_RES_BLOCK = r"(norm\.(weight|bias)|(conv1|conv2|identity)\.weight)"
_ATTENTION = r"(embedding\.freqs|[qkv]_proj\.(0\.weight_pw|1\.(weight|bias))|o_proj\.weight_pw)"
KEYS = re.compile(
    rf"positional_embedding\.(pe|(extract\d+|encoder\d+|out)\.{_RES_BLOCK})"
    rf"|(enc|dec)\d+\.body\.{_RES_BLOCK}"
    rf"|(enc|dec)\d+_transformer\.((embed|embed_skip|norm[123])\.{_AFFINE}"
    rf"|attn[12]?\.{_ATTENTION}|conv1\.weight_(pw|dw)|conv2\.weight_pw)"
    rf"|out\.{_AFFINE}"
)


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `V7`, and the weights to load into it.

    Args:
        state_dict: of the original network.
        num_heads: for files without rotary tables, from which it is read otherwise.

    Raises:
        KeyError, ValueError: if this is not such a state_dict: an entry is missing, or too many.
    """
    old = dict(state_dict)
    config = _config(old, num_heads=num_heads)
    blocks: dict[str, tuple[str, Convert]] = {
        "embedding": ("positional_embedding", convolutional_embedding(join=res_block())),
        "out": ("out", pointwise),
    }
    num_levels = len(config["widths"])
    encoder = encoder_transformer(mixes_hidden=config["mixes_encoder_hidden"])
    for level in range(num_levels):
        blocks |= {
            f"encoders.{level}": (f"enc{level + 1}.body", res_block()),
            f"encoder_transformers.{level}": (f"enc{level + 1}_transformer", encoder),
        }
    for level in range(num_levels - 1):
        blocks |= {
            f"decoders.{level}.body": (f"dec{level + 1}.body", res_block()),
            f"decoder_transformers.{level}": (f"dec{level + 1}_transformer", decoder_transformer),
        }
    return config, convert_blocks(old, blocks)


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    num_levels = count(old, r"enc(\d+)\.body\.")
    channels = len(old["enc1.body.conv1.weight"])
    maps = [len(old[f"enc{i + 1}.body.conv2.weight"]) for i in range(num_levels)]
    with_sinusoids, _, num_bins = old["positional_embedding.extract1.norm.weight"].shape
    in_channels = with_sinusoids - 1
    pyramid = [
        len(old[f"positional_embedding.encoder{i + 1}.conv1.weight"])
        for i in range(count(old, r"positional_embedding\.encoder(\d+)\."))
    ]
    table = rotary_table(old, "enc1_transformer.attn")
    num_heads = read_num_heads(table, num_bins, given=num_heads)
    return {
        "in_channels": in_channels,
        "out_channels": len(old["out.weight"]),
        "n_fft": 2 * num_bins,
        "channels": channels,
        "widths": [count // channels for count in maps],
        "num_attention_maps": len(old["enc1_transformer.norm1.weight"]),
        "num_heads": num_heads,
        "num_bottom_heads": num_heads // 2,  # whatever the features, in the original
        "expansions": [
            old[f"enc{i + 1}_transformer.conv1.weight_pw"].shape[1] for i in range(num_levels)
        ],
        "dropout": 0.1,
        "embedding_widths": [count // in_channels for count in pyramid],
        "embedding_kernel_size": old["positional_embedding.extract1.conv1.weight"].shape[-1],
        "mixes_encoder_hidden": "enc1_transformer.conv1.weight_dw" in old,
        "score_scale": "features",
        "angle_precision": "float32",
    }


def encoder_transformer(*, mixes_hidden: bool) -> Convert:
    """The transformer of an encoder level, of this version or the one before."""

    def convert_block(old: Weights) -> Weights:
        return convert_blocks(
            old,
            {
                "embed": ("embed", pointwise),
                "layer.norm_attention": ("norm1", affine),
                "layer.attention": ("attn", self_attention),
                "layer.norm_feed_forward": ("norm2", affine),
                "layer.feed_forward.expand": ("conv1", mixed_linear if mixes_hidden else linear),
                "layer.feed_forward.contract": ("conv2", linear),
            },
            optional=("embed",),  # absent where nothing changes
        )

    return convert_block


def decoder_transformer(old: Weights) -> Weights:
    """The transformer of a decoder level."""
    return convert_blocks(
        old,
        {
            "embed": ("embed", pointwise),
            "embed_memory": ("embed_skip", pointwise),
            "layer.norm_attention": ("norm1", affine),
            "layer.attention": ("attn1", self_attention),
            "layer.norm_memory": ("norm2", affine),
            "layer.memory_attention": ("attn2", memory_attention),
            "layer.norm_feed_forward": ("norm3", affine),
            "layer.feed_forward.expand": ("conv1", mixed_linear),
            "layer.feed_forward.contract": ("conv2", linear),
        },
        optional=("embed",),
    )
