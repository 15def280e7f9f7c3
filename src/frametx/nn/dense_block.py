"""Densely connected convolutions, and an LSTM over frames that may follow them.

Inside a network the layout is B C T F: C feature maps, F features of one frame, last.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class DenseBlock(nn.Module):
    """Convolutions of which each reads the input and what all before it gave; the last counts.

    Only the maps of the last one go out: with those of all of them, or with the input beside them,
    the network of 2017 has 2.4 or 27 times the parameters that its authors report.

    Args:
        in_channels: maps that come in.
        growth_rate: maps that every convolution gives.
        num_layers: convolutions; without any the input goes out as it is.
        kernel_size: frames and bins that a convolution sees.

    Attributes:
        out_channels: maps that go out.

    Source: Huang et al., "Densely Connected Convolutional Networks", 2017.
    """

    def __init__(
        self, *, in_channels: int, growth_rate: int, num_layers: int, kernel_size: Sequence[int]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _NormalisedConv(
                in_channels=in_channels + layer * growth_rate,
                out_channels=growth_rate,
                kernel_size=kernel_size,
            )
            for layer in range(num_layers)
        )
        self.out_channels = growth_rate if num_layers else in_channels

    def forward(self, x: Float[Tensor, "B C_in T F"]) -> Float[Tensor, "B C_out T F"]:
        """What the last convolution makes of all before it."""
        seen, newest = x, x
        for layer in self.layers:
            newest = layer(seen)
            seen = torch.cat([seen, newest], 1)
        return newest


class FrameLstm(nn.Module):
    """One more map beside those that come in: what an LSTM over frames makes of all of them.

    Args:
        in_channels: maps that come in.
        num_features: of a frame.
        num_units: hidden features of each of the two directions.

    Source: Takahashi et al., "MMDenseLSTM", 2018, the arrangement in which the LSTM follows the
    dense block and its input skips it.
    """

    def __init__(self, *, in_channels: int, num_features: int, num_units: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, 1, kernel_size=1)
        self.lstm = nn.LSTM(num_features, num_units, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * num_units, num_features)

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_more T F"]:
        """The maps, and the new one behind them."""
        hidden, _ = self.lstm(self.embed(x)[:, 0])
        return torch.cat([x, self.out(hidden)[:, None]], 1)


class SameConv(nn.Module):
    """A convolution that keeps frames and bins; where zeros are odd, one more lies at the end.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        kernel_size: frames and bins that one output sees.
    """

    def __init__(self, *, in_channels: int, out_channels: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        frames, bins = kernel_size
        self.around = ((bins - 1) // 2, bins // 2, (frames - 1) // 2, frames // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, (frames, bins))

    def forward(self, x: Float[Tensor, "B C_in T F"]) -> Float[Tensor, "B C_out T F"]:
        """As many frames and bins as came in."""
        return self.conv(F.pad(x, self.around))


class _NormalisedConv(nn.Module):
    def __init__(self, *, in_channels: int, out_channels: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = SameConv(
            in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size
        )

    def forward(self, x: Float[Tensor, "B C_in T F"]) -> Float[Tensor, "B C_out T F"]:
        return self.conv(F.relu(self.norm(x)))
