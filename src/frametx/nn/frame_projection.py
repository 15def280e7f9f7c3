"""Queries, keys and values of frames: a linear layer per map, then a short convolution over time.

P is the number of projections made at once (three for self-attention, two for keys and values of
a memory): one matrix product instead of P.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.multichannel_linear import linear_per_channel
from frametx.nn.temporal_conv import temporal_conv


class FrameProjection(nn.Module):
    """P linear layers per map and, behind each, a convolution over time that mixes the maps.

    Args:
        num_channels: maps that come in, and that go out of every projection.
        num_features: features of a frame, in and out.
        num_projections: how many projections are made of the same input.
        kernel_size: frames the convolution sees; odd.
    """

    def __init__(
        self, *, num_channels: int, num_features: int, num_projections: int, kernel_size: int = 3
    ) -> None:
        super().__init__()
        self.num_projections = num_projections
        self.weight = nn.Parameter(
            torch.empty(num_channels, num_projections * num_features, num_features)
        )
        self.taps = nn.Parameter(
            torch.empty(num_projections, num_channels, num_channels, kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(num_projections, num_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw everything within one over the square root of the fan-in."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        bound = (self.taps.shape[-2] * self.taps.shape[-1]) ** -0.5
        nn.init.uniform_(self.taps, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B P C T F"]:
        """All projections of the same frames, stacked."""
        projected = linear_per_channel(x, self.weight)
        projected = projected.unflatten(-1, (self.num_projections, -1)).permute(0, 3, 1, 2, 4)
        return temporal_conv(projected, self.taps, self.bias)
