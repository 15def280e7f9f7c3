"""The activation of the evolved transformer: relu(x) squared."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def squared_relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Square of the positive part, elementwise.

    Source: So et al., "Primer: Searching for Efficient Transformers for Language Modeling", 2021.
    """
    return _SquaredReLU.apply(x)


class _SquaredReLU(torch.autograd.Function):
    """With its derivative 2 relu(x) written out: three passes over memory instead of seven."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.relu().square_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.relu().mul(2).mul(grads[0])
