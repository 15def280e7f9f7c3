"""What the original state_dicts have in common: layers, and how a block's entries are renamed.

Three things differ from ours besides names. The original's layout is B C F T, so its kernels are
(frequency, time): they are transposed here, once. Its projections to queries, keys and values are
separate layers, here one. Its tables (sinusoids, rotary frequencies) are entries of the file; ours
are computed.

A function per block turns the block's own state_dict, keys counted from the block, into ours, and
takes out what it has used: whatever is left was not understood.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Convert = Callable[[Weights], Weights]


def convert_blocks(
    old: Weights,
    blocks: Mapping[str, tuple[str, Convert]],
    *,
    optional: tuple[str, ...] = (),
) -> Weights:
    """Convert each block `ours: (theirs, function)`, and insist that nothing is missing or left.

    Args:
        old: entries of the blocks; it is empty afterwards.
        blocks: under which names and how to convert; `theirs` may be an entry's own name.
        optional: which of `theirs` may be absent.

    Raises:
        ValueError: naming what is missing, or what is left.
    """
    rest, new = dict(old), Weights()
    old.clear()
    for ours, (theirs, convert_block) in blocks.items():
        prefix = theirs + "."
        block = {
            key.removeprefix(prefix): rest.pop(key) for key in list(rest) if key.startswith(prefix)
        }
        if theirs in rest:
            block[""] = rest.pop(theirs)
        if not block and theirs in optional:
            continue
        try:
            converted = convert_block(block)
        except KeyError as missing:
            entry_name = f"{theirs}.{missing.args[0]}".removesuffix(".")
            raise ValueError(f"{entry_name} is missing") from missing
        except ValueError as error:
            raise ValueError(f"{theirs}.{error}") from error
        if block:
            raise ValueError(f"{theirs} has {', '.join(sorted(block)[:3])}, which has no place")
        new |= {f"{ours}.{key}" if key else ours: value for key, value in converted.items()}
    if rest:
        raise ValueError(f"{', '.join(sorted(rest)[:3])} has no place")
    return new


def count(old: Weights, pattern: str) -> int:
    """How many different numbers stand where `pattern` has its group."""
    return len({match[1] for key in old if (match := re.match(pattern, key))})


def read_num_heads(table: Tensor | None, num_features: int, *, given: int | None) -> int:
    """Heads of an attention, from its rotary table: one frequency for two features of a head.

    Args:
        table: the frequencies, if the file has them.
        num_features: of all heads.
        given: what the user says, which counts where there is no table.

    Raises:
        ValueError: if there is neither.
    """
    if table is not None:
        # none where every head has a single feature
        return num_features // (2 * len(table)) if len(table) else num_features
    if given is None:
        raise ValueError(
            "num_heads leaves no trace in a file without rotary tables: give num_heads"
        )
    return given


def rotary_table(old: Weights, attention: str) -> Tensor | None:
    """The rotary frequencies of an attention, under either name they had."""
    for name in ("embedding", "rotary_embedding"):
        if f"{attention}.{name}.freqs" in old:
            return old[f"{attention}.{name}.freqs"]
    return None


def entry(old: Weights) -> Weights:
    """A parameter that is no layer of its own."""
    return {"": old.pop("")}


def affine(old: Weights) -> Weights:
    """A layer whose entries keep names and shapes: a norm."""
    return {name: old.pop(name) for name in ("weight", "bias")}


def nested_affine(old: Weights) -> Weights:
    """A norm that was wrapped in another module."""
    return {name: old.pop(f"norm.{name}") for name in ("weight", "bias")}


def linear(old: Weights) -> Weights:
    """A linear layer per map, mixed or not."""
    new = {"weight": old.pop("weight_pw")}
    if "weight_dw" in old:
        new["mixing"] = old.pop("weight_dw")
    return new


def mixed_linear(old: Weights) -> Weights:
    """A linear layer per map that must be mixed."""
    return {"weight": old.pop("weight_pw"), "mixing": old.pop("weight_dw")}


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


def matrix(old: Weights) -> Weights:
    """A bare matrix over the maps, which we keep as a 1x1 convolution."""
    return {"weight": old.pop("")}


def res_block(
    *, norm: Convert = affine, norm_name: str = "norm", shortcut_name: str = "identity"
) -> Convert:
    """A residual block of convolutions; the names of two of its layers changed over the years."""

    def convert_block(old: Weights) -> Weights:
        return convert_blocks(
            old,
            {
                "norm": (norm_name, norm),
                "conv_in": ("conv1", conv),
                "conv_out": ("conv2", conv),
                "shortcut": (shortcut_name, pointwise),
            },
            optional=(shortcut_name,),  # absent where nothing changes
        )

    return convert_block


def convolutional_feed_forward(old: Weights) -> Weights:
    """Two convolutions."""
    return convert_blocks(old, {"expand": ("conv1", conv), "contract": ("conv2", conv)})


def convolutional_embedding(*, join: Convert) -> Convert:
    """The pyramid of the positional embedding, without its table of sinusoids."""

    def convert_block(old: Weights) -> Weights:
        old.pop("pe", None)
        num_extracts = count(old, r"extract(\d+)\.")
        blocks = {f"extracts.{i}": (f"extract{i + 1}", res_block()) for i in range(num_extracts)}
        blocks |= {
            f"encoders.{i}": (f"encoder{i + 1}", res_block()) for i in range(num_extracts - 1)
        }
        return convert_blocks(old, blocks | {"join": ("out", join)})

    return convert_block


def self_attention(old: Weights) -> Weights:
    """Attention of frames to one another."""
    return _attention(old, {"to_qkv": "qkv"})


def memory_attention(old: Weights) -> Weights:
    """Attention of frames to those of a second input."""
    return _attention(old, {"to_q": "q", "to_kv": "kv"})


def _attention(old: Weights, projections: Mapping[str, str]) -> Weights:
    """Attention with its projections; output, table and norms have had several names."""
    new = Weights()
    for name in ("embedding.freqs", "rotary_embedding.freqs"):
        old.pop(name, None)
    for ours, parts in projections.items():
        stacked = _stacked([_projection(old, part) for part in parts])
        new |= {f"{ours}.{name}": value for name, value in stacked.items()}
    out_name = "out_proj" if any(key.startswith("out_proj.") for key in old) else "o_proj"
    blocks: dict[str, tuple[str, Convert]] = {"to_out": (out_name, linear)}
    if any(key.startswith("q_norm.") for key in old):
        blocks |= {"norm_q": ("q_norm", nested_affine), "norm_k": ("k_norm", nested_affine)}
    return new | convert_blocks(old, blocks)


def _projection(old: Weights, part: str) -> Weights:
    """Convolution, linear layer, mixing and taps of one projection, as far as it has them."""
    prefix = f"{part}_proj."
    layer = {key: old.pop(key) for key in list(old) if key.startswith(prefix)}
    new = Weights()
    for key in sorted(layer):
        place, _, name = key.rpartition(".")
        weight = layer[f"{place}.weight"] if name == "bias" else layer[key]
        # a kernel of one bin sees neighbouring frames only: it stands behind the linear layer
        is_taps = weight.dim() == 4 and weight.shape[2] == 1
        if name == "weight_pw":
            new["weight"] = weight
        elif name == "weight_dw":
            new["taps"] = weight.unsqueeze(-1)
        elif name == "weight":
            new["taps" if is_taps else "conv.weight"] = weight.squeeze(2) if is_taps else weight.mT
        elif name == "bias":
            new["bias" if is_taps else "conv.bias"] = layer[key]
        else:
            raise ValueError(f"{key} has no place")
    if "weight" not in new:
        raise KeyError(f"{prefix}weight_pw")
    return new


def _stacked(parts: list[Weights]) -> Weights:
    """Projections of one input as a single layer, see `FrameProjection`."""
    if any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError("projections to queries, keys and values differ in their layers")
    has_conv = "conv.weight" in parts[0]
    joined = Weights()
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name in ("taps", "bias"):
            joined[name] = torch.stack(values)
        else:
            joined[name] = torch.cat(values, 1 if name == "weight" and not has_conv else 0)
    return joined
