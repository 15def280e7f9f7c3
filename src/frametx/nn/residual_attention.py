"""Attention that starts from the scores of the layer before it, and hands its own on."""

import torch
from jaxtyping import Float
from torch import Tensor


def residual_attention(
    q: Float[Tensor, "*batch N D"],
    k: Float[Tensor, "*batch M D"],
    v: Float[Tensor, "*batch M D"],
    *,
    scale: float,
    scores: Float[Tensor, "*batch N M"] | None,
) -> tuple[Float[Tensor, "*batch N D"], Float[Tensor, "*batch N M"]]:
    """Softmax attention over `scores + scale * q k^T`; returns what it attended to, and that sum.

    The scores are written to memory (N x M for every head), because the gates of a decoder read
    them; sum, product and scale are one kernel.

    Args:
        q: queries, one per token.
        k: keys, one per token attended to.
        v: values, likewise.
        scale: factor of the products; the scores that come in are scaled already.
        scores: of the layer before, or None where the chain starts.

    Source: He et al., "RealFormer: Transformer Likes Residual Attention", 2021.
    """
    batch = q.shape[:-2]
    q, k, v = (x.flatten(0, -3) for x in (q, k, v))
    if scores is None:
        start, keep = q.new_empty(1, 1, 1), 0  # with beta = 0 the start is not read
    else:
        start, keep = scores.flatten(0, -3), 1
    total = torch.baddbmm(start, q, k.mT, beta=keep, alpha=scale)
    attended = torch.bmm(total.softmax(-1), v)
    return attended.unflatten(0, batch), total.unflatten(0, batch)
