"""Loudness and sign of a stem."""

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.augment.transform import Parameters, between, checked_probability, per_row


class Gain:
    """Multiply by a gain drawn evenly in decibels."""

    num_uniforms = 1

    def __init__(self, *, min_db: float, max_db: float, probability: float = 1.0) -> None:
        if min_db > max_db:
            raise ValueError(f"min_db ({min_db}) must not exceed max_db ({max_db})")
        self.range_db = (min_db, max_db)
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`gain_db`."""
        return {"gain_db": between(uniforms[:, 0], self.range_db)}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """6.02 dB double the amplitude."""
        return waveform * per_row(10 ** (parameters["gain_db"] / 20), waveform)


class PolarityFlip:
    """Turn a waveform upside down: not heard in a stem alone, but in what mixing adds up to."""

    num_uniforms = 0

    def __init__(self, *, probability: float) -> None:
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 0"]) -> Parameters:
        """Nothing."""
        return {}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Negated."""
        return torch.neg(waveform)
