"""The original state_dicts of Bert."""

import re
from typing import Any

from torch import Tensor

from frametx.legacy.layers import (
    Convert,
    Weights,
    convert_blocks,
    convolutional_embedding,
    count,
    linear,
    pointwise,
)
from frametx.models.bert import Bert

NAME = "bert"
NETWORK = Bert
_RES_BLOCK = r"(norm\.(weight|bias)|(conv1|conv2|identity)\.weight)"
KEYS = re.compile(
    rf"positional_embedding\.((extract|encoder)\d+\.{_RES_BLOCK}|out\.(weight|bias))"
    r"|(embed|out)\.weight_(pw|dw)"
    r"|transformer\.\d+\.(norm[12]\.(weight|bias)|(attn\.[qkvo]_proj|conv[12])\.(weight|bias)_pw)"
)
# of one BERT layer: names in the transformers package, and in the file
_LINEAR = {
    "attention.self.query": "attn.q_proj",
    "attention.self.key": "attn.k_proj",
    "attention.self.value": "attn.v_proj",
    "attention.output.dense": "attn.o_proj",
    "intermediate.dense": "conv1",
    "output.dense": "conv2",
}
_NORMS = {"attention.output.LayerNorm": "norm1", "output.LayerNorm": "norm2"}


HEAD_FEATURES = 64  # of every BERT that was published


def convert(state_dict: Weights, *, num_heads: int | None = None) -> tuple[dict[str, Any], Weights]:
    """Arguments of `Bert`, and the weights to load into it.

    Args:
        state_dict: of the original network.
        num_heads: of every attention; a file does not tell, and None is as many as BERT has at this
            width, heads of 64 features.

    Raises:
        KeyError, ValueError: if this is not such a state_dict: an entry is missing, or too many.
    """
    old = dict(state_dict)
    config = _config(old, num_heads=num_heads)
    blocks: dict[str, tuple[str, Convert]] = {
        "embedding": ("positional_embedding", convolutional_embedding(join=pointwise)),
        "embed": ("embed", linear),
        "out": ("out", linear),
    }
    for layer in range(config["num_layers"]):
        blocks[f"layers.{layer}.maps"] = (f"transformer.{layer}", parallel_layers)
    return config, convert_blocks(old, blocks)


def _config(old: Weights, *, num_heads: int | None) -> dict[str, Any]:
    channels, with_positions = old["embed.weight_dw"].shape
    in_channels = with_positions - 1
    _, encoder_features, num_bins = old["embed.weight_pw"].shape
    num_pyramid_levels = count(old, r"positional_embedding\.encoder(\d+)\.")
    return {
        "in_channels": in_channels,
        "out_channels": len(old["out.weight_dw"]),
        "n_fft": 2 * num_bins,
        "channels": channels,
        "encoder_features": encoder_features,
        "num_layers": count(old, r"transformer\.(\d+)\."),
        "num_heads": num_heads or max(1, encoder_features // HEAD_FEATURES),
        "expansion": old["transformer.0.conv1.weight_pw"].shape[1] // encoder_features,
        "dropout": 0.1,
        "norm_eps": 1e-5,
        "embedding_widths": [
            len(old[f"positional_embedding.encoder{i + 1}.conv1.weight"]) // in_channels
            for i in range(num_pyramid_levels)
        ],
        "embedding_kernel_size": old["positional_embedding.extract1.conv1.weight"].shape[-1],
        "score_scale": "features",
        "pretrained": None,
        "freezes_encoder": True,
    }


def parallel_layers(old: Weights) -> Weights:
    """The layers of all maps, which the original keeps stacked."""
    new = Weights()
    for ours, theirs in _LINEAR.items():
        _unstack(new, f"{ours}.weight", old.pop(f"{theirs}.weight_pw"))
        _unstack(new, f"{ours}.bias", old.pop(f"{theirs}.bias_pw").squeeze(2))
    for ours, theirs in _NORMS.items():
        for name in ("weight", "bias"):
            _unstack(new, f"{ours}.{name}", old.pop(f"{theirs}.{name}").squeeze(1))
    return new


def _unstack(new: Weights, name: str, stacked: Tensor) -> None:
    for channel, value in enumerate(stacked):
        new[f"{channel}.{name}"] = value
