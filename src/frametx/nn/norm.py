"""Normalisation of one frame: over its features, map by map, or over its maps, bin by bin.

Inside a network the layout is B C T F: C feature maps, F features of one frame, last.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MultichannelLayerNorm(nn.Module):
    """Layer norm over the features of every frame, with a scale and a shift of its own per map."""

    def __init__(self, *, num_channels: int, num_features: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels, 1, num_features))
        self.bias = nn.Parameter(torch.zeros(num_channels, 1, num_features))

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        """Zero mean and unit variance over F, then scale and shift."""
        features = x.shape[-1:]
        if len(self.weight) == 1:  # the fused kernel takes scale and shift of a single map
            return F.layer_norm(x, features, self.weight[0, 0], self.bias[0, 0], self.eps)
        normal = F.layer_norm(x, features, eps=self.eps)
        # Repeated over the batch by hand, the gradients are summed over batch and frames one after
        # the other; in a single sum over both, backward takes half as long again.
        bias, weight = (p.expand(x.shape[0], -1, -1, -1) for p in (self.bias, self.weight))
        return torch.addcmul(bias, normal, weight)


class FrameNorm(nn.Module):
    """Layer norm over the features of every frame, with one scale and shift for all maps.

    Args:
        num_channels: not needed: all maps share; given so that every norm is made alike.
        num_features: features of a frame.
        eps: added to the variance.
    """

    def __init__(self, *, num_channels: int, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        """Zero mean and unit variance over F, then scale and shift."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class InstanceNorm(nn.Module):
    """Every map of every item normalised over frames and features, the same in training and use.

    Args:
        num_channels: maps, each with a scale and a shift.
        num_features: not needed: scale and shift serve all; given so that every norm is made alike.
        eps: added to the variance.
    """

    def __init__(self, *, num_channels: int, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        """Zero mean and unit variance over T and F, then scale and shift."""
        # a map as one group: unlike instance_norm it takes maps of a single value
        return F.group_norm(x, len(self.weight), self.weight, self.bias, self.eps)


class ChannelNorm(nn.Module):
    """Layer norm over the maps at every frame and bin."""

    def __init__(self, *, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        """Zero mean and unit variance over C, then scale and shift."""
        last = x.movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, self.eps).movedim(-1, 1)
