"""What the side output of the author's generator learns: when and in which band somebody sings."""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.losses.precision import full_precision


@runtime_checkable
class KeepsVocalBands(Protocol):
    """A separator whose network may say, beside its mask, where somebody sings."""

    stft: Stft
    num_bins: int  # of the STFT, from 0 Hz, that the network sees
    stems: tuple[str, ...]

    def keep_vocal_bands(self) -> None:
        """Keep in training what the network says; ValueError if it says nothing."""
        ...

    def take_vocal_bands(self) -> Float[Tensor, "B C F T"]:
        """Logits of singing in the last mixtures, handed over once."""
        ...


class VocalBandCrossEntropy(nn.Module):
    """Binary cross-entropy between the network's logits of singing and the vocals of the truth.

    A band of a frame has singing where the mean magnitude of its bins is above a threshold. There
    are as many bands as the network's bridge has bins, each as wide as the others.

    The logits are no stem: `watch` tells the separator to keep them, and this loss takes them from
    its last forward pass in training mode.

    Args:
        stem: the one that is sung.
        threshold: of the mean magnitude, relative to the largest one of the mixture's excerpt. (The
            original's is relative to the largest one of the vocal's whole song, which a crop does
            not know.)
        weight: factor of the result.

    Source: specs/asym_unet_mct.md section 1 and specs/voxaug.md section 4c.
    """

    def __init__(self, *, stem: str, threshold: float, weight: float) -> None:
        super().__init__()
        self.stem = stem
        self.threshold = threshold
        self.weight = weight
        # in a list, which does not make its parameters those of this loss
        self._watched: list[KeepsVocalBands] = []

    def watch(self, separator: nn.Module) -> None:
        """Learn from the side output of this separator from now on.

        Raises:
            ValueError: if it has none, or does not give the stem.
        """
        if not isinstance(separator, KeepsVocalBands):
            raise ValueError(
                f"{type(separator).__name__} has no side output for the vocal-band loss: take "
                "model=asym_unet_mct_generator, or a loss without this term"
            )
        if self.stem not in separator.stems:
            raise ValueError(
                f"the vocal-band loss wants stem={self.stem}, but the stems are "
                f"{list(separator.stems)}: set the term's stem to the one that is sung"
            )
        separator.keep_vocal_bands()
        self._watched = [separator]

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over channels, bands and frames; the estimates play no part."""
        if not self._watched:
            raise ValueError("the vocal-band loss watches no separator: call watch(separator)")
        (separator,) = self._watched
        logits = full_precision(separator.take_vocal_bands())
        singing = self.singing(separator, stems, num_bands=logits.shape[2])
        if singing.shape != logits.shape:
            raise ValueError(
                f"the side output has shape {list(logits.shape)} and the truth "
                f"{list(singing.shape)}: the vocal-band loss is for networks of one stem"
            )
        return self.weight * F.binary_cross_entropy_with_logits(logits, singing)

    @torch.no_grad()
    def singing(
        self,
        separator: KeepsVocalBands,
        stems: Float[Tensor, "B S C L"],
        *,
        num_bands: int,
    ) -> Float[Tensor, "B C {num_bands} T"]:
        """1 where the stem is sung, 0 where it is not.

        Args:
            separator: gives the STFT, the bins and the order of the stems.
            stems: the truth.
            num_bands: a divisor of the network's number of bins.
        """
        mixture = separator.stft(stems.sum(dim=1)).abs()[:, :, : separator.num_bins]
        vocals = separator.stft(stems[:, separator.stems.index(self.stem)]).abs()
        vocals = vocals[:, :, : separator.num_bins]
        levels = reduce(vocals, "b c (band bin) t -> b c band t", "mean", band=num_bands)
        # Compared with a product, so that in silence nobody sings.
        return (levels > self.threshold * mixture.amax(dim=(1, 2, 3), keepdim=True)).to(levels)


def watch_separator(loss: nn.Module, separator: nn.Module) -> None:
    """Let every part of a loss that learns from a side output of the network find it."""
    for part in loss.modules():
        if isinstance(part, VocalBandCrossEntropy):
            part.watch(separator)
