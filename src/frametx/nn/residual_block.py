"""The convolutional block of the U-Net: it changes the number of maps and, if asked, the size."""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.folded_conv import can_fold, folded_conv2d
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv, pointwise_conv
from frametx.nn.squared_relu import squared_relu


class ResBlock(nn.Module):
    """Norm, convolution, squared relu, convolution, beside a shortcut.

    The shortcut is a 1x1 convolution where maps or size change, else the identity.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        num_features: features of a frame that come in.
        kernel_size: of both convolutions, over frames and over bins; odd.
        stride: (frames, bins) of the second convolution.
        dropout: probability on the branch beside the shortcut.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        num_features: int,
        kernel_size: int = 3,
        stride: tuple[int, int] = (1, 1),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.norm = MultichannelLayerNorm(num_channels=in_channels, num_features=num_features)
        conv = partial(nn.Conv2d, kernel_size=kernel_size, padding=kernel_size // 2, bias=False)
        self.conv_in = conv(in_channels, out_channels)
        self.conv_out = conv(out_channels, out_channels, stride=stride)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        changes = in_channels != out_channels or stride != (1, 1)
        self.shortcut = (
            PointwiseConv(in_channels=in_channels, out_channels=out_channels, bias=False)
            if changes
            else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T_out F_out"]:
        """Branch and shortcut, summed."""
        branch = _convolve(self.norm(x), self.conv_in)
        branch = _convolve(squared_relu(branch), self.conv_out).contiguous()
        frames, bins = self.stride
        kept = x if self.stride == (1, 1) else x[:, :, ::frames, ::bins]
        return self.shortcut(kept) + self.dropout(branch)


def _convolve(x: Float[Tensor, "B C T F"], conv: nn.Conv2d) -> Float[Tensor, "B D T_out F_out"]:
    """Apply `conv` in the form that is fast for its number of maps.

    On a CPU a single map is folded, and few maps are faster in channels last, the conversion
    included, backward above all; from some twenty on, the conversion costs more than it gains.
    """
    if conv.kernel_size == conv.stride == (1, 1):
        return pointwise_conv(x, conv.weight.flatten(1))
    if x.device.type == "cpu":
        if conv.out_channels == 1 and conv.stride == (1, 1) and can_fold(x, conv.weight):
            return folded_conv2d(x, conv.weight)
        if conv.in_channels <= 16:
            x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding)
