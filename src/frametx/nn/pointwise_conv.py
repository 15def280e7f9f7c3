"""A 1x1 convolution as the matrix product it is."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PointwiseConv(nn.Module):
    """Mix the maps with one matrix, the same at every frame and bin."""

    def __init__(self, *, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw everything within one over the square root of the maps that come in."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T F"]:
        """The same matrix at every frame and bin."""
        return pointwise_conv(x, self.weight, self.bias)


def pointwise_conv(
    x: Float[Tensor, "B C T F"],
    weight: Float[Tensor, "C_out C"],
    bias: Float[Tensor, " C_out"] | None = None,
) -> Float[Tensor, "B C_out T F"]:
    """Multiply the maps by `weight` at every frame and bin.

    The matrix is repeated by stride for a batched product: matmul would transpose the maps instead,
    and on two threads the backward pass of a convolution kernel takes ten times as long.
    """
    weight = weight.expand(x.shape[0], -1, -1)
    if bias is None:
        y = torch.bmm(weight, x.flatten(2))
    else:
        y = torch.baddbmm(bias[:, None].expand(x.shape[0], -1, -1), weight, x.flatten(2))
    return y.unflatten(-1, x.shape[2:])
