"""Distance between spectra in dB."""

from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.losses.spectral import floored_magnitude

_SMALL = 1e-6  # dB^2: the root has a finite gradient where nothing is wrong


class LogSpectralDistance(nn.Module):
    """Root mean square over bins of the level difference in dB, averaged over frames.

    Args:
        n_fft: window length, samples; the hop is a quarter of it.
        floor: added in power to every magnitude, in units of an STFT that is not normalised; see
            `MultiResolutionStft`.
        takes_root: False gives the mean of the squares in dB^2 without a root, as the original had.
        weight: factor of the result.

    Raises:
        ValueError: if the floor is not above 0.

    Source: Gray and Markel, "Distance measures for speech processing", 1976; without the root
    specs/training.md section 4 (V1 of March 2023, its floor 1e-10 in the power of a
    magnitude whose largest value is 1).
    """

    def __init__(self, *, n_fft: int, floor: float, takes_root: bool, weight: float) -> None:
        super().__init__()
        if floor <= 0:
            raise ValueError(f"loss.floor={floor} must be above 0, where the logarithm ends")
        self.stft = Stft(n_fft=n_fft, hop_length=n_fft // 4)
        self.floor = floor
        self.takes_root = takes_root
        self.weight = weight

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over stems, channels and frames."""
        estimated = floored_magnitude(self.stft, estimates, floor=self.floor)
        truth = floored_magnitude(self.stft, stems, floor=self.floor)
        squares = (20 * (estimated.log10() - truth.log10())).square().mean(dim=-2)
        if self.takes_root:
            return self.weight * ((squares + _SMALL).sqrt() - _SMALL**0.5).mean()
        return self.weight * squares.mean()
