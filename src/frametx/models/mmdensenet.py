"""MMDenseNet and MMDenseLSTM: a U-Net of dense blocks for each band, one for all, then a block.

    magnitude --+--> low bins ---> DenseUNet --+
                +--> high bins --> DenseUNet --+--> above one another --+
                +--> all bins ---> DenseUNet --------------------------+--> dense block --> out

Inside, the layout is B C T F: C feature maps, F bins, last.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import features_last
from frametx.nn.dense_block import DenseBlock
from frametx.nn.dense_unet import DenseUNet
from frametx.nn.strided_conv import check_frames


class MMDenseNet(nn.Module):
    """Magnitudes in [0, 1] to those of the stem, or to logits of its mask.

    With `lstm_units` in the U-Nets it is MMDenseLSTM: the same network otherwise.

    Args:
        bands: U-Nets of the bands, from the lowest bins up. Bands with fewer maps than others are
            brought to as many by a 1 x 1 convolution, because they are laid above one another.
        full: the U-Net of all bins.
        out_channels: stems times audio channels. The originals have a network for each stem.
        final_growth_rate: maps of the last block.
        final_num_layers: its convolutions.
        final_kernel_size: frames and bins that they see.
        head: `magnitude` as published, or `mask`.

    Attributes:
        num_bins: bins that `forward` takes and returns.
        frame_multiple: frames must be a multiple of this.

    Raises:
        ValueError: if the bands do not have the bins of `full`, or the head is unknown.

    Source: Takahashi and Mitsufuji, "Multi-scale Multi-band DenseNets for Audio Source
    Separation", 2017; Takahashi et al., "MMDenseLSTM: An efficient combination of convolutional
    and recurrent neural networks for audio source separation", 2018.
    """

    def __init__(
        self,
        *,
        bands: Sequence[DenseUNet],
        full: DenseUNet,
        out_channels: int,
        final_growth_rate: int,
        final_num_layers: int,
        final_kernel_size: Sequence[int],
        head: Literal["magnitude", "mask"],
    ) -> None:
        super().__init__()
        widths = [band.num_bins for band in bands]
        if not widths or sum(widths) != full.num_bins:
            raise ValueError(
                f"bands of {widths} bins have {sum(widths)} in all, but full.num_bins is "
                f"{full.num_bins}: the bands must cover all bins once"
            )
        if head not in ("magnitude", "mask"):
            raise ValueError(f"head={head} must be magnitude or mask")
        self.num_bins = full.num_bins
        self.frame_multiple = max(part.frame_multiple for part in [*bands, full])
        self.head = head
        self.widths = widths
        self.bands = nn.ModuleList(bands)
        self.full = full
        num_maps = max(band.out_channels for band in bands)
        self.joins = nn.ModuleList(
            nn.Identity()
            if band.out_channels == num_maps
            else nn.Conv2d(band.out_channels, num_maps, kernel_size=1)
            for band in bands
        )
        self.block = DenseBlock(
            in_channels=num_maps + full.out_channels,
            growth_rate=final_growth_rate,
            num_layers=final_num_layers,
            kernel_size=final_kernel_size,
        )
        self.out = nn.Conv2d(self.block.out_channels, out_channels, kernel_size=1)
        if head == "magnitude":
            assert self.out.bias is not None
            # A rectifier that starts below zero everywhere never learns.
            nn.init.constant_(self.out.bias, 0.1)

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """The stem's magnitudes, or logits whose sigmoid is its mask.

        Raises:
            ValueError: if the frames cannot be halved as often as there are scales.
        """
        check_frames(magnitude, multiple=self.frame_multiple)
        x = features_last(magnitude, num_bins=self.num_bins)
        parts = [
            join(band(part))
            for band, join, part in zip(
                self.bands, self.joins, x.split(self.widths, dim=3), strict=True
            )
        ]
        h = self.out(self.block(torch.cat([torch.cat(parts, 3), self.full(x)], 1)))
        return (F.relu(h) if self.head == "magnitude" else h).transpose(2, 3)
