"""Masks: what a network says about a mixture, put to use."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def apply_mask(
    mixture: Complex[Tensor, "B C F T"], mask: Float[Tensor, "B S C F T"]
) -> Complex[Tensor, "B S C F T"]:
    """Scale every bin of the mixture by each stem's mask, keeping the mixture's phase."""
    return mask * mixture.unsqueeze(1)


def ideal_ratio_mask(magnitudes: Float[Tensor, "B S C F T"]) -> Float[Tensor, "B S C F T"]:
    """The mask each stem would get from an oracle: its share of the summed magnitudes.

    Masks of one bin sum to one; where every stem is silent they share the bin equally.
    """
    total = magnitudes.sum(dim=1, keepdim=True)
    share = magnitudes / total.clamp_min(torch.finfo(magnitudes.dtype).tiny)
    return torch.where(total > 0, share, torch.full_like(share, 1 / magnitudes.shape[1]))
