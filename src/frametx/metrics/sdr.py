"""Signal-to-distortion ratios of whole tracks: uSDR counts a wrong level, SI-SDR does not."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from frametx.metrics.decibels import LIMIT_DB, as_float64, ratio_db


def usdr(
    estimates: Float[Tensor, "*batch C L"], stems: Float[Tensor, "*batch C L"]
) -> Float[Tensor, "*batch"]:
    """Energy of a stem over the energy of its error, all channels and samples together, in dB.

    Higher is better; silence as the estimate gives 0 dB. NaN where the stem itself is silent.

    Args:
        estimates: separated stems, at the same rate and alignment as `stems`.
        stems: the truth.

    Returns:
        dB within -100 to 100, in the precision and on the device of `stems`.

    Source: Mitsufuji et al., "Music Demixing Challenge 2021", where it ranks the entries; their
    epsilon of 1e-7 only moves values near the limit and is replaced by it.
    """
    truth = as_float64(stems)
    error = as_float64(estimates) - truth
    energies = (part.square().sum(dim=(-2, -1)) for part in (truth, error))
    return ratio_db(*energies).to(stems)


def si_sdr(
    estimates: Float[Tensor, "*batch C L"], stems: Float[Tensor, "*batch C L"]
) -> Float[Tensor, "*batch"]:
    """Scale-invariant signal-to-distortion ratio, in dB; higher is better.

    The channels of a stem share one scale, so that a wrong balance counts as an error. The mean is
    not removed. NaN where the stem is silent; -100 dB where only the estimate is.

    Args:
        estimates: separated stems, at the same rate and alignment as `stems`.
        stems: the truth.

    Returns:
        dB within -100 to 100, in the precision and on the device of `stems`.

    Source: Le Roux et al., "SDR - half-baked or well done?"; computed by torchmetrics.
    """
    truth = rearrange(as_float64(stems), "... c l -> ... (c l)")
    estimated = rearrange(as_float64(estimates), "... c l -> ... (c l)")
    decibels = scale_invariant_signal_distortion_ratio(unit_peak(estimated), unit_peak(truth))
    # torchmetrics adds a small number to both sides of the fraction and so finds 0 dB in silence.
    decibels = decibels.masked_fill((estimated == 0).all(dim=-1), -LIMIT_DB)
    decibels = decibels.masked_fill((truth == 0).all(dim=-1), torch.nan)
    return decibels.clamp(-LIMIT_DB, LIMIT_DB).to(stems)


def unit_peak(signal: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch N"]:
    """Scale to a largest value of 1, which SI-SDR cannot see and its small numbers are made for."""
    peak = signal.abs().amax(dim=-1, keepdim=True)
    return signal / peak.clamp_min(torch.finfo(signal.dtype).tiny)
