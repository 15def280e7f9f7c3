"""Overdrive: a bent characteristic adds harmonics that were not there."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.augment.responses import fast_length
from frametx.data.augment.transform import (
    Parameters,
    between,
    checked_probability,
    checked_range,
    per_row,
)


class Distortion:
    """Push the waveform through a hyperbolic tangent: odd harmonics, the more the louder.

    The loudness (RMS) stays. It runs at twice the sample rate, so that harmonics above half of it
    are left out instead of being folded down.

    Args:
        drive_db: range of the gain in front; 0 dB bends only what comes near full scale.
        probability: share of the samples.
    """

    num_uniforms = 1

    def __init__(self, *, drive_db: Sequence[float], probability: float) -> None:
        self.drive_db = checked_range("drive_db", drive_db)
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`drive_db`."""
        return {"drive_db": between(uniforms[:, 0], self.drive_db)}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Bent, and brought back to its loudness."""
        length = waveform.shape[-1]
        size = fast_length(length)
        # n samples of a band-limited waveform, seen at 2 n places: the same spectrum, twice as big.
        dense = torch.fft.irfft(2 * torch.fft.rfft(waveform, n=size), n=2 * size)
        bent = (dense * per_row(10 ** (parameters["drive_db"] / 20), waveform)).tanh()
        spectrum = torch.fft.rfft(bent)[..., : size // 2 + 1] / 2
        distorted = torch.fft.irfft(spectrum, n=size)[..., :length]
        present, wanted = _power(distorted), _power(waveform)
        return distorted * (wanted / present.clamp(min=1e-20)).sqrt()


def _power(waveform: Float[Tensor, "B C L"]) -> Float[Tensor, "B 1 1"]:
    return waveform.square().mean(dim=(1, 2), keepdim=True)
