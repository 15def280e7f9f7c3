"""Material that was once stored at a lower sample rate, and has no treble since."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.resample import resample
from frametx.data.augment.transform import Parameters, beside, checked_probability


class Resampling:
    """Down to a lower rate and back: nothing is left above half of it.

    Args:
        sample_rate: Hz.
        lower_rates: Hz, one of which is drawn.
        probability: share of the samples.
    """

    num_uniforms = 1

    def __init__(self, *, sample_rate: int, lower_rates: Sequence[int], probability: float) -> None:
        if not lower_rates or not all(0 < rate < sample_rate for rate in lower_rates):
            raise ValueError(
                f"lower_rates ({list(lower_rates)}) must hold rates below sample_rate "
                f"({sample_rate}): leave out the others"
            )
        self.sample_rate = sample_rate
        self.lower_rates = torch.tensor(list(lower_rates))
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`lower_rate`, Hz."""
        return {"lower_rate": self.lower_rates[(uniforms[:, 0] * len(self.lower_rates)).long()]}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Rows of the same rate together."""
        length = waveform.shape[-1]
        limited = torch.empty_like(waveform)
        for lower_rate in parameters["lower_rate"].unique().tolist():
            rows = beside((parameters["lower_rate"] == lower_rate).nonzero()[:, 0], waveform)
            low = resample(waveform[rows], self.sample_rate, lower_rate)
            limited[rows] = resample(low, lower_rate, self.sample_rate)[..., :length]
        return limited
