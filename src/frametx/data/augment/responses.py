"""Filters in the frequency domain: one product for the whole batch, each row with its own filter.

A recursive filter run sample by sample would keep a GPU waiting; the same filter as a frequency
response costs two Fourier transforms. The waveform is padded by as long as its ringing lasts, so
nothing of the end comes round to the beginning.
"""

from collections.abc import Callable
from functools import lru_cache
from math import pi

import torch
from jaxtyping import Complex, Float
from torch import Tensor

RINGING_SECONDS = 0.25
"""By then a filter with quality 2 at 25 Hz has fallen by more than 80 dB."""
LARGEST_TANGENT = 1e4
"""At half the sample rate the bilinear frequency is infinite, and its square must fit a float."""

Response = Callable[[Float[Tensor, " F"]], Tensor]
"""From angles per sample, 0 to pi, to factors B F (real or complex)."""


@lru_cache(maxsize=256)
def fast_length(num_samples: int) -> int:
    """The next length, at least `num_samples`, that has no prime factor above 5; even."""
    length = num_samples + num_samples % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def filtered(
    waveform: Float[Tensor, "B C L"], response: Response, *, padding: int
) -> Float[Tensor, "B C L"]:
    """The waveforms after a filter for each row.

    Args:
        waveform: all channels of a row pass the same filter.
        response: of each row, at the angles it is asked for.
        padding: samples that the filter rings.
    """
    length = waveform.shape[-1]
    size = fast_length(length + padding)
    angles = torch.linspace(0, pi, size // 2 + 1, device=waveform.device)
    spectrum = torch.fft.rfft(waveform, n=size) * response(angles)[:, None]
    return torch.fft.irfft(spectrum, n=size)[..., :length]


def relative_frequency(
    angles: Float[Tensor, " F"], cutoff_hz: Float[Tensor, " B"], *, sample_rate: int
) -> Float[Tensor, "B F"]:
    """Frequencies of the analogue model of a digital filter, 1 at the cutoff.

    The bilinear transform puts a digital angle w at tan(w / 2). Second-order sections written so
    equal the usual biquads to rounding, and keep their precision at low frequencies, where the
    coefficients of a biquad cancel out.

    Source: Bristow-Johnson, "Cookbook formulae for audio equalizer biquad filter coefficients".
    """
    tangent = (angles / 2).tan().abs().clamp(max=LARGEST_TANGENT)
    return tangent[None] / (pi * cutoff_hz / sample_rate).tan()[:, None]


def second_order(
    numerator: tuple[Tensor | float, Tensor | float, Tensor | float],
    denominator: tuple[Tensor | float, Tensor | float, Tensor | float],
    frequency: Float[Tensor, "B F"],
) -> Complex[Tensor, "B F"]:
    """(n2 s^2 + n1 s + n0) / (d2 s^2 + d1 s + d0) at s = i * frequency; coefficients B 1."""
    square = frequency.square()
    top, bottom = (
        torch.complex(*torch.broadcast_tensors(c0 - c2 * square, c1 * frequency))
        for c2, c1, c0 in (numerator, denominator)
    )
    return top / bottom
