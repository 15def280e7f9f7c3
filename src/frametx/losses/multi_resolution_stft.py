"""Spectral convergence and log magnitudes at several resolutions, as vocoders are trained."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.losses.silence import is_sounding, mean_where
from frametx.losses.spectral import floored_magnitude


class MultiResolutionStft(nn.Module):
    """Sum of two distances of magnitudes, averaged over resolutions.

    Spectral convergence is the norm of the difference over the norm of the truth, which the loud
    bins decide; the log magnitude counts all bins alike. A silent stem has no spectral convergence
    and counts 0 in its mean, while its log magnitude teaches silence.

    Args:
        n_ffts: window lengths, samples; each with a hop of a quarter of it.
        floor: added in power to every magnitude, in units of an STFT that is not normalised; below
            it the logarithm tells nothing apart. At n_fft 2048 a tone at full scale is 512 and
            16-bit rounding about 2e-4; the gradient of a logarithm is largest in the quietest bins,
            and a floor near the rounding leaves it to them.
        convergence_weight: of the spectral convergence.
        log_magnitude_weight: of the mean absolute difference of natural logarithms.
        weight: factor of the result.

    Raises:
        ValueError: if there is no resolution, or the floor is not above 0.

    Source: Yamamoto et al., "Parallel WaveGAN", 2020, equations 4 to 6, for one signal each: here
    the norms are taken per stem of a sample, all its channels together. (auraloss 0.4 takes one
    norm over the whole batch, where quiet stems stop counting.)
    """

    def __init__(
        self,
        *,
        n_ffts: Sequence[int],
        floor: float,
        convergence_weight: float,
        log_magnitude_weight: float,
        weight: float,
    ) -> None:
        super().__init__()
        if not n_ffts:
            raise ValueError("loss.n_ffts is empty: give at least one window length")
        if floor <= 0:
            raise ValueError(f"loss.floor={floor} must be above 0, where the logarithm ends")
        self.stfts = nn.ModuleList(Stft(n_fft=n, hop_length=n // 4) for n in n_ffts)
        self.floor = floor
        self.convergence_weight = convergence_weight
        self.log_magnitude_weight = log_magnitude_weight
        self.weight = weight

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over resolutions and stems."""
        counts = is_sounding(stems)
        total = estimates.new_zeros(())
        for stft in self.stfts:
            assert isinstance(stft, Stft)
            estimated = floored_magnitude(stft, estimates, floor=self.floor)
            truth = floored_magnitude(stft, stems, floor=self.floor)
            # The floor in both norms keeps the gradient of the root finite where nothing is wrong.
            wrong = (estimated - truth).square().sum(dim=(-3, -2, -1))
            norm = truth.square().sum(dim=(-3, -2, -1))
            convergence = ((wrong + self.floor**2).sqrt() - self.floor) / norm.sqrt()
            log_magnitude = (estimated.log() - truth.log()).abs().mean()
            total = total + self.convergence_weight * mean_where(convergence, counts)
            total = total + self.log_magnitude_weight * log_magnitude
        return self.weight * total / len(self.stfts)
