"""Fine-tuning with few numbers: low-rank products beside weights that stay as they are.

The peft package wraps `nn.Linear` and `nn.Conv2d`, which hold a small share of the family's weights
(none of Positionwise, a thirtieth of V3); stacks of matrices are what it has no layer for. So the
products are torch's own parametrisations (`frametx.nn.low_rank`), and need no package.
"""

from collections.abc import Sequence

from torch import nn
from torch.nn.utils import parametrize

from frametx.nn.low_rank import LowRank, num_added
from frametx.training.parameter_groups import keep_statistics, match_names


def add_adapters(
    separator: nn.Module,
    *,
    rank: int,
    scale: float,
    targets: Sequence[str],
    trained: Sequence[str],
) -> list[str]:
    """Let small products beside the weights learn, and nothing else; returns the weights' names.

    Batch norms keep their statistics, unless `trained` names one of their parameters. A weight that
    is no larger than its product would be gets none, nor does a norm, a bias, or what was frozen
    before.

    Args:
        separator: with the weights that it starts from.
        rank: inner size of the products.
        scale: their factor.
        targets: patterns of the weights, see `frametx.training.parameter_groups.match_names`.
        trained: patterns of further parameters that learn, themselves.

    Raises:
        ValueError: if a pattern fits nothing, or no weight is large enough for such a product.
    """
    if rank < 1 or scale <= 0:
        raise ValueError(f"lora.rank={rank} must be at least 1 and lora.scale={scale} above 0")
    learning = {name: p for name, p in separator.named_parameters() if p.requires_grad}
    chosen = match_names(list(learning), targets, key="lora.targets")
    kept = match_names(list(learning), trained, key="lora.trained")
    large = [
        name
        for name, weight in learning.items()
        if name in chosen - kept
        and weight.ndim > 1
        and "norm" not in name
        and num_added(weight.shape, rank) < weight.numel()
    ]
    if not large:
        raise ValueError(
            f"lora.rank={rank}: of the {len(chosen)} parameters that lora.targets="
            f"{list(targets)} names, none is larger than its product would be; take a smaller rank"
        )
    for name, parameter in learning.items():
        parameter.requires_grad_(name in kept)
    keep_statistics(separator)
    for name in large:
        owner, _, tensor = name.rpartition(".")
        adapter = LowRank(shape=learning[name].shape, rank=rank, scale=scale)
        parametrize.register_parametrization(
            separator.get_submodule(owner), tensor, adapter.to(learning[name].device)
        )
    return large
