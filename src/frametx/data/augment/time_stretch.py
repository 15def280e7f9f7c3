"""Faster or slower, at the same pitch."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor

from jaxtyping import Float
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.data.augment.phase_vocoder import stretched
from frametx.data.augment.transform import (
    Parameters,
    checked_probability,
    checked_range,
    log_between,
)


class TimeStretch:
    """Play an excerpt at another speed with its pitch kept, by a phase vocoder with phase locking.

    At a rate above 1 it takes more than it gives: `input_samples` says how much, and a `Voxaug`
    that holds it asks for so much.

    Args:
        rate: range of the speed, drawn evenly in octaves; 2 is twice as fast.
        probability: share of the samples.
        n_fft: window of the vocoder, samples.
    """

    num_uniforms = 1

    def __init__(self, *, rate: Sequence[float], probability: float, n_fft: int = 2048) -> None:
        self.rate = checked_range("rate", rate, at_least=0.05, at_most=20)
        self.probability = checked_probability(probability)
        self.stft = Stft(n_fft=n_fft, hop_length=n_fft // 4)
        # A fraction, because lengths must come out exact.
        self._consumption = max(Fraction(1), Fraction(str(self.rate[1])))

    def input_samples(self, num_samples: int) -> int:
        """What the highest speed takes, and half a window so that the end sounds like the rest."""
        return ceil(num_samples * self._consumption) + self.stft.n_fft // 2

    def output_samples(self, num_samples: int) -> int:
        """The inverse.

        Raises:
            ValueError: if so short an excerpt gives nothing.
        """
        given = floor((num_samples - self.stft.n_fft // 2) / self._consumption)
        if given < 1:
            raise ValueError(
                f"an excerpt of {num_samples} samples is too short to be stretched: read at least "
                f"{self.input_samples(1)}"
            )
        return given

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`rate`."""
        return {"rate": log_between(uniforms[:, 0], self.rate)}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L_out"]:
        """The excerpt from its beginning on."""
        return stretched(
            waveform,
            parameters["rate"].double(),
            num_samples=self.output_samples(waveform.shape[-1]),
            stft=self.stft,
        )
