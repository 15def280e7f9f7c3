"""Softmax attention that never holds all scores: a block at a time, on any device.

    queries of a few heads   [block 0]  -> scores with all keys -> softmax -> times the values
                             [block 1]  -> ...

Backward makes every block's scores again from queries and keys. On a CPU this is faster than
writing all scores to memory from some 512 tokens on, and, unlike torch's fused kernel there, it
wants neither values as wide as the queries nor more time for wide queries than the product takes.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK_QUERIES = 256  # fewer make the products slower
_BLOCK_SCORES = 1 << 20  # of a few heads at once: 4 MB in float32, which a processor's cache holds


def blocked_attention(
    q: Float[Tensor, "N T D"], k: Float[Tensor, "N M D"], v: Float[Tensor, "N M D_v"]
) -> Float[Tensor, "N T D_v"]:
    """Values weighted by the softmax of `q k^T`, for N independent heads in float32 or float64.

    Args:
        q: queries, scaled already.
        k: keys, as wide as the queries.
        v: values, of any width.
    """
    return _BlockedAttention.apply(q, k, v)


class _BlockedAttention(torch.autograd.Function):
    """Keeps queries, keys, values, the result, and one number per query: the log of its sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:2], v.shape[-1])
        log_sums = q.new_empty(*q.shape[:2], 1)
        for heads, block in _blocks(q, k):
            scores = torch.bmm(q[heads, block], k[heads].mT)
            peak = scores.amax(-1, keepdim=True)
            weights = scores.sub_(peak).exp_()
            total = weights.sum(-1, keepdim=True)
            out[heads, block] = torch.bmm(weights, v[heads]).div_(total)
            log_sums[heads, block] = total.log_().add_(peak)
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] -- the decorator hides it
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, log_sums = ctx.saved_tensors
        grad = grads[0].contiguous()
        mean = (grad * out).sum(-1, keepdim=True)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for heads, block in _blocks(q, k):
            here, keys = (heads, block), k[heads]
            weights = torch.baddbmm(log_sums[here], q[here], keys.mT, beta=-1).exp_()
            grad_v[heads].baddbmm_(weights.mT, grad[here])
            grad_scores = torch.baddbmm(mean[here], grad[here], v[heads].mT, beta=-1)
            grad_scores.mul_(weights)
            grad_q[here] = torch.bmm(grad_scores, keys)
            grad_k[heads].baddbmm_(grad_scores.mT, q[here])
        return grad_q, grad_k, grad_v


def _blocks(q: Tensor, k: Tensor) -> list[tuple[slice, slice]]:
    """Heads and queries that are looked at together."""
    rows = min(_BLOCK_QUERIES, q.shape[1])
    heads = max(1, _BLOCK_SCORES // (rows * k.shape[1]))
    return [
        (slice(head, head + heads), slice(row, row + rows))
        for head in range(0, len(q), heads)
        for row in range(0, q.shape[1], rows)
    ]
