"""Scores of stems without an order, under the order that suits the estimates best."""

from jaxtyping import Float
from torch import Tensor

from frametx.audio.permutation import best_order
from frametx.metrics.sdr import si_sdr


def in_best_order(
    estimates: Float[Tensor, "S C L"], stems: Float[Tensor, "S C L"]
) -> Float[Tensor, "S C L"]:
    """The estimates in the order in which their SI-SDR, summed over the stems, is highest.

    Silent stems have no say, and take what is left.
    """
    num_stems = stems.shape[0]
    shape = (num_stems, num_stems, *stems.shape[1:])
    pair_scores = si_sdr(estimates.unsqueeze(1).expand(shape), stems.unsqueeze(0).expand(shape))
    return estimates[best_order(pair_scores.nan_to_num(nan=0.0))]
