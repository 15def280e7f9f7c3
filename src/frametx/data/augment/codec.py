"""What a lossy codec at a low bit rate does to sound, on the device and without the codec."""

from collections.abc import Sequence
from functools import lru_cache
from math import asinh, pi, sinh

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor

from frametx.data.augment.transform import (
    Parameters,
    beside,
    between,
    checked_frequencies,
    checked_probability,
    checked_range,
    log_between,
)

BINS = 1024
"""Coefficients of a block, as in AAC."""


class CodecRoughness:
    """Round the coefficients of the MDCT coarsely, band by band, and drop those above a limit.

    This is the step at which MP3, AAC and Vorbis lose what they lose: in every block the step size
    follows the energy of each Bark band, so quiet partials vanish and come back, and noise spreads
    over a block in front of attacks. There is no psychoacoustic model, no entropy coding, no block
    switching and no joint stereo: it sounds like such a codec but is none.

    Args:
        sample_rate: Hz.
        signal_to_noise_db: range of the energy of a band over its rounding noise. The figure holds
            from about 10 dB up; below, most coefficients become 0.
        limit_hz: range of the frequency above which nothing is kept, drawn evenly in octaves.
        probability: share of the samples.

    Source: Princen, Johnson, Bradley, "Subband/transform coding using filter bank designs based on
    time domain aliasing cancellation", ICASSP 1987.
    """

    num_uniforms = 2

    def __init__(
        self,
        *,
        sample_rate: int,
        signal_to_noise_db: Sequence[float],
        limit_hz: Sequence[float],
        probability: float,
    ) -> None:
        self.sample_rate = sample_rate
        self.signal_to_noise_db = checked_range("signal_to_noise_db", signal_to_noise_db)
        self.limit_hz = checked_frequencies("limit_hz", limit_hz, sample_rate=sample_rate)
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 2"]) -> Parameters:
        """`signal_to_noise_db`, `limit_hz`."""
        return {
            "signal_to_noise_db": between(uniforms[:, 0], self.signal_to_noise_db),
            "limit_hz": log_between(uniforms[:, 1], self.limit_hz),
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Each channel by itself."""
        coefficients = mdct(waveform)
        band, count = _bands(self.sample_rate)
        band, count = beside(band, waveform), beside(count, waveform)
        energy = coefficients.new_zeros(*coefficients.shape[:-1], len(count))
        energy.index_add_(-1, band, coefficients.square())
        # Rounding to steps d makes noise of d / sqrt(12).
        noise_db = beside(parameters["signal_to_noise_db"], waveform)[:, None, None, None]
        step = (12 * energy / count).sqrt() * 10 ** (-noise_db / 20)
        step = step.clamp(min=1e-9)[..., band]
        frequency = (torch.arange(BINS, device=waveform.device) + 0.5) * (
            self.sample_rate / (2 * BINS)
        )
        is_kept = frequency < beside(parameters["limit_hz"], waveform)[:, None, None, None]
        rounded = (coefficients / step).round() * step * is_kept
        return inverse_mdct(rounded, length=waveform.shape[-1])


def mdct(waveform: Float[Tensor, "B C L"]) -> Float[Tensor, "B C T {BINS}"]:
    """Modified discrete cosine transform of blocks that overlap by half, with a sine window."""
    length = waveform.shape[-1]
    padded = F.pad(waveform, (BINS, BINS + -length % BINS))
    blocks = padded.unfold(-1, 2 * BINS, BINS) * _window(waveform)
    in_time, in_frequency = _twiddles(waveform)
    spectrum = torch.fft.fft(blocks * in_time)[..., :BINS]
    return (spectrum * in_frequency).real * (2 / BINS) ** 0.5


def inverse_mdct(
    coefficients: Float[Tensor, "B C T {BINS}"], *, length: int
) -> Float[Tensor, "B C {length}"]:
    """The waveform: the aliasing of neighbouring blocks cancels out in their sum."""
    in_time, in_frequency = _twiddles(coefficients)
    spectrum = F.pad(coefficients * in_frequency.conj(), (0, BINS))
    blocks = (torch.fft.ifft(spectrum, norm="forward") * in_time.conj()).real
    first, second = (blocks * _window(coefficients) * (2 / BINS) ** 0.5).chunk(2, dim=-1)
    return (second[..., :-1, :] + first[..., 1:, :]).flatten(start_dim=-2)[..., :length]


def _window(like: Tensor) -> Float[Tensor, " block"]:
    return ((torch.arange(2 * BINS, device=like.device) + 0.5) * (pi / (2 * BINS))).sin()


def _twiddles(
    like: Tensor,
) -> tuple[Complex[Tensor, " block"], Complex[Tensor, " bins"]]:
    """cos(pi / N (n + n0) (k + 1/2)) as an ordinary transform between two rotations."""
    # In 64 bits: the second angle grows to pi N / 2.
    n = torch.arange(2 * BINS, dtype=torch.float64)
    angle_in_time = -pi * n / (2 * BINS)
    angle_in_frequency = -pi * (0.5 + BINS / 2) / BINS * (n[:BINS] + 0.5)
    in_time, in_frequency = (
        torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
        for angle in (angle_in_time, angle_in_frequency)
    )
    return beside(in_time, like), beside(in_frequency, like)


@lru_cache(maxsize=8)
def _bands(sample_rate: int) -> tuple[Int[Tensor, " bins"], Float[Tensor, " bands"]]:
    """The Bark band of each coefficient, and how many coefficients each band has."""
    frequency = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (sample_rate / (2 * BINS))
    highest = 6 * asinh(sample_rate / 2 / 600)
    edges = torch.tensor([600 * sinh(bark / 6) for bark in range(1, int(highest) + 1)])
    band = torch.bucketize(frequency, edges.double())
    _, band, count = band.unique(return_inverse=True, return_counts=True)
    return band, count.float()
