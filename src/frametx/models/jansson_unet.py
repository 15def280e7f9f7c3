"""The first U-Net that separated singing: strided convolutions down, transposed ones up, one mask.

    magnitude -> encoder 1 ------------------ maps -----------------> decoder 1 -> logits
                   encoder 2 ---------------- maps ---------------> decoder 2
                     ...   (half the bins and half the frames)        ...
                       encoder n ----------------------------------->

It is not Spleeter with other numbers: here maps skip over after norm and activation, the deepest
level is normalised, norms of the decoders come before the activation, and the last decoder gives
the mask itself. One class for both would be four switches.

Inside, the layout is B C T F: C feature maps, F bins, last.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import features_last
from frametx.nn.strided_conv import DoublingConv, HalvingConv, check_frames, check_halvings


class JanssonUNet(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask.

    Args:
        in_channels: audio channels of the magnitudes; the original's is one.
        out_channels: channels of logits: stems times audio channels. The original has a network
            for each stem.
        num_bins: lowest bins of the STFT, that the network sees.
        widths: maps of each level; every level halves frames and bins.
        kernel_size: of all convolutions.
        num_dropout_levels: decoders with dropout, the deepest first.
        dropout: its probability.

    Attributes:
        num_bins: bins that `forward` takes and returns.
        frame_multiple: frames must be a multiple of this.

    Raises:
        ValueError: if the bins cannot be halved as often as there are levels.

    Source: Jansson et al., "Singing Voice Separation with Deep U-Net Convolutional Networks", 2017.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        num_bins: int,
        widths: Sequence[int],
        kernel_size: int,
        num_dropout_levels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_halvings(num_bins, num_levels=len(widths))
        self.num_bins = num_bins
        self.frame_multiple = 2 ** len(widths)
        from_above = [in_channels, *widths[:-1]]
        self.encoders = nn.ModuleList(
            nn.Sequential(
                HalvingConv(in_channels=above, out_channels=maps, kernel_size=kernel_size),
                nn.BatchNorm2d(maps),
                nn.LeakyReLU(0.2),
            )
            for above, maps in zip(from_above, widths, strict=True)
        )
        to_above = list(reversed(widths[:-1]))
        from_below = [widths[-1], *(2 * maps for maps in to_above)]
        self.decoders = nn.ModuleList(
            nn.Sequential(
                DoublingConv(in_channels=below, out_channels=maps, kernel_size=kernel_size),
                nn.BatchNorm2d(maps),
                nn.ReLU(),
                nn.Dropout(dropout if level < num_dropout_levels else 0.0),
            )
            for level, (below, maps) in enumerate(zip(from_below, to_above, strict=False))
        )
        self.out = DoublingConv(
            in_channels=from_below[-1], out_channels=out_channels, kernel_size=kernel_size
        )

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask.

        Raises:
            ValueError: if the frames cannot be halved as often as there are levels.
        """
        check_frames(magnitude, multiple=self.frame_multiple)
        h = features_last(magnitude, num_bins=self.num_bins)
        skips: list[Tensor] = []
        for encoder in self.encoders:
            h = encoder(h)
            skips.append(h)
        h = skips.pop()
        for decoder in self.decoders:
            h = torch.cat([skips.pop(), decoder(h)], 1)
        return self.out(h).transpose(2, 3)
