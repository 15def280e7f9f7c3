"""Ratios of a signal to what is wrong with it, in dB and turned round: lower is better."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from frametx.audio.stft import Stft
from frametx.losses.precision import full_precision
from frametx.losses.silence import SILENT_RMS, is_sounding, mean_where
from frametx.losses.spectral import magnitude


class SiSdr(nn.Module):
    """Negative scale-invariant signal-to-distortion ratio of each stem, in dB.

    The channels of a stem share one scale; the mean is not removed. The ratio says nothing of a
    silent stem: it counts as 0 dB and has no gradient, so take another loss beside this one where
    silence must be learned. It does not see the level of an estimate either.

    Args:
        weight: factor of the result.

    Source: Le Roux et al., "SDR - half-baked or well done?", 2019; computed by torchmetrics.
    """

    def __init__(self, *, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over stems."""
        truth = rearrange(full_precision(stems), "b s c l -> b s (c l)")
        estimated = rearrange(full_precision(estimates), "b s c l -> b s (c l)")
        with torch.autocast(truth.device.type, enabled=False):
            decibels = scale_invariant_signal_distortion_ratio(_level(estimated), _level(truth))
        return -self.weight * mean_where(decibels, is_sounding(full_precision(stems)))


class BatchSignalRatio(nn.Module):
    """Negative ratio of the energy of all stems of a batch to that of all errors, in dB.

    One ratio for the whole batch: loud stems decide, silent ones are harmless. So the mean over
    micro-batches is not the ratio of a larger batch.

    Args:
        form: `snr` compares with the truth; `sdr` with its projection, which forgives a wrong level
            that all stems of the batch share.
        epsilon: added to both energies, so that silence has a ratio.
        epsilon_place: `inside` the fraction; `outside` adds it to the fraction itself instead of
            the error's energy, as the original's `sdr` did by a misplaced bracket: infinite where
            nothing is wrong. `snr` has it inside.
        stft: compare magnitudes, as the original did; None compares samples.
        weight: factor of the result.

    Raises:
        ValueError: if there is no such form or place.

    Source: specs/training.md section 4 (`signal_loss`).
    """

    def __init__(
        self,
        *,
        form: Literal["snr", "sdr"],
        epsilon: float,
        epsilon_place: Literal["inside", "outside"],
        stft: Stft | None,
        weight: float,
    ) -> None:
        super().__init__()
        if form not in ("snr", "sdr"):
            raise ValueError(f"loss.form={form} must be snr or sdr")
        if epsilon_place not in ("inside", "outside"):
            raise ValueError(f"loss.epsilon_place={epsilon_place} must be inside or outside")
        if form == "snr" and epsilon_place == "outside":
            raise ValueError("loss.epsilon_place=outside is a slip of sdr: take inside with snr")
        self.form = form
        self.epsilon = epsilon
        self.epsilon_place = epsilon_place
        self.stft = stft
        self.weight = weight

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted ratio."""
        if self.stft is None:
            estimated, truth = full_precision(estimates), full_precision(stems)
        else:
            estimated, truth = magnitude(self.stft, estimates), magnitude(self.stft, stems)
        if self.form == "sdr":
            truth = truth * ((estimated * truth).sum() / (truth.square().sum() + self.epsilon))
        signal = truth.square().sum() + self.epsilon
        error = (estimated - truth).square().sum()
        if self.epsilon_place == "inside":
            ratio = signal / (error + self.epsilon)
        else:
            ratio = signal / error + self.epsilon
        return -self.weight * 10 * ratio.log10()


def _level(signal: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch N"]:
    """Bring the RMS to 1, where the fixed small numbers that torchmetrics adds do not show.

    The factor is a constant for the gradient: what is scale-invariant cannot see it.
    """
    level = signal.detach().square().mean(dim=-1, keepdim=True).sqrt()
    return signal / level.clamp_min(SILENT_RMS)
