"""Queries, keys and values of frames: a linear layer per map, between short convolutions.

P is the number of projections made at once (three for self-attention, two for keys and values of
a memory): one convolution and one matrix product instead of P.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.convolve import convolve
from frametx.nn.folded_conv import depthwise_conv2d
from frametx.nn.multichannel_linear import linear_per_channel
from frametx.nn.temporal_conv import temporal_conv


class FrameProjection(nn.Module):
    """P projections: a convolution if asked, a linear layer per map, a convolution over time.

    Args:
        num_channels: maps that go out of every projection.
        num_features: features of a frame that go out.
        num_projections: how many projections are made of the same input.
        in_channels: maps that come in; another number than `num_channels` needs a `conv_kernel`.
        in_features: features that come in; None is as many as go out.
        conv_kernel: frames and bins that a convolution before the linear layer sees; odd, 0 for
            none.
        is_depthwise: that convolution sees each map alone instead of mixing all.
        num_taps: frames that a convolution behind the linear layer sees, mixing the maps; odd. One
            tap only mixes; 0 is none.
        has_bias: the convolutions have a bias.
        num_repeated: so many of the last maps are read a second time, through kernels of their own
            that stand behind the others. The two kernels of a map are added, not the map copied.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        num_features: int,
        num_projections: int,
        in_channels: int | None = None,
        in_features: int | None = None,
        conv_kernel: int = 0,
        is_depthwise: bool = False,
        num_taps: int = 3,
        has_bias: bool = True,
        num_repeated: int = 0,
    ) -> None:
        super().__init__()
        in_channels = num_channels if in_channels is None else in_channels
        in_features = num_features if in_features is None else in_features
        stacked = num_projections * num_channels
        self.num_projections = num_projections
        self.num_channels = num_channels
        self.num_repeated = num_repeated
        self.conv: nn.Conv2d | None = None
        if conv_kernel:
            self.conv = nn.Conv2d(
                in_channels + num_repeated,
                stacked,
                conv_kernel,
                padding=conv_kernel // 2,
                groups=in_channels if is_depthwise else 1,
                bias=has_bias,
            )
            # behind the convolution every projection has maps of its own: matrix p * C + c
            self.weight = nn.Parameter(torch.empty(stacked, num_features, in_features))
        else:
            assert in_channels == num_channels, "without a convolution maps stay as they are"
            assert num_repeated == 0, "without a convolution no map is read twice"
            # all projections of a map are one matrix, because they read the same frames
            self.weight = nn.Parameter(
                torch.empty(num_channels, num_projections * num_features, in_features)
            )
        self.is_depthwise = is_depthwise
        self.taps: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if num_taps:
            self.taps = nn.Parameter(
                torch.empty(num_projections, num_channels, num_channels, num_taps)
            )
            if has_bias:
                self.bias = nn.Parameter(torch.empty(num_projections, num_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw everything within one over the square root of the fan-in."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.taps is not None:
            bound = (self.taps.shape[-2] * self.taps.shape[-1]) ** -0.5
            nn.init.uniform_(self.taps, -bound, bound)
            if self.bias is not None:
                nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Float[Tensor, "B C_in T F_in"]) -> Float[Tensor, "B P C T F"]:
        """All projections of the same frames, stacked."""
        if self.conv is None:
            projected = linear_per_channel(x, self.weight)
            projected = projected.unflatten(-1, (self.num_projections, -1)).permute(0, 3, 1, 2, 4)
        else:
            projected = linear_per_channel(self._convolved(x), self.weight)
            projected = projected.unflatten(1, (self.num_projections, -1))
        if self.taps is None:
            return projected
        return temporal_conv(projected, self.taps, self.bias)

    def _convolved(self, x: Float[Tensor, "B C_in T F_in"]) -> Float[Tensor, "B PC T F_in"]:
        assert self.conv is not None
        if not self.is_depthwise:
            return convolve(x, self.conv, weight=self._kernel())
        return depthwise_conv2d(x, self.conv.weight, self.conv.bias)

    def _kernel(self) -> Float[Tensor, "PC C_in K_t K_f"]:
        assert self.conv is not None
        kernel, repeated = self.conv.weight, self.num_repeated
        if not repeated:
            return kernel
        once, twice, again = kernel.split([kernel.shape[1] - 2 * repeated, repeated, repeated], 1)
        return torch.cat([once, twice + again], 1)
