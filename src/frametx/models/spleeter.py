"""Spleeter: one U-Net of strided convolutions for every stem, and masks that share each bin.

    magnitude --+--> U-Net of vocals ------> mask --+
                +--> U-Net of drums -------> mask --+--> powers, divided by their sum --> masks
                +--> U-Net of the rest ----> mask --+

Inside, the layout is B C T F: C feature maps, F bins, last.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import features_last
from frametx.nn.strided_conv import DoublingConv, HalvingConv, check_frames, check_halvings

Activation = Literal["leaky_relu", "relu", "elu"]
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": partial(nn.LeakyReLU, 0.2),
    "relu": nn.ReLU,
    "elu": nn.ELU,
}


class Spleeter(nn.Module):
    """Magnitudes to logits of masks that sum to one over the stems.

    A U-Net's own mask is a sigmoid of its own, or a softmax over all stems. What counts in the end
    is each stem's share: its mask to a power, divided by the sum over the stems.

    Because the shares sum to one, the last stem's may be left out: the separator's complement, that
    takes what the others leave, is then just that stem.

    Args:
        in_channels: audio channels of the magnitudes.
        num_stems: U-Nets; their order is that of the stems but the complement, which is the last.
        gives_last_stem: return logits of the last stem too; for a separator without complement.
        num_bins: lowest bins of the STFT, that the network sees.
        widths: maps of each level; every level halves frames and bins.
        kernel_size: of all strided convolutions.
        num_dropout_levels: decoders with dropout, the deepest first.
        dropout: its probability.
        down_activation: after the encoders' norms.
        up_activation: before the decoders' norms.
        own_masks: `sigmoid`, as the weights for 2 stems have, or `softmax`, as those for 5.
        exponent: power of the masks before they are divided by their sum.
        trains_shares: in training return what is returned in evaluation. False returns the own
            masks then, as the published weights were trained; these do not sum to one, so the last
            stem must be given too.

    Attributes:
        num_bins: bins that `forward` takes and returns.
        frame_multiple: frames must be a multiple of this.
        masks_sum_to_one: those that are returned do, in evaluation.

    Raises:
        ValueError: if the bins cannot be halved as often as there are levels, there are no two
            stems, or an option is out of its range.

    Source: Hennequin et al., "Spleeter: a fast and efficient music source separation tool with
    pre-trained models", 2020, and its program: encoders' maps skip over before their norm; a last
    convolution, 4 x 4 of every second frame and bin, makes the masks of a single map.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_stems: int,
        gives_last_stem: bool,
        num_bins: int,
        widths: Sequence[int],
        kernel_size: int,
        num_dropout_levels: int,
        dropout: float,
        down_activation: Activation,
        up_activation: Activation,
        own_masks: Literal["sigmoid", "softmax"],
        exponent: float,
        trains_shares: bool,
    ) -> None:
        super().__init__()
        check_halvings(num_bins, num_levels=len(widths))
        if num_stems < 2:
            raise ValueError(f"num_stems ({num_stems}) must be at least 2: stems share each bin")
        if own_masks not in ("sigmoid", "softmax"):
            raise ValueError(f"own_masks={own_masks} must be sigmoid or softmax")
        if exponent <= 0:
            raise ValueError(f"exponent ({exponent}) must be above 0: 2 is published")
        if not trains_shares and not gives_last_stem:
            raise ValueError(
                "trains_shares=false trains every stem by its own mask: let the network give all, "
                "by gives_last_stem=true and the separator's complement=null"
            )
        self.num_bins = num_bins
        self.frame_multiple = 2 ** len(widths)
        self.masks_sum_to_one = gives_last_stem
        self.num_given_stems = num_stems if gives_last_stem else num_stems - 1
        self.own_masks = own_masks
        self.exponent = exponent
        self.trains_shares = trains_shares
        self.unets = nn.ModuleList(
            StemUNet(
                channels=in_channels,
                widths=widths,
                kernel_size=kernel_size,
                num_dropout_levels=num_dropout_levels,
                dropout=dropout,
                down_activation=down_activation,
                up_activation=up_activation,
            )
            for _ in range(num_stems)
        )

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask.

        Raises:
            ValueError: if the frames cannot be halved as often as there are levels.
        """
        check_frames(magnitude, multiple=self.frame_multiple)
        x = features_last(magnitude, num_bins=self.num_bins)
        logits = torch.stack([unet(x) for unet in self.unets], dim=1)
        if self.training and not self.trains_shares:
            answer = logits if self.own_masks == "sigmoid" else _against_the_others(logits)
        else:
            own = F.logsigmoid(logits) if self.own_masks == "sigmoid" else logits.log_softmax(1)
            answer = _against_the_others(self.exponent * own)
        return rearrange(answer[:, : self.num_given_stems], "b s c t f -> b (s c) f t")


class StemUNet(nn.Module):
    """The U-Net of one stem: magnitudes to logits of its own mask.

    Args:
        channels: audio channels.
        widths: maps of each level; every level halves frames and bins.
        kernel_size: of all strided convolutions.
        num_dropout_levels: decoders with dropout, the deepest first.
        dropout: its probability.
        down_activation: after the encoders' norms.
        up_activation: before the decoders' norms.
    """

    def __init__(
        self,
        *,
        channels: int,
        widths: Sequence[int],
        kernel_size: int,
        num_dropout_levels: int,
        dropout: float,
        down_activation: Activation,
        up_activation: Activation,
    ) -> None:
        super().__init__()
        from_above = [channels, *widths[:-1]]
        self.encoders = nn.ModuleList(
            HalvingConv(in_channels=above, out_channels=maps, kernel_size=kernel_size)
            for above, maps in zip(from_above, widths, strict=True)
        )
        # nothing reads the deepest level but its decoder, which takes it as it is
        self.encoder_norms = nn.ModuleList(
            nn.Sequential(_batch_norm(maps), _activation(down_activation)) for maps in widths[:-1]
        )
        from_below = [widths[-1], *(2 * maps for maps in reversed(widths[:-1]))]
        to_above = [*reversed(widths[:-1]), 1]
        self.decoders = nn.ModuleList(
            nn.Sequential(
                DoublingConv(in_channels=below, out_channels=maps, kernel_size=kernel_size),
                _activation(up_activation),
                _batch_norm(maps),
                nn.Dropout(dropout if level < num_dropout_levels else 0.0),
            )
            for level, (below, maps) in enumerate(zip(from_below, to_above, strict=True))
        )
        self.out = nn.Conv2d(1, channels, kernel_size=4, dilation=2, padding=3)
        self._initialise()

    def forward(self, magnitude: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        """Logits of the stem's own mask."""
        h = magnitude
        skips: list[Tensor] = []
        for encoder, norm in zip(self.encoders[:-1], self.encoder_norms, strict=True):
            skips.append(encoder(h))
            h = norm(skips[-1])
        h = self.decoders[0](self.encoders[-1](h))
        for decoder in self.decoders[1:]:
            h = decoder(torch.cat([skips.pop(), h], 1))
        return self.out(h)

    def _initialise(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(part.weight, nonlinearity="relu")
                assert part.bias is not None
                nn.init.zeros_(part.bias)


def _against_the_others(log_weights: Float[Tensor, "B S C T F"]) -> Float[Tensor, "B S C T F"]:
    """Logits of each weight's share in the sum over the stems.

    exp(a) / (exp(a) + exp(b) + exp(c)) is the sigmoid of a - log(exp(b) + exp(c)).
    """
    stems = range(log_weights.shape[1])
    others = [log_weights[:, [n for n in stems if n != stem]] for stem in stems]
    return log_weights - torch.stack([rest.logsumexp(1) for rest in others], 1)


def _batch_norm(num_maps: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(num_maps, eps=1e-3, momentum=0.01)


def _activation(name: Activation) -> nn.Module:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation {name} must be one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]()
