"""Softmax attention that never holds all scores: a block of queries at a time, on any device.

    queries   [block 0]  -> scores of block 0 with all keys -> softmax -> times the values
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

_BLOCK_SCORES = 1 << 22  # in one block, over all heads: 16 MB in float32


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
        for block in _blocks(q, k):
            scores = torch.bmm(q[:, block], k.mT)
            peak = scores.amax(-1, keepdim=True)
            weights = scores.sub_(peak).exp_()
            total = weights.sum(-1, keepdim=True)
            out[:, block] = torch.bmm(weights, v).div_(total)
            log_sums[:, block] = total.log_().add_(peak)
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
        for block in _blocks(q, k):
            weights = torch.baddbmm(log_sums[:, block], q[:, block], k.mT, beta=-1).exp_()
            grad_v.baddbmm_(weights.mT, grad[:, block])
            grad_scores = torch.baddbmm(mean[:, block], grad[:, block], v.mT, beta=-1)
            grad_scores.mul_(weights)
            grad_q[:, block] = torch.bmm(grad_scores, k)
            grad_k.baddbmm_(grad_scores.mT, q[:, block])
        return grad_q, grad_k, grad_v


def _blocks(q: Tensor, k: Tensor) -> list[slice]:
    """Queries that are looked at together: from 256 fewer only where scores would be many."""
    rows = min(max(_BLOCK_SCORES // (len(k) * k.shape[1]), 32), 256)
    return [slice(start, start + rows) for start in range(0, q.shape[1], rows)]
