"""One step up the U-Net."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.residual_block import ResBlock


class FrameDecoder(nn.Module):
    """Twice the features by interpolation, then a residual block over these and the encoder's maps.

    Args:
        in_channels: maps from below.
        skip_channels: maps from the encoder of this level.
        out_channels: maps that go out.
        num_features: features of a frame at this level, twice those from below.
        dropout: probability inside the residual block.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        num_features: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.body = ResBlock(
            in_channels=in_channels + skip_channels,
            out_channels=out_channels,
            num_features=num_features,
            dropout=dropout,
        )

    def forward(
        self, x: Float[Tensor, "B C T F_in"], skip: Float[Tensor, "B C_skip T F"]
    ) -> Float[Tensor, "B C_out T F"]:
        """Join what comes from below to the encoder's maps."""
        # frames stay, so it is interpolation along a line, with the maps' frames as its channels
        size = skip.shape[-1]
        larger = F.interpolate(x.flatten(1, 2), size=size, mode="linear", align_corners=True)
        return self.body(torch.cat([larger.unflatten(1, x.shape[1:3]), skip], 1))
