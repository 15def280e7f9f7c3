"""A U-Net of dense blocks over one band of the spectrum, with LSTMs at chosen scales.

    input -> block 1 ------------------ maps -----------------> block 5 -> maps
               block 2 --------------- maps --------------> block 4
                 block 3 (half the bins and frames twice) ->

Inside a network the layout is B C T F: C feature maps, F features of one frame, last.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.dense_block import DenseBlock, FrameLstm, SameConv


class DenseUNet(nn.Module):
    """Magnitudes of a band to feature maps of it.

    Args:
        in_channels: audio channels of the magnitudes.
        num_bins: of the band; zeros fill them up to what can be halved.
        channels: maps of the first convolution.
        first_kernel_size: frames and bins that it sees.
        growth_rates: maps of each block, from the finest scale down and up again: an odd number.
        num_layers: convolutions of each block.
        lstm_units: hidden features of each block's LSTM in each direction; 0 is none.
        kernel_size: frames and bins that the blocks' convolutions see.

    Attributes:
        num_bins: bins that it takes and returns.
        out_channels: maps that it returns.
        frame_multiple: frames must be a multiple of this.

    Raises:
        ValueError: if the lists differ in length, or have an even one.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_bins: int,
        channels: int,
        first_kernel_size: Sequence[int],
        growth_rates: Sequence[int],
        num_layers: Sequence[int],
        lstm_units: Sequence[int],
        kernel_size: Sequence[int],
    ) -> None:
        super().__init__()
        if not len(growth_rates) == len(num_layers) == len(lstm_units):
            raise ValueError(
                f"{len(growth_rates)} growth_rates, {len(num_layers)} num_layers and "
                f"{len(lstm_units)} lstm_units: give one of each for every block"
            )
        if len(growth_rates) % 2 == 0:
            raise ValueError(
                f"{len(growth_rates)} blocks: as many lead down as up, and one lies between; "
                "give an odd number of growth_rates"
            )
        num_halvings = len(growth_rates) // 2
        self.num_bins = num_bins
        self.frame_multiple = 2**num_halvings
        self.filling = -num_bins % self.frame_multiple
        self.embed = SameConv(
            in_channels=in_channels, out_channels=channels, kernel_size=first_kernel_size
        )
        self.blocks = nn.ModuleList()
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        maps, skips = channels, []
        for number, settings in enumerate(zip(growth_rates, num_layers, lstm_units, strict=True)):
            depth = min(number, len(growth_rates) - 1 - number)
            if number > num_halvings:
                self.up.append(nn.ConvTranspose2d(maps, maps, kernel_size=2, stride=2))
                maps += skips.pop()
            maps = self._add_block(maps, depth, *settings, kernel_size=kernel_size)
            if number < num_halvings:
                self.down.append(
                    nn.Sequential(
                        nn.BatchNorm2d(maps),
                        nn.ReLU(),
                        nn.Conv2d(maps, maps, kernel_size=1),
                        nn.AvgPool2d(2),
                    )
                )
                skips.append(maps)
        self.out_channels = maps

    def forward(self, magnitude: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T F"]:
        """Feature maps of every frame and bin."""
        num_bins = magnitude.shape[3]
        h = self.embed(F.pad(magnitude, (0, self.filling)))
        num_halvings = len(self.down)
        skips: list[Tensor] = []
        for block, down in zip(self.blocks[:num_halvings], self.down, strict=True):
            skips.append(block(h))
            h = down(skips[-1])
        h = self.blocks[num_halvings](h)
        for up, block in zip(self.up, self.blocks[num_halvings + 1 :], strict=True):
            h = block(torch.cat([up(h), skips.pop()], 1))
        return h[..., :num_bins]

    def _add_block(
        self,
        in_channels: int,
        depth: int,
        growth_rate: int,
        num_layers: int,
        num_units: int,
        *,
        kernel_size: Sequence[int],
    ) -> int:
        """A block `depth` halvings down; returns how many maps go out of it."""
        dense = DenseBlock(
            in_channels=in_channels,
            growth_rate=growth_rate,
            num_layers=num_layers,
            kernel_size=kernel_size,
        )
        if not num_units:
            self.blocks.append(dense)
            return dense.out_channels
        lstm = FrameLstm(
            in_channels=dense.out_channels,
            num_features=(self.num_bins + self.filling) >> depth,
            num_units=num_units,
        )
        self.blocks.append(nn.Sequential(dense, lstm))
        return dense.out_channels + 1
