"""cSDR: the median over 1-second windows that most papers on MUSDB18 report.

BSSEval v4 estimates distortion filters of 512 taps to split the error into spatial, interference
and artefact parts. SDR counts their sum, which is the plain error whatever the filters are, so it
needs none of them: the same number at a small part of the cost.

    sample   0      W      2W     3W    L
    window   |  0   |  1   |  2   |  (rest: not counted)
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from frametx.metrics.decibels import as_float64, ratio_db

WINDOW_SECONDS = 1.0


def csdr(
    estimates: Float[Tensor, "S C L"], stems: Float[Tensor, "S C L"], *, sample_rate: int
) -> Float[Tensor, " S"]:
    """Median over the windows in which something of every stem sounds, in dB; higher is better.

    NaN if there is no such window. A window is left out for all stems as soon as one stem, or one
    estimate, is silent in it: the convention of museval, which published numbers rest on.

    Args:
        estimates: separated stems, at the same rate and alignment as `stems`.
        stems: the truth.
        sample_rate: Hz; a window lasts one second.

    Returns:
        dB within -100 to 100, in the precision and on the device of `stems`.

    Source: Stöter et al., "The 2018 Signal Separation Evaluation Campaign"; museval 0.4.1.
    """
    ratios = windowed_sdr(estimates, stems, sample_rate=sample_rate)
    # Not torch.nanmedian, which takes the lower of the two middle values instead of their mean.
    return ratios.nanquantile(0.5, dim=-1)


def windowed_sdr(
    estimates: Float[Tensor, "S C L"], stems: Float[Tensor, "S C L"], *, sample_rate: int
) -> Float[Tensor, "S W"]:
    """The ratio in each of the W = max(1, L // window) windows; NaN where one is left out."""
    truth = windows(as_float64(stems), round(WINDOW_SECONDS * sample_rate))
    estimated = windows(as_float64(estimates), truth.shape[-1])
    silent = (is_silent(truth) | is_silent(estimated)).any(dim=0)
    energy = truth.square().sum(dim=(-2, -1))
    error = (estimated - truth).square().sum(dim=(-2, -1))
    return ratio_db(energy, error).masked_fill(silent, torch.nan).to(stems)


def windows(waveform: Float[Tensor, "S C L"], length: int) -> Float[Tensor, "S W C N"]:
    """Cut into W windows of N = `length` samples, the rest dropped; a shorter waveform is one."""
    length = min(length, waveform.shape[-1])
    whole = waveform.shape[-1] // length * length
    return rearrange(waveform[..., :whole], "s c (w n) -> s w c n", n=length)


def is_silent(windows: Float[Tensor, "S W C N"]) -> Bool[Tensor, "S W"]:
    """Whether every sample is exactly 0 once channels are added, which is museval's question."""
    return (windows.sum(dim=-2) == 0).all(dim=-1)
