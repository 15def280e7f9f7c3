"""One step up the U-Net."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block


class FrameDecoder(Block):
    """Interpolate what comes from below to the encoder's size, join both, and run a block over it.

    Args:
        body: a residual block for the maps from below and those of the encoder.
        skip_first: the encoder's maps stand before those from below; otherwise behind.
        rounds_interpolation: interpolate in half precision, as one original did by mistake.
    """

    def __init__(
        self, *, body: nn.Module, skip_first: bool = False, rounds_interpolation: bool = False
    ) -> None:
        super().__init__()
        self.body = body
        self.skip_first = skip_first
        self.rounds_interpolation = rounds_interpolation

    def forward(
        self, x: Float[Tensor, "B C T_in F_in"], skip: Float[Tensor, "B C_skip T F"]
    ) -> Float[Tensor, "B C_out T F"]:
        """Join what comes from below to the encoder's maps."""
        if self.rounds_interpolation:
            # along both axes, as the original: in half precision the kernels round differently
            larger = _bilinear(x.half(), skip.shape[2:]).bfloat16().to(skip.dtype)
        else:
            larger = _interpolated(x, skip.shape[2:])
        joined = torch.cat([skip, larger] if self.skip_first else [larger, skip], 1)
        del larger  # the body is where a network's memory peaks
        return self.body(joined)


def _interpolated(x: Float[Tensor, "B C T_in F_in"], size: torch.Size) -> Float[Tensor, "B C T F"]:
    if x.shape[2] != size[0]:
        return _bilinear(x, size)
    # frames stay, so it is interpolation along a line, with the maps' frames as its channels
    larger = F.interpolate(x.flatten(1, 2), size=size[1], mode="linear", align_corners=True)
    return larger.unflatten(1, x.shape[1:3])


def _bilinear(x: Float[Tensor, "B C T_in F_in"], size: torch.Size) -> Float[Tensor, "B C T F"]:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
