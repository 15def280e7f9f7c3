"""Rotary positions: a token's place turns pairs of its features, and scores see only distances."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

AnglePrecision = Literal["float32", "float16"]


class Rotary(nn.Module):
    """Turn the feature pairs (0, 1), (2, 3), ... of token n by n * base^(-2j/D).

    What is beyond the last of the D // 2 pairs stays as it is: an odd feature, or the rest of
    vectors longer than D. With D = 1 nothing turns.

    Args:
        num_features: D, usually the features of one head.
        angle_precision: `float32` makes angles in float32 whatever the precision around them,
            because at 2048 tokens half precision no longer tells neighbours apart. `float16` rounds
            them as the originals did under autocast on a GPU, which their weights learned with.
        base: of the frequencies.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
    """

    def __init__(
        self,
        *,
        num_features: int,
        angle_precision: AnglePrecision = "float32",
        base: float = 10_000.0,
    ) -> None:
        super().__init__()
        if angle_precision not in ("float32", "float16"):
            raise ValueError(f"angle_precision={angle_precision} must be float32 or float16")
        self.num_features = num_features
        self.angle_precision = angle_precision
        self.base = base

    def forward(self, x: Float[Tensor, "*batch N D"]) -> Float[Tensor, "*batch N D"]:
        """Token n is the n-th of the last axis but one."""
        num_turned = 2 * (self.num_features // 2)
        if num_turned == 0:
            return x
        cosine, sine = self._tables(x.shape[-2], x.device)
        turned = x[..., :num_turned].float()
        # (a, b) -> (a cos - b sin, b cos + a sin): the sign of the sine is in the table
        partners = turned.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        turned = torch.addcmul(turned * cosine, partners, sine).to(x.dtype)
        return torch.cat([turned, x[..., num_turned:]], -1) if num_turned < x.shape[-1] else turned

    def _tables(
        self, num_tokens: int, device: torch.device
    ) -> tuple[Float[Tensor, "N P"], Float[Tensor, "N P"]]:
        pairs = torch.arange(self.num_features // 2, dtype=torch.float32, device=device)
        frequencies = 1.0 / self.base ** (2 * pairs / self.num_features)
        tokens = torch.arange(num_tokens, dtype=torch.float32, device=device)
        angles = tokens[:, None] * frequencies
        if self.angle_precision == "float16":
            angles = angles.half().float()
        sine = angles.sin()
        return angles.cos().repeat_interleave(2, -1), torch.stack([-sine, sine], -1).flatten(-2)
