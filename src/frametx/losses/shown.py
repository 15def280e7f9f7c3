"""What a discriminator is shown of waveforms."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.stft import Stft

_SILENCE = 1e-3  # peak of a magnitude below which a mixture is not brought to 1: about -100 dB


class Shown(NamedTuple):
    """Both sides of one micro-batch, as magnitudes relative to the mixture's peak.

    Attributes:
        real: the true stems that are judged, behind the mixture where that is shown.
        fake: the estimates of them, likewise.
        stems: every true stem by its name, for contests that read their labels off it.
        chance: a number in [0, 1) for each sample.
    """

    real: Float[Tensor, "B C_in F T"]
    fake: Float[Tensor, "B C_in F T"]
    stems: dict[str, Float[Tensor, "B C F T"]]
    chance: Float[Tensor, " B"]


class Showing(nn.Module):
    """Waveforms to what a discriminator is shown; the gradient of the estimates flows through it.

    Waveforms and not masks are judged, so that a separator of any kind can be.

    Args:
        stft: of the magnitudes.
        stems: names, in the order of the waveforms.
        judged: those of them that are shown.
        num_bins: the lowest bins, that are shown; None shows all.
        shows_mixture: put the mixture's magnitude before them.

    Raises:
        ValueError: if nothing is judged, or something that is no stem, or there are fewer bins.
    """

    def __init__(
        self,
        *,
        stft: Stft,
        stems: Sequence[str],
        judged: Sequence[str],
        num_bins: int | None,
        shows_mixture: bool,
    ) -> None:
        super().__init__()
        if not judged or not set(judged) <= set(stems):
            raise ValueError(
                f"module.judged_stems={list(judged)} must be one or more of {list(stems)}"
            )
        if num_bins is not None and num_bins > stft.n_fft // 2 + 1:
            raise ValueError(
                f"the discriminator takes {num_bins} bins but n_fft={stft.n_fft} gives "
                f"{stft.n_fft // 2 + 1}: use the same n_fft for both"
            )
        self.stft = stft
        self.stems = tuple(stems)
        self.judged = tuple(self.stems.index(stem) for stem in judged)
        self.num_bins = num_bins
        self.shows_mixture = shows_mixture

    def in_channels(self, num_channels: int) -> int:
        """Maps that the discriminator is shown of audio with so many channels."""
        return num_channels * (len(self.judged) + self.shows_mixture)

    def forward(
        self,
        estimates: Float[Tensor, "B S C L"],
        stems: Float[Tensor, "B S C L"],
        chance: Float[Tensor, " B"],
    ) -> Shown:
        """Show the estimates of stems beside the stems, whose sum is the mixture."""
        mixture = self._magnitude(stems.sum(dim=1, keepdim=True))
        # A silent mixture stays silent, and what is estimated of it is not blown up.
        peak = mixture.amax(dim=(1, 2, 3, 4), keepdim=True).clamp_min(_SILENCE)
        mixture, true = mixture / peak, self._magnitude(stems) / peak
        estimated = self._magnitude(estimates[:, self.judged]) / peak
        return Shown(
            real=self._joined(mixture, true[:, self.judged]),
            fake=self._joined(mixture, estimated),
            stems=dict(zip(self.stems, true.unbind(1), strict=True)),
            chance=chance,
        )

    def _magnitude(self, waveforms: Float[Tensor, "B S C L"]) -> Float[Tensor, "B S C F T"]:
        return self.stft(waveforms).abs()[..., : self.num_bins, :]

    def _joined(
        self, mixture: Float[Tensor, "B 1 C F T"], judged: Float[Tensor, "B J C F T"]
    ) -> Float[Tensor, "B C_in F T"]:
        shown = torch.cat([mixture, judged], dim=1) if self.shows_mixture else judged
        return rearrange(shown, "b s c f t -> b (s c) f t")
