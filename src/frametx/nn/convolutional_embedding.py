"""A positional embedding that also sees the spectrogram: one map, made by a pyramid."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.residual_block import ResBlock
from frametx.nn.sinusoid import sinusoid_table
from frametx.nn.squared_relu import squared_relu


class ConvolutionalEmbedding(Block):
    """The input goes down a pyramid; every level gives one map; the maps are joined to one.

    Each level halves frames and features. Its map is interpolated to full size before joining.

    Args:
        in_channels: maps that come in.
        num_features: features of a frame; divisible by two as often as there are widths.
        widths: maps of every level below the first, as multiples of `in_channels`.
        kernel_size: of the convolutions that make a level's map; odd.
        has_sinusoids: sines and cosines of the frame's number enter beside the input.
        joins_by_block: a residual block joins the maps; else a 1x1 convolution with a bias.
        norm: makes the norms of the residual blocks.
        activation: inside the residual blocks.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_features: int,
        widths: Sequence[int],
        kernel_size: int,
        has_sinusoids: bool = True,
        joins_by_block: bool = True,
        norm: Callable[..., nn.Module] = MultichannelLayerNorm,
        activation: Callable[[Tensor], Tensor] = squared_relu,
    ) -> None:
        super().__init__()
        self.has_sinusoids = has_sinusoids
        # the first level is as wide as what enters
        channels = [in_channels + has_sinusoids, *(in_channels * width for width in widths)]
        features = [num_features >> level for level in range(len(channels))]
        block = partial(ResBlock, norm=norm, activation=activation)
        self.extracts = nn.ModuleList(
            block(in_channels=c, out_channels=1, num_features=f, kernel_size=kernel_size)
            for c, f in zip(channels, features, strict=True)
        )
        self.encoders = nn.ModuleList(
            block(in_channels=c, out_channels=below, num_features=f, stride=(2, 2))
            for c, below, f in zip(channels, channels[1:], features, strict=False)
        )
        self.join = (
            block(
                in_channels=len(channels), out_channels=1, num_features=num_features, kernel_size=1
            )
            if joins_by_block
            else PointwiseConv(in_channels=len(channels), out_channels=1, bias=True)
        )

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B 1 T F"]:
        """One map, as large as the input."""
        size = x.shape[2:]
        h = x
        if self.has_sinusoids:
            table = sinusoid_table(*size, device=x.device).to(x.dtype)
            h = torch.cat([x, table.expand(x.shape[0], 1, -1, -1)], 1)
        maps = [self.extracts[0](h)]
        for encoder, extract in zip(self.encoders, self.extracts[1:], strict=True):
            h = encoder(h)
            maps.append(F.interpolate(extract(h), size=size, mode="bilinear", align_corners=True))
        return self.join(torch.cat(maps, 1))
