"""The convolutional block of the U-Net: it changes the number of maps and, if asked, the size."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block
from frametx.nn.convolve import convolve_twice
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.squared_relu import squared_relu


class ResBlock(Block):
    """Norm, convolution, activation, convolution, beside a shortcut.

    The shortcut is a 1x1 convolution where maps or size change, else the identity.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        num_features: features of a frame that come in.
        kernel_size: of both convolutions, over frames and over bins; odd.
        stride: (frames, bins) of the second convolution.
        dropout: probability on the branch beside the shortcut.
        hidden_channels: maps between the convolutions; None is as many as go out.
        activation: between the convolutions.
        norm: makes the norm, from `num_channels` and `num_features`.
        has_shortcut_conv: a 1x1 convolution even where nothing changes.
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
        hidden_channels: int | None = None,
        activation: Callable[[Tensor], Tensor] = squared_relu,
        norm: Callable[..., nn.Module] = MultichannelLayerNorm,
        has_shortcut_conv: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.activation = activation
        self.norm = norm(num_channels=in_channels, num_features=num_features)
        hidden = out_channels if hidden_channels is None else hidden_channels
        conv = partial(nn.Conv2d, kernel_size=kernel_size, padding=kernel_size // 2, bias=False)
        self.conv_in = conv(in_channels, hidden)
        self.conv_out = conv(hidden, out_channels, stride=stride)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        changes = in_channels != out_channels or stride != (1, 1)
        self.shortcut = (
            PointwiseConv(in_channels=in_channels, out_channels=out_channels, bias=False)
            if changes or has_shortcut_conv
            else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T_out F_out"]:
        """Branch and shortcut, summed."""
        branch = convolve_twice(self.norm(x), self.conv_in, self.activation, self.conv_out)
        frames, bins = self.stride
        kept = x if self.stride == (1, 1) else x[:, :, ::frames, ::bins]
        return self.shortcut(kept) + self.dropout(branch)
