"""A small matrix product beside a weight that stays as it is: low-rank adaptation.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021). A parametrisation, because
most weights of the family lie in layers of its own (a stack of matrices, kernels that are read as
matrices), which a replacement for `nn.Linear` would not reach.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

PARAMETRIZED = ".parametrizations."  # torch puts it into the names of weights


class LowRank(nn.Module):
    """The weight plus scale * up @ down, which starts as the weight itself.

    A weight of two axes is a matrix, of three a stack of them, one a map; of more it is a kernel,
    whose first axis goes out and whose others come in together.

    Args:
        shape: of the weight.
        rank: inner size of the product.
        scale: factor of the product.
    """

    scale: Tensor

    def __init__(self, *, shape: torch.Size, rank: int, scale: float) -> None:
        super().__init__()
        *stack, rows, columns = _as_matrices(shape)
        self.down = nn.Parameter(torch.empty(*stack, rank, columns))
        self.up = nn.Parameter(torch.zeros(*stack, rows, rank))
        self.register_buffer("scale", torch.tensor(scale))
        bound = columns**-0.5
        nn.init.uniform_(self.down, -bound, bound)

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The weight with its product added."""
        return adapted(weight, down=self.down, up=self.up, scale=self.scale)


def adapted(
    weight: Float[Tensor, "..."],
    *,
    down: Float[Tensor, "..."],
    up: Float[Tensor, "..."],
    scale: Float[Tensor, ""],
) -> Float[Tensor, "..."]:
    """The weight with a product beside it, in the precision of the weights under any autocast."""
    with torch.autocast(weight.device.type, enabled=False):
        return weight + (scale * (up @ down)).view_as(weight)


def num_added(shape: torch.Size, rank: int) -> int:
    """How many numbers an adapter of this rank has for such a weight."""
    *stack, rows, columns = _as_matrices(shape)
    return rank * (rows + columns) * (stack[0] if stack else 1)


def has_adapters(weights: Mapping[str, Tensor]) -> bool:
    """Whether some of these weights have adapters."""
    return any(name.endswith(".down") and PARAMETRIZED in name for name in weights)


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict in which adapters are a part of their weights, under the plain names.

    Raises:
        ValueError: if an adapter does not fit its weight.
    """
    plain: dict[str, Tensor] = {}
    for name, value in weights.items():
        owner, _, inner = name.partition(PARAMETRIZED)
        tensor, _, part = inner.partition(".")
        adapter = f"{owner}{PARAMETRIZED}{tensor}.0."
        if not inner or f"{adapter}down" not in weights:
            plain[name] = value
        elif part == "original":
            product = {key: weights.get(f"{adapter}{key}") for key in ("down", "up", "scale")}
            plain[f"{owner}.{tensor}"] = adapted(value, **_fitting(name, value, product))
    return plain


def _fitting(name: str, weight: Tensor, product: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """An adapter's parts, if their product has the weight's shape; nothing is multiplied for it."""
    down, up, scale = (product[key] for key in ("down", "up", "scale"))
    if weight.dim() >= 2 and down is not None and up is not None and scale is not None:
        *stack, rows, columns = _as_matrices(weight.shape)
        rank = down.shape[-2] if down.dim() >= 2 else 0
        shapes = (tuple(down.shape), tuple(up.shape), scale.numel())
        if shapes == ((*stack, rank, columns), (*stack, rows, rank), 1):
            return {"down": down, "up": up, "scale": scale}
    raise ValueError(f"the adapter of {name[:80]!r} does not fit it")


def _as_matrices(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape) if len(shape) <= 3 else (shape[0], shape[1:].numel())
