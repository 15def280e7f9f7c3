"""Which stems say anything: ratios to a silent stem are not defined."""

from jaxtyping import Bool, Float
from torch import Tensor

SILENT_RMS = 1e-5  # of full scale, about the rounding noise of 16-bit audio


def is_sounding(stems: Float[Tensor, "B S C L"]) -> Bool[Tensor, "B S"]:
    """Where the root mean square over channels and samples is above that of 16-bit rounding."""
    return stems.square().mean(dim=(-2, -1)) > SILENT_RMS**2


def mean_where(values: Float[Tensor, "B S"], counts: Bool[Tensor, "B S"]) -> Float[Tensor, ""]:
    """The sum of the values that count over the number of all.

    The divisor does not depend on what is silent, so that the mean over a batch stays the mean
    over its micro-batches, and accumulated gradients stay those of the whole batch.
    """
    return values.where(counts, values.new_zeros(())).mean()
