"""What a discriminator says about the magnitudes it is shown.

A discriminator is made of `in_channels`, `num_bins` and sizes of its own, and shown magnitudes
`B C F T`. A conditional one is shown the mixture on the first channels and what it judges behind.

All of them can be differentiated twice, as gradient penalties need. Only torch's fused attention
cannot: whoever takes a penalty judges inside `sdpa_kernel(SDPBackend.MATH)`.
"""

from typing import NamedTuple

from torch import Tensor


class Judgement(NamedTuple):
    """Logits of being real, and what they were made of.

    Attributes:
        logits: one map of patches for every scale, `B C F T` with axes of their own: above zero
            where the patch looks real.
        features: inner activations in the order they were made, for feature matching. They are
            laid out as inside the network, frames before bins.
    """

    logits: list[Tensor]
    features: list[Tensor]
