"""Ratios of energies in dB, with a defined value where a plain logarithm has none."""

import torch
from jaxtyping import Float
from torch import Tensor

# About the rounding noise of 16-bit audio: what lies beyond says nothing about a separator, and a
# finite value keeps one perfect or one empty estimate from making a mean infinite.
LIMIT_DB = 100.0


def ratio_db(
    signal: Float[Tensor, "*batch"], error: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """10 log10(signal / error) held within -100 to 100 dB; NaN where there is no signal at all.

    Args:
        signal: energy of the truth; 0 means that a stem is silent, where no ratio is defined.
        error: energy of what is wrong; 0 gives 100 dB.
    """
    decibels = 10 * torch.log10(signal / error)
    return decibels.clamp(-LIMIT_DB, LIMIT_DB).where(signal > 0, torch.nan)


def as_float64(waveform: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The samples in double precision; from MPS, which has none, through the CPU."""
    return (waveform.cpu() if waveform.device.type == "mps" else waveform).double()
