"""Masks: what a network says about a mixture, put to use."""

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor


def apply_mask(
    mixture: Complex[Tensor, "B C F T"], mask: Float[Tensor, "B S C F T"]
) -> Complex[Tensor, "B S C F T"]:
    """Scale every bin of the mixture by each stem's mask, keeping the mixture's phase."""
    return mask * mixture.unsqueeze(1)


def with_rest(
    others: Float[Tensor, "*batch S_others C L"], mixture: Float[Tensor, "*batch C L"], at: int
) -> Float[Tensor, "*batch S C L"]:
    """All stems: number `at` is what the others leave of the mixture, so that they sum to it."""
    rest = (mixture - others.sum(dim=-3)).unsqueeze(-3)
    return torch.cat([others[..., :at, :, :], rest, others[..., at:, :, :]], dim=-3)


def over_unseen_bins(
    values: Float[Tensor, "B N F_seen T"], num_bins: int, top_bin: str
) -> Float[Tensor, "B N F T"]:
    """What a network says of the bins it sees, for all of them.

    Args:
        values: of the lowest bins.
        num_bins: F.
        top_bin: of the bins above: `copy` repeats the highest one, `average` takes the mean of all
            that are seen, `zero` is nothing.
    """
    unseen = num_bins - values.shape[2]
    if not unseen:
        return values
    if top_bin == "zero":
        return F.pad(values, (0, 0, 0, unseen))
    top = values[:, :, -1:] if top_bin == "copy" else values.mean(dim=2, keepdim=True)
    return torch.cat([values, top.expand(-1, -1, unseen, -1)], dim=2)


def ideal_ratio_mask(magnitudes: Float[Tensor, "B S C F T"]) -> Float[Tensor, "B S C F T"]:
    """The mask each stem would get from an oracle: its share of the summed magnitudes.

    Masks of one bin sum to one; where every stem is silent they share the bin equally.
    """
    total = magnitudes.sum(dim=1, keepdim=True)
    share = magnitudes / total.clamp_min(torch.finfo(magnitudes.dtype).tiny)
    return torch.where(total > 0, share, torch.full_like(share, 1 / magnitudes.shape[1]))
