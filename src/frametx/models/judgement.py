"""What a discriminator says about the spectrograms it is shown."""

from typing import NamedTuple

from torch import Tensor


class Judgement(NamedTuple):
    """Logits of being real, and what they were made of.

    Attributes:
        logits: one map of patches for every scale, `B C F T` with axes of their own: above zero
            where the patch looks real.
        features: inner activations `B C F T`, in the order they were made, for feature matching.
    """

    logits: list[Tensor]
    features: list[Tensor]
