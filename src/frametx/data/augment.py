"""Transforms of one stem on the device: parameters are drawn first, then applied to the batch.

A transform is a small class with three members, and adding one needs nothing else:

- `num_uniforms`: how many numbers in [0, 1) it consumes for each sample;
- `draw(uniforms)`: makes parameters of them, one row for each sample;
- `apply(waveform, parameters)`: acts on each row of the batch by that row's parameters alone.
"""

from math import pi
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Transform(Protocol):
    """What `Voxaug` needs from a transform."""

    num_uniforms: int

    def draw(self, uniforms: Float[Tensor, "B num_uniforms"]) -> Tensor:
        """Parameters, one row for each sample of the batch."""
        ...

    def apply(self, waveform: Float[Tensor, "B C L"], parameters: Tensor) -> Tensor:
        """The transformed waveforms, of the same shape; the input stays as it is."""
        ...


class Gain:
    """Multiply by a gain drawn evenly in decibels."""

    num_uniforms = 1

    def __init__(self, *, min_db: float, max_db: float) -> None:
        if min_db > max_db:
            raise ValueError(f"min_db ({min_db}) must not exceed max_db ({max_db})")
        self.min_db = min_db
        self.max_db = max_db

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Float[Tensor, " B"]:
        """Gains in dB."""
        return self.min_db + (self.max_db - self.min_db) * uniforms[:, 0]

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Float[Tensor, " B"]
    ) -> Float[Tensor, "B C L"]:
        """6.02 dB double the amplitude."""
        return waveform * 10 ** (parameters / 20)[:, None, None]


class PolarityFlip:
    """Turn a waveform upside down: not heard in a stem alone, but in what mixing adds up to."""

    num_uniforms = 1

    def __init__(self, *, probability: float) -> None:
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Bool[Tensor, " B"]:
        """Which samples to flip."""
        return uniforms[:, 0] < self.probability

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B C L"]:
        """Negated where chosen."""
        return torch.where(parameters[:, None, None], -waveform, waveform)


class ChannelSwap:
    """Exchange left and right; a mono waveform stays as it is."""

    num_uniforms = 1

    def __init__(self, *, probability: float) -> None:
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Bool[Tensor, " B"]:
        """Which samples to swap."""
        return uniforms[:, 0] < self.probability

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B C L"]:
        """Channels in reverse order where chosen."""
        return torch.where(parameters[:, None, None], waveform.flip(1), waveform)


class Pan:
    """Shift the stereo balance at constant power; a mono waveform stays as it is."""

    num_uniforms = 1

    def __init__(self, *, max_position: float) -> None:
        """`max_position`: the furthest shift, 0 (none) to 1 (one channel falls silent)."""
        if not 0 <= max_position <= 1:
            raise ValueError(f"max_position ({max_position}) must lie between 0 and 1")
        self.max_position = max_position

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Float[Tensor, " B"]:
        """Positions from -1 (left) to 1 (right)."""
        return self.max_position * (2 * uniforms[:, 0] - 1)

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Float[Tensor, " B"]
    ) -> Float[Tensor, "B C L"]:
        """Gains on a quarter circle, 1 for both channels at the centre."""
        if waveform.shape[1] != 2:
            return waveform
        angle = (parameters + 1) * pi / 4
        gains = 2**0.5 * torch.stack((angle.cos(), angle.sin()), dim=1)
        return waveform * gains[:, :, None]


def checked_probability(probability: float) -> float:
    """`probability` itself.

    Raises:
        ValueError: if it is none.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability ({probability}) must lie between 0 and 1")
    return probability
