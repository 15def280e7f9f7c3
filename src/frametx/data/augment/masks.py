"""Gaps: a stretch of time, or a band of frequencies, that is missing in a stem.

The stem itself loses it, so what is to be found in the mixture stays true.
"""

from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.augment.responses import filtered
from frametx.data.augment.transform import (
    Parameters,
    beside,
    checked_probability,
)

FADE_SAMPLES = 256
"""Of a gap in time, at both ends: no click."""
FADE_SHARE = 0.002
"""Of all frequencies, at both edges of a missing band: no long ringing."""


class TimeMask:
    """A drawn stretch of the excerpt falls silent.

    Args:
        max_share: the longest stretch, as a share of the excerpt.
        probability: share of the samples.

    Source: Park et al., "SpecAugment", Interspeech 2019.
    """

    num_uniforms = 2

    def __init__(self, *, max_share: float, probability: float) -> None:
        self.max_share = _checked_share(max_share)
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 2"]) -> Parameters:
        """`start` and `end`, as shares of the excerpt."""
        return _drawn_gap(uniforms, self.max_share)

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Silent from start to end, with fades outside."""
        length = waveform.shape[-1]
        time = torch.arange(length, device=waveform.device)
        return waveform * _gap(time, parameters, waveform, scale=length, fade=FADE_SAMPLES)[:, None]


class FrequencyMask:
    """A drawn band of frequencies is missing.

    Args:
        max_share: the widest band, as a share of all frequencies up to half the sample rate.
        probability: share of the samples.

    Source: Park et al., "SpecAugment", Interspeech 2019.
    """

    num_uniforms = 2

    def __init__(self, *, max_share: float, probability: float) -> None:
        self.max_share = _checked_share(max_share)
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 2"]) -> Parameters:
        """`start` and `end`, as shares of half the sample rate."""
        return _drawn_gap(uniforms, self.max_share)

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Nothing left from start to end, with slopes outside and no change of phase."""

        def response(angles: Float[Tensor, " F"]) -> Float[Tensor, "B F"]:
            return _gap(angles / pi, parameters, waveform, scale=1, fade=FADE_SHARE)

        return filtered(waveform, response, padding=round(4 / FADE_SHARE))


def _checked_share(max_share: float) -> float:
    if not 0 < max_share <= 1:
        raise ValueError(f"max_share ({max_share}) must be more than 0 and at most 1")
    return max_share


def _drawn_gap(uniforms: Float[Tensor, "B 2"], max_share: float) -> Parameters:
    share = max_share * uniforms[:, 0]
    start = (1 - share) * uniforms[:, 1]
    return {"start": start, "end": start + share}


def _gap(
    place: Float[Tensor, " N"],
    parameters: Parameters,
    waveform: Tensor,
    *,
    scale: float,
    fade: float,
) -> Float[Tensor, "B N"]:
    """0 from start to end, 1 further away than `fade`."""
    start, end = (beside(parameters[name], waveform)[:, None] * scale for name in ("start", "end"))
    distance = torch.maximum(start - place, place - end) / fade
    return (1 - (pi * distance.clamp(0, 1)).cos()) / 2
