"""What is cut off below or above a frequency."""

from collections.abc import Sequence

from jaxtyping import Complex, Float
from torch import Tensor

from frametx.data.augment.responses import (
    RINGING_SECONDS,
    filtered,
    relative_frequency,
    second_order,
)
from frametx.data.augment.transform import (
    Parameters,
    beside,
    checked_frequencies,
    checked_probability,
    log_between,
)

BUTTERWORTH = 2**0.5
"""The middle coefficient of the second-order low-pass that is flattest in its passband."""


class HighPass:
    """Cut what lies below a frequency: 3 dB there, 12 dB more with every octave below.

    Args:
        sample_rate: Hz.
        cutoff_hz: range of the frequency, drawn evenly in octaves.
        probability: share of the samples.
    """

    num_uniforms = 1

    def __init__(self, *, sample_rate: int, cutoff_hz: Sequence[float], probability: float) -> None:
        self.sample_rate = sample_rate
        self.cutoff_hz = checked_frequencies("cutoff_hz", cutoff_hz, sample_rate=sample_rate)
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`cutoff_hz`."""
        return {"cutoff_hz": log_between(uniforms[:, 0], self.cutoff_hz)}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Filtered by a second-order Butterworth high-pass."""
        return _butterworth(waveform, parameters, (1.0, 0.0, 0.0), sample_rate=self.sample_rate)


class LowPass:
    """Cut what lies above a frequency: 3 dB there, 12 dB more with every octave above.

    Args:
        sample_rate: Hz.
        cutoff_hz: range of the frequency, drawn evenly in octaves.
        probability: share of the samples.
    """

    num_uniforms = 1

    def __init__(self, *, sample_rate: int, cutoff_hz: Sequence[float], probability: float) -> None:
        self.sample_rate = sample_rate
        self.cutoff_hz = checked_frequencies("cutoff_hz", cutoff_hz, sample_rate=sample_rate)
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`cutoff_hz`."""
        return {"cutoff_hz": log_between(uniforms[:, 0], self.cutoff_hz)}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Filtered by a second-order Butterworth low-pass."""
        return _butterworth(waveform, parameters, (0.0, 0.0, 1.0), sample_rate=self.sample_rate)


def _butterworth(
    waveform: Float[Tensor, "B C L"],
    parameters: Parameters,
    numerator: tuple[float, float, float],
    *,
    sample_rate: int,
) -> Float[Tensor, "B C L"]:
    cutoff = beside(parameters["cutoff_hz"], waveform)

    def response(angles: Float[Tensor, " F"]) -> Complex[Tensor, "B F"]:
        frequency = relative_frequency(angles, cutoff, sample_rate=sample_rate)
        return second_order(numerator, (1.0, BUTTERWORTH, 1.0), frequency)

    return filtered(waveform, response, padding=round(RINGING_SECONDS * sample_rate))
