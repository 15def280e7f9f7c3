"""A learned choice between two chains of scores, made by the queries: no scores are needed for it.

    S = g * previous + (1 - g) * skip        g: one number for every head and query

Because g stands in front of a query, it can be multiplied into the query, and both chains stay
queries and keys (see `ResidualScores`): time and memory of the gate grow with T, not with T x T.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.residual_scores import ResidualScores


class QueryGate(nn.Module):
    """Blend two chains by a gate computed from the last queries of each; one g for all maps.

    Args:
        num_channels: maps of each chain.
        num_heads: of each chain.
        previous_features: features of one head of the first chain's last queries.
        skip_features: likewise of the second's.
    """

    def __init__(
        self, *, num_channels: int, num_heads: int, previous_features: int, skip_features: int
    ) -> None:
        super().__init__()
        shape = (num_channels, num_heads)
        self.weight_previous = nn.Parameter(torch.empty(*shape, previous_features))
        self.weight_skip = nn.Parameter(torch.empty(*shape, skip_features))
        self.bias = nn.Parameter(torch.zeros(num_heads, 1))
        bound = (num_channels * (previous_features + skip_features)) ** -0.5
        nn.init.uniform_(self.weight_previous, -bound, bound)
        nn.init.uniform_(self.weight_skip, -bound, bound)

    def forward(self, previous: ResidualScores, skip: ResidualScores) -> ResidualScores:
        """The blend; both chains count in the decision."""
        gate = self._logits(previous.query, self.weight_previous)
        gate = gate + self._logits(skip.query, self.weight_skip) + self.bias
        gate = gate.sigmoid()[:, None, :, :, None]
        return previous.weighted(gate) + skip.weighted(1 - gate)

    def _logits(
        self, query: Float[Tensor, "B C H T D"], weight: Float[Tensor, "C H D"]
    ) -> Float[Tensor, "B H T"]:
        return torch.einsum("bchtd,chd->bht", query, weight)
