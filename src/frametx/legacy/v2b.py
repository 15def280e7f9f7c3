"""The original state_dicts of V2b, with and without sinusoids in the embedding."""

import re
from typing import Any

from frametx.legacy.layers import (
    Convert,
    Weights,
    affine,
    conv,
    convert_blocks,
    convolutional_embedding,
    count,
    linear,
    matrix,
    memory_attention,
    pointwise,
    read_num_heads,
    res_block,
    rotary_table,
    self_attention,
)
from frametx.models.v2b import V2b

NAME = "v2b"
NETWORK = V2b
_AFFINE = r"(weight|bias)"
_ATTENTION = r"(embedding\.freqs|[qkv]_proj\.(0\.weight|1\.weight_pw)|o_proj\.weight_pw)"
_RES_BLOCK = rf"(norm\.{_AFFINE}|(conv1|conv2|identity)\.weight)"
KEYS = re.compile(
    rf"out|positional_embedding\.(pe|(extract\d+|encoder\d+|out)\.{_RES_BLOCK})"
    rf"|(enc|dec)\d+\.body\.({_RES_BLOCK}|conv1\.weight_[pd]w|conv2\.weight_pw)"
    rf"|(enc|dec)\d+_transformer\.((embed|norm\d|conv[12])\.{_AFFINE}|attn[12]?\.{_ATTENTION})"
)


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `V2b`, and the weights to load into it.

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
        "embedding": ("positional_embedding", convolutional_embedding(join=res_block())),
        "input_transformer": ("enc0_transformer", encoder_transformer),
        "out": ("out", matrix),
    }
    for level in range(num_levels):
        is_linear = level >= num_levels - config["num_linear_levels"]
        body = linear_res_block if is_linear else res_block()
        blocks |= {
            f"encoders.{level}": (f"enc{level + 1}.body", body),
            f"encoder_transformers.{level}": (f"enc{level + 1}_transformer", encoder_transformer),
        }
        if level < num_levels - 1:
            blocks |= {
                f"decoders.{level}.body": (f"dec{level + 1}.body", body),
                f"decoder_transformers.{level}": (
                    f"dec{level + 1}_transformer",
                    decoder_transformer,
                ),
            }
    return config, convert_blocks(old, blocks)


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    num_levels = count(old, r"enc(\d+)\.body\.")
    maps = [len(old[f"enc{i + 1}.body.identity.weight"]) for i in range(num_levels)]
    top, embedding = "enc0_transformer.", "positional_embedding."
    num_attention_maps, num_embedded = old[top + "embed.weight"].shape[:2]
    in_channels = num_embedded - 1
    for i in range(num_levels):
        others = len(old[f"enc{i + 1}_transformer.embed.weight"])
        if others != num_attention_maps:
            raise ValueError(
                f"enc{i + 1}_transformer has {others} maps and enc0_transformer "
                f"{num_attention_maps}: the scores that they add up need equal numbers"
            )
    num_entering, _, num_bins = old[embedding + "extract1.norm.weight"].shape
    num_extracts = count(old, r"positional_embedding\.extract(\d+)\.")
    num_joined = len(old[embedding + "out.norm.weight"])
    if num_joined != num_extracts:
        raise ValueError(
            f"the embedding joins {num_joined} maps of {num_extracts} levels: sinusoids that join "
            "behind the pyramid are a form of a single day, which is not known here"
        )
    pyramid = [len(old[f"{embedding}encoder{i}.conv1.weight"]) for i in range(1, num_extracts)]
    table = rotary_table(old, top + "attn")
    return {
        "in_channels": in_channels,
        "out_channels": len(old["out"]),
        "n_fft": 2 * num_bins,
        "channels": maps[0],
        "widths": [width // maps[0] for width in maps],
        "num_linear_levels": count(old, r"enc(\d+)\.body\.conv1\.weight_pw"),
        "num_attention_maps": num_attention_maps,
        "num_heads": read_num_heads(table, num_bins, given=num_heads),
        "expansion": len(old[top + "conv1.weight"]) // num_attention_maps,
        "dropout": 0.1,
        "attention_kernel_size": old[top + "attn.q_proj.0.weight"].shape[-1],
        "feed_forward_kernel_size": old[top + "conv1.weight"].shape[-1],
        "embedding_widths": [width // in_channels for width in pyramid],
        "embedding_kernel_size": old[embedding + "extract1.conv1.weight"].shape[-1],
        "has_sinusoids": num_entering > in_channels,
        "score_scale": "features",
        "angle_precision": "float32",
    }


def linear_res_block(old: Weights) -> Weights:
    """A residual block of linear layers, under the names of the convolutions they replaced."""
    return convert_blocks(
        old,
        {
            "norm": ("norm", affine),
            "linear_in": ("conv1", linear),
            "linear_out": ("conv2", linear),
            "shortcut": ("identity", pointwise),
        },
    )


def encoder_transformer(old: Weights) -> Weights:
    """The transformer of an encoder level, or of the input."""
    return convert_blocks(
        old,
        {
            "embed": ("embed", pointwise),
            "layer.norm_attention": ("norm1", affine),
            "layer.attention": ("attn", self_attention),
            "layer.norm_feed_forward": ("norm2", affine),
            "layer.feed_forward.expand": ("conv1", conv),
            "layer.feed_forward.contract": ("conv2", conv),
        },
    )


def decoder_transformer(old: Weights) -> Weights:
    """The transformer of a decoder level."""
    return convert_blocks(
        old,
        {
            "embed": ("embed", pointwise),
            "layer.norm_attention": ("norm1", affine),
            "layer.attention": ("attn1", self_attention),
            "layer.norm_memory": ("norm2", affine),
            "layer.memory_attention": ("attn2", memory_attention),
            "layer.norm_feed_forward": ("norm3", affine),
            "layer.feed_forward.expand": ("conv1", conv),
            "layer.feed_forward.contract": ("conv2", conv),
        },
    )
