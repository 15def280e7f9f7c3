"""Tone colour: bells and shelves as on a mixing desk, and a smooth random curve."""

from collections.abc import Sequence
from math import pi

import torch
import torch.nn.functional as F
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
    between,
    checked_frequencies,
    checked_probability,
    checked_range,
    log_between,
)

NUM_KNOTS = (512, 256, 128, 64, 32, 16, 8, 4, 2)
"""Of the curves whose mean is the smooth random one: from jagged to a straight line."""
NUM_CURVE_BINS = 1025


class _Band:
    """Draws and checks that bells and shelves share: frequency, gain and quality."""

    num_uniforms = 3

    def __init__(
        self,
        *,
        sample_rate: int,
        frequency_hz: Sequence[float],
        gain_db: Sequence[float],
        quality: Sequence[float],
    ) -> None:
        self.sample_rate = sample_rate
        self.frequency_hz = checked_frequencies(
            "frequency_hz", frequency_hz, sample_rate=sample_rate
        )
        self.gain_db = checked_range("gain_db", gain_db)
        self.quality = checked_range("quality", quality, at_least=0.1)

    def draw(self, uniforms: Float[Tensor, "B 3"]) -> Parameters:
        return {
            "frequency_hz": log_between(uniforms[:, 0], self.frequency_hz),
            "gain_db": between(uniforms[:, 1], self.gain_db),
            "quality": log_between(uniforms[:, 2], self.quality),
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters, *, shape: str
    ) -> Float[Tensor, "B C L"]:
        cutoff, gain_db, quality = (
            beside(parameters[name], waveform) for name in ("frequency_hz", "gain_db", "quality")
        )

        def response(angles: Float[Tensor, " F"]) -> Complex[Tensor, "B F"]:
            frequency = relative_frequency(angles, cutoff, sample_rate=self.sample_rate)
            a, q = 10 ** (gain_db[:, None] / 40), quality[:, None]
            if shape == "bell":
                return second_order((1.0, a / q, 1.0), (1.0, 1 / (a * q), 1.0), frequency)
            slope = a.sqrt() / q
            low, high = (1.0, slope, a), (a, slope, 1.0)
            top, bottom = (low, high) if shape == "low" else (high, low)
            return a * second_order(top, bottom, frequency)

        return filtered(waveform, response, padding=round(RINGING_SECONDS * self.sample_rate))


class Bell:
    """Raise or lower what lies around one frequency.

    Args:
        sample_rate: Hz.
        frequency_hz: range of the centre, drawn evenly in octaves.
        gain_db: range of the gain at the centre.
        quality: range of centre over bandwidth, drawn evenly in octaves.
        probability: share of the samples.
    """

    num_uniforms = _Band.num_uniforms

    def __init__(
        self,
        *,
        sample_rate: int,
        frequency_hz: Sequence[float],
        gain_db: Sequence[float],
        probability: float,
        quality: Sequence[float] = (0.5, 2.0),
    ) -> None:
        self.probability = checked_probability(probability)
        self.band = _Band(
            sample_rate=sample_rate, frequency_hz=frequency_hz, gain_db=gain_db, quality=quality
        )

    def draw(self, uniforms: Float[Tensor, "B 3"]) -> Parameters:
        """`frequency_hz`, `gain_db`, `quality`."""
        return self.band.draw(uniforms)

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Filtered by a second-order section."""
        return self.band.apply(waveform, parameters, shape="bell")


class Shelf:
    """Raise or lower all that lies below a frequency, or above it.

    Args:
        side: "low" or "high".
        sample_rate: Hz.
        frequency_hz: range of the middle of the slope, drawn evenly in octaves.
        gain_db: range of the gain far below, or above.
        quality: range of the steepness, drawn evenly in octaves; more than 0.7 overshoots.
        probability: share of the samples.
    """

    num_uniforms = _Band.num_uniforms

    def __init__(
        self,
        *,
        side: str,
        sample_rate: int,
        frequency_hz: Sequence[float],
        gain_db: Sequence[float],
        probability: float,
        quality: Sequence[float] = (0.5, 2.0),
    ) -> None:
        if side not in ("low", "high"):
            raise ValueError(f"side ({side}) of a shelf must be low or high")
        self.side = side
        self.probability = checked_probability(probability)
        self.band = _Band(
            sample_rate=sample_rate, frequency_hz=frequency_hz, gain_db=gain_db, quality=quality
        )

    def draw(self, uniforms: Float[Tensor, "B 3"]) -> Parameters:
        """`frequency_hz`, `gain_db`, `quality`."""
        return self.band.draw(uniforms)

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Filtered by a second-order section."""
        return self.band.apply(waveform, parameters, shape=self.side)


class SmoothEqualiser:
    """A smooth random curve over frequency, constant in time, with no change of phase.

    It is the mean of nine curves, each drawn straight between a number of evenly spaced random
    knots, from 512 of them to 2. The highest and the lowest value a knot may have are drawn first.

    Args:
        lowest: range of the lowest factor of amplitude.
        highest: range of the highest factor of amplitude.
        probability: share of the samples.
    """

    num_uniforms = 2 + sum(NUM_KNOTS)

    def __init__(
        self, *, lowest: Sequence[float], highest: Sequence[float], probability: float
    ) -> None:
        self.probability = checked_probability(probability)
        self.lowest = checked_range("lowest", lowest, at_least=0)
        self.highest = checked_range("highest", highest, at_least=self.lowest[1])

    def draw(self, uniforms: Float[Tensor, "B num_uniforms"]) -> Parameters:
        """`lowest`, `highest`, and `factor`, the curve at 1,025 evenly spaced frequencies."""
        lowest = between(uniforms[:, 0], self.lowest)
        highest = between(uniforms[:, 1], self.highest)
        curve = torch.stack(
            [_drawn_through(knots) for knots in uniforms[:, 2:].split(NUM_KNOTS, dim=1)]
        ).mean(dim=0)
        factor = lowest[:, None] + (highest - lowest)[:, None] * curve
        return {"lowest": lowest, "highest": highest, "factor": factor}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Every frequency by its factor."""
        curve = beside(parameters["factor"], waveform)

        def response(angles: Float[Tensor, " F"]) -> Float[Tensor, "B F"]:
            place = angles * ((NUM_CURVE_BINS - 1) / pi)
            left = place.long().clamp(max=NUM_CURVE_BINS - 2)
            return torch.lerp(curve[:, left], curve[:, left + 1], place - left)

        return filtered(waveform, response, padding=2 * NUM_CURVE_BINS)


def _drawn_through(knots: Float[Tensor, "B knots"]) -> Float[Tensor, "B bins"]:
    return F.interpolate(knots[:, None], NUM_CURVE_BINS, mode="linear", align_corners=True)[:, 0]
