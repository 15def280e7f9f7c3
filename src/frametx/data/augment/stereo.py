"""Where a stem stands between left and right; a mono waveform passes as it is."""

from collections.abc import Sequence
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.augment.transform import (
    Parameters,
    beside,
    between,
    checked_probability,
    checked_range,
    per_row,
)


class ChannelSwap:
    """Exchange left and right."""

    num_uniforms = 0

    def __init__(self, *, probability: float) -> None:
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 0"]) -> Parameters:
        """Nothing."""
        return {}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Channels in reverse order."""
        return waveform.flip(1)


class Pan:
    """Shift the stereo balance at constant power."""

    num_uniforms = 1

    def __init__(self, *, max_position: float, probability: float = 1.0) -> None:
        """`max_position`: the furthest shift, 0 (none) to 1 (one channel falls silent)."""
        if not 0 <= max_position <= 1:
            raise ValueError(f"max_position ({max_position}) must lie between 0 and 1")
        self.max_position = max_position
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`position`, from -1 (left) to 1 (right)."""
        return {"position": self.max_position * (2 * uniforms[:, 0] - 1)}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Gains on a quarter circle, 1 for both channels at the centre."""
        if waveform.shape[1] != 2:
            return waveform
        angle = (parameters["position"] + 1) * pi / 4
        gains = 2**0.5 * torch.stack((angle.cos(), angle.sin()), dim=1)
        return waveform * beside(gains, waveform)[:, :, None]


class SilentSide:
    """Take one side away, as in old stereo records and broken cables."""

    num_uniforms = 2

    def __init__(self, *, probability: float, depth: Sequence[float] = (1.0, 1.0)) -> None:
        """`depth`: range of what is taken off the amplitude, 0 (nothing) to 1 (all of it)."""
        self.probability = checked_probability(probability)
        self.depth = checked_range("depth", depth, at_least=0, at_most=1)

    def draw(self, uniforms: Float[Tensor, "B 2"]) -> Parameters:
        """`side` (0 is left), `depth`."""
        return {
            "side": (2 * uniforms[:, 0]).long(),
            "depth": between(uniforms[:, 1], self.depth),
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """The drawn side by (1 - depth), the other as it is."""
        if waveform.shape[1] != 2:
            return waveform
        is_meant = torch.arange(2)[None] == parameters["side"][:, None]
        gains = 1 - is_meant * parameters["depth"][:, None]
        return waveform * beside(gains, waveform)[:, :, None]


class StereoWidth:
    """Make a stem narrower or wider, with its mid left as it is."""

    num_uniforms = 1

    def __init__(self, *, width: Sequence[float], probability: float) -> None:
        """`width`: range of the factor of the side signal; 0 is mono, 1 unchanged, 2 wide."""
        self.probability = checked_probability(probability)
        self.width = checked_range("width", width, at_least=0)

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`width`."""
        return {"width": between(uniforms[:, 0], self.width)}

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Mid plus `width` times what differs from it."""
        if waveform.shape[1] != 2:
            return waveform
        mid = waveform.mean(dim=1, keepdim=True)
        return mid + per_row(parameters["width"], waveform) * (waveform - mid)
