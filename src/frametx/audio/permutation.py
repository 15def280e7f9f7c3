"""Which estimate is which stem, where stems have no order: speakers, for instance."""

from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_STEMS = 7  # 5040 orders; more would want an assignment algorithm


def best_order(
    pair_scores: Float[Tensor, "*batch S_estimated S_true"],
) -> Int[Tensor, "*batch S_true"]:
    """For each true stem the number of its estimate, each used once, so that the sum is largest.

    Args:
        pair_scores: of every estimate as every stem, higher is better.

    Raises:
        ValueError: if there are more stems than all orders could be tried for.
    """
    num_stems = pair_scores.shape[-1]
    if num_stems > MAX_STEMS:
        raise ValueError(
            f"{num_stems} stems have too many orders to try: without an order at most {MAX_STEMS} "
            "can be told apart"
        )
    orders = torch.tensor(list(permutations(range(num_stems))), device=pair_scores.device)
    places = torch.arange(num_stems, device=pair_scores.device)
    totals = pair_scores[..., orders, places].sum(dim=-1)
    return orders[totals.argmax(dim=-1)]
