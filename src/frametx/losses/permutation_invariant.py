"""A loss for stems without an order: any estimate may be any of them."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from frametx.audio.permutation import best_order
from frametx.losses.precision import full_precision
from frametx.losses.silence import SILENT_RMS, is_sounding


class PermutationInvariantSiSnr(nn.Module):
    """Negative SI-SNR in dB under the order of estimates that is best for each mixture.

    SI-SNR is SI-SDR without the mean of each channel. The channels of a stem share one scale. A
    speaker who is silent counts as 0 dB whatever is taken for him and pulls at nothing, so he takes
    the estimate that the others leave.

    Args:
        limit_db: a mixture whose mean over speakers is above this counts as this and has no
            gradient, so that the easy ones do not lead; None has no limit.
        weight: factor of the result.

    Source: Kolbaek et al., "Multi-talker Speech Separation with Utterance-level Permutation
        Invariant Training", 2017; the limit is of Subakan et al., 2021. The ratio is computed by
        torchmetrics. Its search for the order is not used: with three speakers or more it stops at
        a NaN, which training steps over.
    """

    def __init__(self, *, limit_db: float | None, weight: float) -> None:
        super().__init__()
        self.limit_db = limit_db
        self.weight = weight

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over mixtures and speakers."""
        truth, estimated = _levelled(full_precision(stems)), _levelled(full_precision(estimates))
        num_stems = truth.shape[1]
        with torch.autocast(truth.device.type, enabled=False):
            pair_scores = scale_invariant_signal_distortion_ratio(
                estimated.unsqueeze(2).expand(-1, -1, num_stems, -1),
                truth.unsqueeze(1).expand(-1, num_stems, -1, -1),
            )
        sounding = is_sounding(full_precision(stems))
        pair_scores = pair_scores.where(sounding.unsqueeze(1), pair_scores.new_zeros(()))
        order = best_order(pair_scores.detach())
        decibels = pair_scores.gather(1, order.unsqueeze(1)).squeeze(1).mean(dim=1)
        if self.limit_db is not None:
            decibels = decibels.clamp(max=self.limit_db)
        return -self.weight * decibels.mean()


def _levelled(stems: Float[Tensor, "B S C L"]) -> Float[Tensor, "B S N"]:
    """Without their means, and with an RMS of 1, where torchmetrics' small numbers do not show."""
    centred = rearrange(stems - stems.mean(dim=-1, keepdim=True), "b s c l -> b s (c l)")
    level = centred.detach().square().mean(dim=-1, keepdim=True).sqrt()
    return centred / level.clamp_min(SILENT_RMS)
