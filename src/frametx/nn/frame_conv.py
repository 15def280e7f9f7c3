"""A large view over neighbouring frames and bins, then over all bins of a frame."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.folded_conv import depthwise_conv2d
from frametx.nn.multichannel_linear import MultichannelLinear


class FrameConv(nn.Module):
    """A depthwise convolution over frames and bins, then a linear layer per map over the bins."""

    def __init__(self, *, num_channels: int, num_features: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(num_channels, 1, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.linear = MultichannelLinear(
            num_channels=num_channels, in_features=num_features, out_features=num_features
        )
        bound = 1 / kernel_size  # the square root of the fan-in
        nn.init.uniform_(self.kernel, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        """See neighbours first, then all bins of the frame."""
        return self.linear(depthwise_conv2d(x, self.kernel, self.bias))
