"""Rotary positions: a token's place turns pairs of its features, and scores see only distances."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Rotary(nn.Module):
    """Turn the feature pairs (0, 1), (2, 3), ... of token n by n * base^(-2j/D).

    D, the features of one head, may be odd: the last feature then stays as it is; with D = 1
    nothing turns. Angles are made in float32 whatever the precision around them, because at 2048
    tokens half precision no longer tells neighbours apart.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
    """

    def __init__(self, *, head_features: int, base: float = 10_000.0) -> None:
        super().__init__()
        self.num_pairs = head_features // 2
        self.base = base

    def forward(self, x: Float[Tensor, "*batch N D"]) -> Float[Tensor, "*batch N D"]:
        """Token n is the n-th of the last axis but one."""
        if self.num_pairs == 0:
            return x
        num_turned = 2 * self.num_pairs
        cosine, sine = self._tables(x.shape[-2], x.shape[-1], x.device)
        turned = x[..., :num_turned].float()
        # (a, b) -> (a cos - b sin, b cos + a sin): the sign of the sine is in the table
        partners = turned.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        turned = torch.addcmul(turned * cosine, partners, sine).to(x.dtype)
        return torch.cat([turned, x[..., num_turned:]], -1) if num_turned < x.shape[-1] else turned

    def _tables(
        self, num_tokens: int, head_features: int, device: torch.device
    ) -> tuple[Float[Tensor, "N P"], Float[Tensor, "N P"]]:
        pairs = torch.arange(self.num_pairs, dtype=torch.float32, device=device)
        frequencies = 1.0 / self.base ** (2 * pairs / head_features)
        tokens = torch.arange(num_tokens, dtype=torch.float32, device=device)
        angles = tokens[:, None] * frequencies
        sine = angles.sin()
        return angles.cos().repeat_interleave(2, -1), torch.stack([-sine, sine], -1).flatten(-2)
