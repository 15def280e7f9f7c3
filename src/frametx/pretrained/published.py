"""What reading somebody else's weights gives."""

from typing import Any, NamedTuple

from torch import Tensor


class Pretrained(NamedTuple):
    """A separator that somebody else has trained.

    Attributes:
        model: what the user types after `model=`.
        separator: config of the separator.
        weights: of its network, under our names.
    """

    model: str
    separator: dict[str, Any]
    weights: dict[str, Tensor]
