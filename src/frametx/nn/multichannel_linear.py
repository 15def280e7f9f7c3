"""A linear layer per feature map: what makes a frame transformer multichannel."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MultichannelLinear(nn.Module):
    """The frames of every map through that map's own matrix; if asked, then mix the maps.

    Args:
        num_channels: maps that come in.
        in_features: features of a frame that come in.
        out_features: features of a frame that go out.
        out_channels: maps that go out; another number than `num_channels` implies mixing.
        mix_channels: learn a matrix over the maps, the same at every frame and feature.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        in_features: int,
        out_features: int,
        out_channels: int | None = None,
        mix_channels: bool = False,
    ) -> None:
        super().__init__()
        out_channels = num_channels if out_channels is None else out_channels
        self.weight = nn.Parameter(torch.empty(num_channels, out_features, in_features))
        self.mixing: nn.Parameter | None = None
        if mix_channels or out_channels != num_channels:
            self.mixing = nn.Parameter(torch.empty(out_channels, num_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both matrices as `torch.nn.Linear` draws its own."""
        for matrix in self.parameters():
            bound = matrix.shape[-1] ** -0.5
            nn.init.uniform_(matrix, -bound, bound)

    def forward(self, x: Float[Tensor, "B C T F_in"]) -> Float[Tensor, "B C_out T F_out"]:
        """Each map's matrix, then the mixing."""
        y = linear_per_channel(x, self.weight)
        if self.mixing is None:
            return y
        return mix_maps(y, self.mixing)


def mix_maps(
    x: Float[Tensor, "B C T F"], mixing: Float[Tensor, "C_out C"]
) -> Float[Tensor, "B C_out T F"]:
    """One matrix over the maps, the same at every frame and feature.

    Behind `linear_per_channel` the maps are outermost in memory: one product, of nothing copied.
    """
    mixed = mixing @ x.transpose(0, 1).flatten(1)
    return mixed.unflatten(1, (x.shape[0], *x.shape[2:])).transpose(0, 1)


def linear_per_channel(
    x: Float[Tensor, "B C T F_in"], weight: Float[Tensor, "C F_out F_in"]
) -> Float[Tensor, "B C T F_out"]:
    """Multiply the frames of map c by matrix c.

    The batch is folded into the frames: broadcasting the matrices over the batch would copy them.
    """
    if len(weight) == 1:
        return F.linear(x, weight[0])
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        y = _BatchedLinear.apply(x.transpose(0, 1).flatten(1, 2), weight)
    return y.unflatten(1, (x.shape[0], -1)).transpose(0, 1)


class _BatchedLinear(torch.autograd.Function):
    """x @ weight^T for a stack of matrices, with the weight's gradient laid out as the weight.

    Derived from bmm it would come out transposed, and copying it into place cost, at a thousand
    features, as much time as computing it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        return torch.bmm(grad, weight), torch.bmm(grad.mT, x)
