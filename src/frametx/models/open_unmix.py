"""Open-Unmix: for every stem a recurrent network of its own, that gives the stem's magnitude.

    magnitude --+--> bins to features -> LSTM, both ways -> features to bins --*--> magnitude
                |                                                              |
                '--------------------------------------------------------------'

The networks are those of the `openunmix` package, one for each stem; here they give all stems at
once. They read whole frames: a number of channels other than the one they were built for is none.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from openunmix.model import OpenUnmix as OneTarget
from torch import Tensor, nn


class OpenUnmix(nn.Module):
    """Magnitudes of the mixture to magnitudes of the stems, for any number of frames.

    What a network learns for the input's mean and scale starts at 0 and 1; the package's own
    training starts at those of its data.

    Args:
        stems: names of the separator's stems: each but the `complement` has a network.
        complement: the stem that the separator makes of the others; None is none.
        in_channels: audio channels of the magnitudes.
        n_fft: of the STFT, samples; the networks give all of its bins.
        sample_rate: Hz.
        bandwidth_hz: the networks look at nothing above; they guess what is there.
        num_features: between the layers.
        num_layers: of the LSTM.
        dropout: probability between these layers; 0.4 in the package.
        is_causal: an LSTM that never looks ahead, as wide as both directions together.

    Attributes:
        num_bins: bins that `forward` takes and returns.
        head: what the separator makes of the answer.

    Raises:
        ValueError: if no stem has a network, or an option is out of its range.

    Source: Stoeter et al., "Open-Unmix - A Reference Implementation for Music Source Separation",
        2019; package openunmix.
    """

    head = "magnitude"

    def __init__(
        self,
        *,
        stems: Sequence[str],
        complement: str | None,
        in_channels: int,
        n_fft: int,
        sample_rate: int,
        bandwidth_hz: float,
        num_features: int,
        num_layers: int,
        dropout: float,
        is_causal: bool,
    ) -> None:
        super().__init__()
        num_stems = sum(stem != complement for stem in stems)
        if not num_stems:
            raise ValueError(
                f"stems={list(stems)} without complement={complement} leave nothing to separate"
            )
        if bandwidth_hz <= 0:
            raise ValueError(f"bandwidth_hz={bandwidth_hz} must be above 0: 16000 is published")
        if num_features < 2 or num_features % 2:
            raise ValueError(f"num_features={num_features} must be even: the LSTM goes both ways")
        if dropout and num_layers < 2:
            raise ValueError(
                f"dropout={dropout} lies between the layers, and num_layers={num_layers} has no "
                "such place: give dropout=0.0 or more layers"
            )
        self.num_bins = n_fft // 2 + 1
        seen = min(self.num_bins, int(bandwidth_hz * n_fft / sample_rate) + 1)
        self.targets = nn.ModuleList(
            OneTarget(
                nb_bins=self.num_bins,
                nb_channels=in_channels,
                hidden_size=num_features,
                nb_layers=num_layers,
                unidirectional=is_causal,
                max_bin=seen,
            )
            for _ in range(num_stems)
        )
        for target in cast(Iterable[OneTarget], self.targets):
            target.lstm.dropout = dropout

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """The stems' magnitudes, one after the other, none below 0."""
        return torch.cat([target(magnitude) for target in self.targets], 1)
