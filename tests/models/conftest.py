"""Every network of the family in a small form, for the laws that all of them keep."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.models.asym_unet_mct import AsymUNetMCT
from frametx.models.bert import Bert
from frametx.models.frame_transformer_v1 import FrameTransformerV1
from frametx.models.mask_refiner import MaskRefiner
from frametx.models.positionwise import Positionwise
from frametx.models.v2b import V2b
from frametx.models.v3 import V3
from frametx.models.v7 import V7
from frametx.models.v8 import V8
from frametx.models.v9_patch import V9Patch
from frametx.models.v10_temporal import V10Temporal


@dataclass(frozen=True)
class Case:
    """A small network: milliseconds to run, with every kind of part it can have.

    Attributes:
        network: the class.
        config: its arguments; dropout is 0.
        frames: numbers of frames it takes; the first is used where one is enough.
        unused: names of parameters that take no part, as the original's weights need.
    """

    network: type[nn.Module]
    config: dict[str, Any]
    frames: tuple[int, ...] = (7, 1, 2, 64)
    unused: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)

    def build(self, **changes: Any) -> nn.Module:
        torch.manual_seed(0)
        return self.network(**(self.config | self.changes | changes)).eval()

    def magnitude(self, *, batch: int = 2, frames: int | None = None) -> Tensor:
        torch.manual_seed(1)
        num_bins = self.config["n_fft"] // 2
        frames = self.frames[0] if frames is None else frames
        num_crops = 1 + 2 * self.config.get("num_past_crops", 0)
        return torch.rand(batch, self.config["in_channels"] * num_crops, num_bins, frames)


ASYM_UNET_MCT: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3, 4],
    "num_plain_levels": 0,
    "num_attention_maps": 2,
    "num_heads": 2,
    "expansion": 12,
    "num_bridge_layers": 2,
    "dropout": 0.0,
    "encoder_kernel_sizes": [3, 5],
    "decoder_kernel_sizes": [5, 3, 3],
    "embedding_widths": [2, 3],
    "embedding_kernel_size": 5,
    "decoder_dropout": 0.0,
    "num_decoder_dropout_levels": 0,
    "gate": "conv3d",
    "score_scale": "features",
    "angle_precision": "float32",
    "restarts_bridge_residual": False,
    "has_vocal_bands": False,
    "normalizes_vocal_bands": True,
    "normalizes_output": True,
}
V10_TEMPORAL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_attention_maps": 1,
    "map_widths": [1, 2, 3],
    "num_heads": 2,
    "expansion": 2,
    "kernel_size": 3,
    "projection_kernel_size": 3,
    "num_taps": 3,
    "dropout": 0.0,
    "spares_single_maps": True,
    "score_scale": "features",
    "angle_precision": "float32",
}
FRAME_TRANSFORMER_V1: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_heads": 2,
    "expansion": 2,
    "dropout": 0.0,
    "score_scale": "features",
    "angle_precision": "float32",
    "shares_attention_norm": False,
}
V3_SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 3,
    "num_layers": 3,
    "num_heads": 4,
    "expansion": 2,
    "kernel_size": 3,
    "embedding_kernel_size": 3,
    "dropout": 0.0,
    "head": "mask",
    "score_scale": "features",
    "angle_precision": "float32",
    "normalizes_output": True,
}
BERT: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "encoder_features": 24,
    "num_layers": 2,
    "num_heads": 4,
    "expansion": 2,
    "dropout": 0.0,
    "norm_eps": 1e-5,
    "embedding_widths": [2, 3],
    "embedding_kernel_size": 3,
    "score_scale": "features",
    "pretrained": None,
    "freezes_encoder": False,
}
V2B: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 32,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_linear_levels": 2,
    "num_attention_maps": 2,
    "num_heads": 2,
    "expansion": 2,
    "dropout": 0.0,
    "attention_kernel_size": 5,
    "feed_forward_kernel_size": 3,
    "embedding_widths": [2],
    "embedding_kernel_size": 5,
    "has_sinusoids": True,
    "score_scale": "features",
    "angle_precision": "float32",
}
V7_SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_attention_maps": 2,
    "num_heads": 4,
    "num_bottom_heads": 2,
    "expansions": [12, 10, 8],
    "dropout": 0.0,
    "embedding_widths": [2, 3],
    "embedding_kernel_size": 5,
    "mixes_encoder_hidden": True,
    "score_scale": "features",
    "angle_precision": "float32",
}
V8_SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_attention_maps": 1,
    "num_heads": 4,
    "expansions": [34, 20, 12],
    "attention_kernel_size": 3,
    "dropout": 0.0,
    "score_scale": "features",
    "angle_precision": "float32",
    "rounds_upsampling": False,
}
POSITIONWISE: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_heads": [4, 2, 1],
    "expansion_factor": 2,
    "num_taps": 3,
    "dropout": 0.0,
    "input_range": [-1.0, 1.0],
    "score_scale": "features",
    "angle_precision": "float32",
    "skips_join_dropout": False,
    "has_unused_norms": True,
}
V9_PATCH: dict[str, Any] = {
    "in_channels": 2,
    "num_past_crops": 1,
    "crop_frames": 16,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_layers": 2,
    "chunk_size": 4,
    "num_heads": 2,
    "expansion": 12,
    "kernel_size": 3,
    "dropout": 0.0,
    "score_scale": "chunk",
    "angle_precision": "float32",
}
MASK_REFINER: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "fold": 2,
    "widths": [2, 3],
    "token_features": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_features": 12,
    "dropout": 0.0,
}
NETWORKS: dict[str, Case] = {
    "mask_refiner": Case(MaskRefiner, MASK_REFINER),
    "v9_patch": Case(V9Patch, V9_PATCH, frames=(48, 16, 64)),
    "positionwise": Case(Positionwise, POSITIONWISE),
    "v2b": Case(V2b, V2B),
    "v2b, without sinusoids": Case(
        V2b,
        V2B,
        changes={
            "has_sinusoids": False,
            "num_attention_maps": 1,
            "widths": [1, 2],
            "num_linear_levels": 0,
        },
    ),
    "frame_transformer_v1": Case(FrameTransformerV1, FRAME_TRANSFORMER_V1),
    "frame_transformer_v1, original": Case(
        FrameTransformerV1,
        FRAME_TRANSFORMER_V1,
        unused=tuple(
            f"decoder_transformers.{level}.layer.norm_memory.{name}"
            for level in (0, 1)
            for name in ("weight", "bias")
        ),
        changes={"shares_attention_norm": True},
    ),
    "v10_temporal": Case(V10Temporal, V10_TEMPORAL),
    "asym_unet_mct": Case(AsymUNetMCT, ASYM_UNET_MCT),
    "asym_unet_mct, gated by queries": Case(AsymUNetMCT, ASYM_UNET_MCT, changes={"gate": "query"}),
    "v3": Case(V3, V3_SMALL),
    "bert": Case(Bert, BERT),
    "bert, original": Case(Bert, BERT, changes={"freezes_encoder": True, "encoder_features": 32}),
    "v7": Case(V7, V7_SMALL),
    "v8": Case(V8, V8_SMALL),
}


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> Case:
    return NETWORKS[request.param]
