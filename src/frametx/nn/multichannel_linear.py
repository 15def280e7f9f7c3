"""A linear layer per feature map: what makes a frame transformer multichannel."""

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
        return torch.einsum("bctf,dc->bdtf", y, self.mixing)


def linear_per_channel(
    x: Float[Tensor, "B C T F_in"], weight: Float[Tensor, "C F_out F_in"]
) -> Float[Tensor, "B C T F_out"]:
    """Multiply the frames of map c by matrix c.

    The batch is folded into the frames: broadcasting the matrices over the batch would copy them.
    """
    if len(weight) == 1:
        return F.linear(x, weight[0])
    return torch.einsum("bctf,cof->bcto", x, weight)
