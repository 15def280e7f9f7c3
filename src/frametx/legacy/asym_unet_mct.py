"""The original state_dicts of AsymUNetMCT, with and without its vocal-band head."""

import re
from typing import Any, NamedTuple

import torch

from frametx.legacy.layers import (
    Convert,
    Weights,
    affine,
    conv,
    convert_blocks,
    convolutional_embedding,
    count,
    linear,
    memory_attention,
    pointwise,
    read_num_heads,
    res_block,
    rotary_table,
    self_attention,
)
from frametx.models.asym_unet_mct import AsymUNetMCT

NAME = "asym_unet_mct"
NETWORK = AsymUNetMCT
_CONV = r"(weight|bias)"
_FRAME_CONV = r"(weight_pw|conv\.(weight|bias))"
_ATTENTION = r"(embedding\.freqs|[qkv]_proj\.(0\.weight_pw|1\.(weight|bias))|o_proj\.weight_pw)"
_RES_BLOCK = r"(norm\.(weight|bias)|(conv1|conv2|identity)\.weight)"
_BRIDGE = (
    r"(norm\d\.norm\.(weight|bias)|(glu\.0|conv1a|conv1b\.[01]|conv2\.[01]|conv3|conv4"
    r"|attn\.[qkvo]_proj)\.(weight|bias)|attn\.embedding\.freqs)"
)
KEYS = re.compile(
    rf"positional_embedding\.(pe|(extract\d+|encoder\d+|out)\.{_RES_BLOCK})"
    rf"|(enc|dec)\d+\.body\.{_RES_BLOCK}"
    rf"|(enc|dec)\d+_transformer\.((embed|norm\d)\.{_CONV}|glu\.0\.weight_pw"
    rf"|gate[12]\.[02]\.{_CONV}|conv1a\.{_FRAME_CONV}|(conv1b|conv2)\.{_FRAME_CONV}"
    rf"|attn(1a|1b|2|3)?\.{_ATTENTION}|(conv3|conv4)\.weight_pw)"
    rf"|enc\d+_transformer\.\d+\.{_BRIDGE}"
    rf"|vout_norm\.norm\.{_CONV}|vout_transform\.{_BRIDGE}|(vout_conv|out)\.{_CONV}"
)


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `AsymUNetMCT`, and the weights to load into it.

    Args:
        state_dict: of the original network.
        num_heads: for files without rotary tables, from which it is read otherwise.

    Raises:
        KeyError, ValueError: if this is not such a state_dict: an entry is missing, or too many.
    """
    old = dict(state_dict)
    config = _config(old, num_heads=num_heads)
    num_levels = len(config["widths"])
    blocks = encoder_blocks(num_levels, num_bridge_layers=config["num_bridge_layers"])
    blocks["out"] = ("out", pointwise)
    for level in range(num_levels - 1):
        blocks |= {
            f"decoders.{level}.body": (f"dec{level + 1}.body", res_block()),
            f"decoder_transformers.{level}": (f"dec{level + 1}_transformer", decoder_transformer),
        }
    if config["has_vocal_bands"]:
        blocks |= {
            "vocal_bands.norm": ("vout_norm.norm", affine),
            "vocal_bands.transform": ("vout_transform", bridge_transformer),
            "vocal_bands.out": ("vout_conv", affine),
        }
    return config, convert_blocks(old, blocks)


def encoder_blocks(num_levels: int, *, num_bridge_layers: int) -> dict[str, tuple[str, Convert]]:
    """The blocks of the encoder half, which the discriminators of that time have too."""
    blocks: dict[str, tuple[str, Convert]] = {
        "embedding": ("positional_embedding", convolutional_embedding(join=res_block())),
    }
    for level in range(num_levels):
        blocks[f"encoders.{level}"] = (f"enc{level + 1}.body", res_block())
    for level in range(num_levels - 1):
        blocks[f"encoder_transformers.{level}"] = (
            f"enc{level + 1}_transformer",
            encoder_transformer,
        )
    for layer in range(num_bridge_layers):
        blocks[f"bridge.{layer}"] = (f"enc{num_levels}_transformer.{layer}", bridge_transformer)
    return blocks


class EncoderSizes(NamedTuple):
    """What the entries of the encoder half tell.

    Attributes:
        in_channels: of the network.
        num_bins: that it takes.
        channels: maps for every unit of `widths`.
        widths: of all levels.
        num_attention_maps: of every transformer.
        num_heads: of every attention.
        expansion: hidden features.
        num_bridge_layers: convolutional transformers at the bridge.
        kernel_sizes: of the transformers' two convolutions.
        embedding_widths: of the embedding's levels below the first.
        embedding_kernel_size: of what reads them.
    """

    in_channels: int
    num_bins: int
    channels: int
    widths: list[int]
    num_attention_maps: int
    num_heads: int
    expansion: int
    num_bridge_layers: int
    kernel_sizes: list[int]
    embedding_widths: list[int]
    embedding_kernel_size: int


def encoder_sizes(old: Weights, *, num_heads: int | None) -> EncoderSizes:
    """Read the sizes of the encoder half.

    Args:
        old: of an original network that has it.
        num_heads: see `convert`.

    Raises:
        KeyError, ValueError: see `convert`.
    """
    num_levels = count(old, r"enc(\d+)\.body\.")
    channels = len(old["enc1.body.conv1.weight"])
    maps = [len(old[f"enc{i + 1}.body.conv2.weight"]) for i in range(num_levels)]
    with_sinusoids, _, num_bins = old["positional_embedding.extract1.norm.weight"].shape
    in_channels = with_sinusoids - 1
    num_pyramid_levels = count(old, r"positional_embedding\.encoder(\d+)\.")
    pyramid = [
        len(old[f"positional_embedding.encoder{i + 1}.conv1.weight"])
        for i in range(num_pyramid_levels)
    ]
    encoder = "enc1_transformer."
    table = rotary_table(old, encoder + "attn")
    return EncoderSizes(
        in_channels=in_channels,
        num_bins=num_bins,
        channels=channels,
        widths=[count // channels for count in maps],
        num_attention_maps=len(old[encoder + "norm1.weight"]),
        num_heads=read_num_heads(table, num_bins, given=num_heads),
        expansion=old[encoder + "conv3.weight_pw"].shape[1],
        num_bridge_layers=count(old, rf"enc{num_levels}_transformer\.(\d+)\."),
        kernel_sizes=[
            old[f"{encoder}{conv}.conv.weight"].shape[-1] for conv in ("conv1b", "conv2")
        ],
        embedding_widths=[count // in_channels for count in pyramid],
        embedding_kernel_size=old["positional_embedding.extract1.conv1.weight"].shape[-1],
    )


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    sizes = encoder_sizes(old, num_heads=num_heads)
    decoder = "dec1_transformer."
    has_vocal_bands = "vout_conv.weight" in old
    return {
        "in_channels": sizes.in_channels,
        "out_channels": len(old["out.weight"]),
        "n_fft": 2 * sizes.num_bins,
        "channels": sizes.channels,
        "widths": sizes.widths,
        "num_plain_levels": 0,
        "num_attention_maps": sizes.num_attention_maps,
        "num_heads": sizes.num_heads,
        "expansion": sizes.expansion,
        "dropout": 0.1,
        "num_bridge_layers": sizes.num_bridge_layers,
        "encoder_kernel_sizes": sizes.kernel_sizes,
        "decoder_kernel_sizes": [
            old[f"{decoder}{conv}.conv.weight"].shape[-1] for conv in ("conv1a", "conv1b", "conv2")
        ],
        "embedding_widths": sizes.embedding_widths,
        "embedding_kernel_size": sizes.embedding_kernel_size,
        "decoder_dropout": 0.5 if has_vocal_bands else 0.0,
        "num_decoder_dropout_levels": 4 if has_vocal_bands else 0,
        "gate": "conv3d",
        "score_scale": "features",
        "angle_precision": "float32",
        "restarts_bridge_residual": True,
        "has_vocal_bands": has_vocal_bands,
        "normalizes_vocal_bands": False,
        "normalizes_output": False,
    }


def encoder_transformer(old: Weights) -> Weights:
    """The transformer of an encoder level."""
    return convert_blocks(
        old,
        {
            "embed": ("embed", pointwise),
            "norm_gate": ("norm1", affine),
            "gate": ("glu.0", linear),
            "norm_branches": ("norm2", affine),
            "branch_linear": ("conv1a", linear),
            "branch_conv": ("conv1b", frame_conv),
            "norm_context": ("norm3", affine),
            "context": ("conv2", frame_conv),
            "norm_attention": ("norm4", affine),
            "attention": ("attn", self_attention),
            "norm_expand": ("norm5", affine),
            "expand": ("conv3", linear),
            "contract": ("conv4", linear),
        },
        optional=("embed", "gate1"),  # absent where nothing changes, or no chain came before
    )


def decoder_transformer(old: Weights) -> Weights:
    """The transformer of a decoder level."""
    return convert_blocks(
        old,
        {
            "embed": ("embed", pointwise),
            "norm_first": ("norm1", affine),
            "self_attention_first": ("attn1a", self_attention),
            "gate_first": ("gate1", score_gate),
            "skip_attention_first": ("attn1b", memory_attention),
            "norm_branches": ("norm2", affine),
            "branch_a": ("conv1a", frame_conv),
            "branch_b": ("conv1b", frame_conv),
            "norm_join": ("norm3", affine),
            "join": ("conv2", frame_conv),
            "norm_self": ("norm4", affine),
            "self_attention": ("attn2", self_attention),
            "norm_skip": ("norm5", affine),
            "gate": ("gate2", score_gate),
            "skip_attention": ("attn3", memory_attention),
            "norm_expand": ("norm6", affine),
            "expand": ("conv3", linear),
            "contract": ("conv4", linear),
        },
        optional=("embed", "gate1"),  # absent where nothing changes, or no chain came before
    )


def bridge_transformer(old: Weights) -> Weights:
    """A convolutional transformer of the bridge."""
    return convert_blocks(
        old,
        {
            "norm_gate": ("norm1.norm", affine),
            "gate": ("glu.0", conv),
            "norm_branches": ("norm2.norm", affine),
            "branch_narrow": ("conv1a", conv),
            "branch_wide.0": ("conv1b.0", conv),
            "branch_wide.1": ("conv1b.1", conv),
            "norm_context": ("norm3.norm", affine),
            "context.0": ("conv2.0", conv),
            "context.1": ("conv2.1", conv),
            "norm_attention": ("norm4.norm", affine),
            "attention": ("attn", convolutional_attention),
            "norm_expand": ("norm5.norm", affine),
            "expand": ("conv3", conv),
            "contract": ("conv4", conv),
        },
    )


def frame_conv(old: Weights) -> Weights:
    """A depthwise convolution and its linear layer."""
    kernel = conv({name: old.pop(f"conv.{name}") for name in ("weight", "bias")})
    return {
        "kernel": kernel["weight"],
        "bias": kernel["bias"],
        "linear.weight": old.pop("weight_pw"),
    }


def score_gate(old: Weights) -> Weights:
    """The two 3-d convolutions of a gate, over scores, where no axis changes place."""
    return convert_blocks(old, {"conv_in": ("0", affine), "conv_out": ("2", affine)})


def convolutional_attention(old: Weights) -> Weights:
    """Attention of the bridge."""
    old.pop("embedding.freqs", None)
    parts = [
        conv({name: old.pop(f"{part}_proj.{name}") for name in ("weight", "bias")})
        for part in "qkv"
    ]
    joined = {f"to_qkv.{name}": torch.cat([part[name] for part in parts]) for name in parts[0]}
    return joined | convert_blocks(old, {"to_out": ("o_proj", conv)})
