"""Losses are computed in at least 32-bit floats, whatever the network ran in."""

from jaxtyping import Float
from torch import Tensor


def full_precision(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The same numbers as 32-bit floats, or as 64-bit ones where they are that already."""
    return x if x.element_size() == 8 else x.float()
