"""Distance between waveforms."""

from jaxtyping import Float
from torch import Tensor, nn


class WaveformL1(nn.Module):
    """Mean absolute difference of the stems' samples.

    Args:
        weight: factor of the result.

    Source: Défossez et al., "Music Source Separation in the Waveform Domain", 2019.
    """

    def __init__(self, *, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over stems, channels and samples."""
        return self.weight * (estimates - stems).abs().mean()
