"""How far a mean over a few tracks can be trusted: the bootstrap."""

import torch
from jaxtyping import Float
from torch import Tensor

LEVEL = 0.95
LEAST_TRACKS = 5  # with fewer, an end of the interval is little more than the worst or best track
LEAST_RESAMPLES = 1000  # with fewer, the ends of the interval are themselves noise


def bootstrap_interval(
    values: Float[Tensor, " N"], *, resamples: int, seed: int
) -> tuple[float, float]:
    """The interval that 95 % of the means of N values drawn again, with replacement, fall into.

    It holds the spread between tracks only; what another training seed would give is not in it.

    Args:
        values: one per track, all finite.
        resamples: number of times N values are drawn.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        Lower and upper end; both NaN without values, both the value itself with one.

    Raises:
        ValueError: if there are fewer than 1000 resamples.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", section 13.3 (percentile).
    """
    check_resamples(resamples)
    if len(values) == 0:
        return torch.nan, torch.nan
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(values), (resamples, len(values)), generator=generator)
    means = values.double().cpu()[drawn].mean(dim=-1)
    tail = (1 - LEVEL) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=means.dtype))
    return float(low), float(high)


def check_resamples(resamples: int) -> None:
    """Refuse a number of resamples that an interval cannot rest on.

    Raises:
        ValueError: if there are fewer than 1000.
    """
    if resamples < LEAST_RESAMPLES:
        raise ValueError(
            f"resamples={resamples} must be at least {LEAST_RESAMPLES}: the ends of a 95 % "
            "interval rest on the few most extreme resamples"
        )
