"""The activation of the evolved transformer: relu(x) squared."""

from jaxtyping import Float
from torch import Tensor


def squared_relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Square of the positive part, elementwise.

    Source: So et al., "Primer: Searching for Efficient Transformers for Language Modeling", 2021.
    """
    return x.relu().square()
