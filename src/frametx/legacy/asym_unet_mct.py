"""The original state_dicts of AsymUNetMCT: hyper-parameters, and weights under our names.

Three things differ from ours besides names. The original's layout is B C F T, so its kernels are
(frequency, time): they are transposed here, once. Its projections to queries, keys and values are
three layers, here one. Its tables (sinusoids, rotary frequencies) are entries of the file; ours are
computed.

A function per block turns the block's own state_dict, keys counted from the block, into ours.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
_OPTIONAL = ("embed", "identity", "gate1")  # absent where nothing changes, or no chain came before


def convert(
    state_dict: Mapping[str, Tensor], *, num_heads: int | None = None, dropout: float = 0.1
) -> tuple[dict[str, Any], Weights]:
    """Arguments of `AsymUNetMCT`, and the weights to load into it.

    Args:
        state_dict: of the original network, with or without the `module.` of a parallel wrapper.
        num_heads: for files without rotary tables, from which it is read otherwise.
        dropout: of the transformers; it leaves no trace in a file.

    Raises:
        ValueError: if this is not such a state_dict: an entry is missing, or one too many.
    """
    old = {key.removeprefix("module."): value for key, value in state_dict.items()}
    try:
        config = _config(old, num_heads=num_heads)
    except KeyError as missing:
        raise ValueError(f"not an AsymUNetMCT: the state_dict has no {missing}") from missing
    config["dropout"] = dropout
    blocks: dict[str, tuple[str, Callable[[Weights], Weights]]] = {
        "embedding": ("positional_embedding", embedding),
        "out": ("out", pointwise),
    }
    num_levels = len(config["widths"])
    for level in range(num_levels):
        blocks[f"encoders.{level}.body"] = (f"enc{level + 1}.body", res_block)
    for level in range(num_levels - 1):
        blocks |= {
            f"encoder_transformers.{level}": (f"enc{level + 1}_transformer", encoder_transformer),
            f"decoders.{level}.body": (f"dec{level + 1}.body", res_block),
            f"decoder_transformers.{level}": (f"dec{level + 1}_transformer", decoder_transformer),
        }
    for layer in range(config["num_bridge_layers"]):
        blocks[f"bridge.{layer}"] = (f"enc{num_levels}_transformer.{layer}", bridge_transformer)
    if config["has_vocal_bands"]:
        blocks |= {
            "vocal_bands.norm": ("vout_norm.norm", affine),
            "vocal_bands.transform": ("vout_transform", bridge_transformer),
            "vocal_bands.out": ("vout_conv", affine),
        }
    return config, _convert_blocks(old, blocks)


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    num_levels = _count(old, r"enc(\d+)\.body\.")
    channels = len(old["enc1.body.conv1.weight"])
    maps = [len(old[f"enc{i + 1}.body.conv2.weight"]) for i in range(num_levels)]
    with_sinusoids, _, num_bins = old["positional_embedding.extract1.norm.weight"].shape
    in_channels = with_sinusoids - 1
    num_pyramid_levels = _count(old, r"positional_embedding\.encoder(\d+)\.")
    pyramid = [
        len(old[f"positional_embedding.encoder{i + 1}.conv1.weight"])
        for i in range(num_pyramid_levels)
    ]
    encoder, decoder = "enc1_transformer.", "dec1_transformer."
    if num_heads is None:
        table = old.get(encoder + "attn.embedding.freqs")
        if table is None:
            raise ValueError("the state_dict has no rotary tables to read num_heads from: pass it")
        # one frequency for two features of a head; none where every head has a single feature
        num_heads = num_bins // (2 * len(table)) if len(table) else num_bins
    has_vocal_bands = "vout_conv.weight" in old
    return {
        "in_channels": in_channels,
        "out_channels": len(old["out.weight"]),
        "n_fft": 2 * num_bins,
        "channels": channels,
        "widths": [count // channels for count in maps],
        "num_plain_levels": 0,
        "num_attention_maps": len(old[encoder + "norm1.weight"]),
        "num_heads": num_heads,
        "expansion": old[encoder + "conv3.weight_pw"].shape[1],
        "num_bridge_layers": _count(old, rf"enc{num_levels}_transformer\.(\d+)\."),
        "encoder_kernel_sizes": [
            old[f"{encoder}{conv}.conv.weight"].shape[-1] for conv in ("conv1b", "conv2")
        ],
        "decoder_kernel_sizes": [
            old[f"{decoder}{conv}.conv.weight"].shape[-1] for conv in ("conv1a", "conv1b", "conv2")
        ],
        "embedding_widths": [count // in_channels for count in pyramid],
        "embedding_kernel_size": old["positional_embedding.extract1.conv1.weight"].shape[-1],
        "decoder_dropout": 0.5 if has_vocal_bands else 0.0,
        "num_decoder_dropout_levels": 4 if has_vocal_bands else 0,
        "restarts_bridge_residual": True,
        "has_vocal_bands": has_vocal_bands,
        "normalizes_vocal_bands": False,
        "normalizes_output": False,
    }


def embedding(old: Weights) -> Weights:
    """The convolutional embedding, without its table of sinusoids."""
    old.pop("pe", None)
    num_extracts = _count(old, r"extract(\d+)\.")
    blocks = {f"extracts.{i}": (f"extract{i + 1}", res_block) for i in range(num_extracts)}
    blocks |= {f"encoders.{i}": (f"encoder{i + 1}", res_block) for i in range(num_extracts - 1)}
    return _convert_blocks(old, blocks | {"join": ("out", res_block)})


def res_block(old: Weights) -> Weights:
    """A residual block of the U-Net or of the embedding."""
    return _convert_blocks(
        old,
        {
            "norm": ("norm", affine),
            "conv_in": ("conv1", conv),
            "conv_out": ("conv2", conv),
            "shortcut": ("identity", pointwise),
        },
    )


def encoder_transformer(old: Weights) -> Weights:
    """The transformer of an encoder level."""
    return _convert_blocks(
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
    )


def decoder_transformer(old: Weights) -> Weights:
    """The transformer of a decoder level."""
    return _convert_blocks(
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
    )


def bridge_transformer(old: Weights) -> Weights:
    """A convolutional transformer of the bridge."""
    return _convert_blocks(
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


def affine(old: Weights) -> Weights:
    """A layer whose entries keep names and shapes: a norm."""
    return {name: old.pop(name) for name in ("weight", "bias")}


def linear(old: Weights) -> Weights:
    """A linear layer per map, mixed or not."""
    new = {"weight": old.pop("weight_pw")}
    if "weight_dw" in old:
        new["mixing"] = old.pop("weight_dw")
    return new


def conv(old: Weights) -> Weights:
    """A 2-d convolution, with or without a bias."""
    new = {"weight": old.pop("weight").mT.contiguous()}
    if "bias" in old:
        new["bias"] = old.pop("bias")
    return new


def pointwise(old: Weights) -> Weights:
    """A 1x1 convolution, which we keep as a matrix."""
    new = conv(old)
    return new | {"weight": new["weight"].flatten(1)}


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
    return _convert_blocks(old, {"conv_in": ("0", affine), "conv_out": ("2", affine)})


def self_attention(old: Weights) -> Weights:
    """Attention of frames to one another."""
    return _attention(old, {"to_qkv": "qkv"})


def memory_attention(old: Weights) -> Weights:
    """Attention of frames to those of a second input."""
    return _attention(old, {"to_q": "q", "to_kv": "kv"})


def _attention(old: Weights, projections: dict[str, str]) -> Weights:
    old.pop("embedding.freqs", None)
    new = {"to_out.weight": old.pop("o_proj.weight_pw")}
    for ours, parts in projections.items():
        matrices = [old.pop(f"{part}_proj.0.weight_pw") for part in parts]
        taps = [old.pop(f"{part}_proj.1.weight").squeeze(2) for part in parts]
        biases = [old.pop(f"{part}_proj.1.bias") for part in parts]
        new[f"{ours}.weight"] = torch.cat(matrices, 1)
        new[f"{ours}.taps"] = torch.stack(taps)
        new[f"{ours}.bias"] = torch.stack(biases)
    return new


def convolutional_attention(old: Weights) -> Weights:
    """Attention of the bridge."""
    old.pop("embedding.freqs", None)
    parts = [
        conv({name: old.pop(f"{part}_proj.{name}") for name in ("weight", "bias")})
        for part in "qkv"
    ]
    joined = {f"to_qkv.{name}": torch.cat([part[name] for part in parts]) for name in parts[0]}
    return joined | _convert_blocks(old, {"to_out": ("o_proj", conv)})


def _convert_blocks(
    old: Weights, blocks: Mapping[str, tuple[str, Callable[[Weights], Weights]]]
) -> Weights:
    """Convert each block `ours: (theirs, function)`, and insist that nothing is missing or left."""
    rest, new = dict(old), Weights()
    old.clear()
    for ours, (theirs, convert_block) in blocks.items():
        prefix = theirs + "."
        block = {
            key.removeprefix(prefix): rest.pop(key) for key in list(rest) if key.startswith(prefix)
        }
        if not block and theirs in _OPTIONAL:
            continue
        try:
            converted = convert_block(block)
        except KeyError as missing:
            raise ValueError(f"not an AsymUNetMCT: {theirs} has no {missing}") from missing
        if block:
            raise ValueError(
                f"not an AsymUNetMCT: {theirs} has {sorted(block)}, which we do not know"
            )
        new |= {f"{ours}.{key}": value for key, value in converted.items()}
    if rest:
        raise ValueError(f"not an AsymUNetMCT: entries we do not know: {sorted(rest)}")
    return new


def _count(old: Weights, pattern: str) -> int:
    """How many different numbers stand where `pattern` has its group."""
    return len({match[1] for key in old if (match := re.match(pattern, key))})
