"""Higher or lower, at the same speed."""

from fractions import Fraction
from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from frametx.audio.resample import resample
from frametx.audio.stft import Stft
from frametx.data.augment.phase_vocoder import stretched
from frametx.data.augment.transform import Parameters, beside, checked_probability

LARGEST_DENOMINATOR = 64
"""Of the ratio of two pitches: a larger one makes the filter of the resampling long."""


class PitchShift:
    """Resample to another pitch, then stretch back to the old duration.

    Formants move with the pitch, as on a tape. A shift is drawn evenly and brought to the nearest
    ratio of small numbers, at most 14 cents away; what is reported is that.

    Args:
        max_semitones: the largest shift, up or down.
        probability: share of the samples.
        n_fft: window of the vocoder, samples.
    """

    num_uniforms = 1

    def __init__(self, *, max_semitones: float, probability: float, n_fft: int = 2048) -> None:
        if not 0 < max_semitones <= 24:
            raise ValueError(f"max_semitones ({max_semitones}) must be more than 0 and at most 24")
        self.max_semitones = max_semitones
        self.probability = checked_probability(probability)
        self.stft = Stft(n_fft=n_fft, hop_length=n_fft // 4)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`semitones` upwards, and their ratio: `numerator` over `denominator`."""
        drawn = self.max_semitones * (2 * uniforms[:, 0] - 1)
        ratios = [
            Fraction(2 ** (semitones / 12)).limit_denominator(LARGEST_DENOMINATOR)
            for semitones in drawn.tolist()
        ]
        numerator = torch.tensor([ratio.numerator for ratio in ratios])
        denominator = torch.tensor([ratio.denominator for ratio in ratios])
        return {
            "semitones": 12 * (numerator / denominator).log2(),
            "numerator": numerator,
            "denominator": denominator,
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Rows of one ratio together to a new length, then all together back to the old one."""
        length = waveform.shape[-1]
        numerator, denominator = parameters["numerator"], parameters["denominator"]
        rates = denominator.double() / numerator
        resampled = waveform.new_zeros(*waveform.shape[:2], ceil(length * float(rates.max())) + 1)
        ratios = list(zip(numerator.tolist(), denominator.tolist(), strict=True))
        for ratio in sorted(set(ratios)):
            rows = torch.tensor([row for row, found in enumerate(ratios) if found == ratio])
            there = beside(rows, waveform)
            shifted = resample(waveform[there], *ratio)
            resampled[there] = F.pad(shifted, (0, resampled.shape[-1] - shifted.shape[-1]))
        return stretched(resampled, rates, num_samples=length, stft=self.stft)
