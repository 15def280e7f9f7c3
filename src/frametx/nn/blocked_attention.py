"""Softmax attention a block at a time, so that what is between its products stays in the cache.

    queries of a few heads   [block 0]  -> scores with all keys -> softmax -> times the values
                             [block 1]  -> ...

Neither form keeps the softmax: backward makes it again, from the scores where they were written
down anyway, else from queries and keys. On a CPU this is faster than whole matrices in both
directions. Unlike torch's fused kernel there, it wants neither values as wide as the queries nor
more time for wide queries than the product takes.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.nn.second_derivative import plain_gradients

_BLOCK_QUERIES = 256  # fewer make the products slower
_BLOCK_SCORES = 1 << 20  # of a few heads at once: 4 MB in float32, which a processor's cache holds


def blocked_attention(
    q: Float[Tensor, "N T D"], k: Float[Tensor, "N M D"], v: Float[Tensor, "N M D_v"]
) -> Float[Tensor, "N T D_v"]:
    """Values weighted by the softmax of `q k^T`, whose scores are never all there.

    Args:
        q: queries of N heads, scaled already, in float32 or float64.
        k: keys, as wide as the queries.
        v: values, of any width.
    """
    return _Unwritten.apply(q, k, v)


def blocked_residual_attention(
    q: Float[Tensor, "N T D"],
    k: Float[Tensor, "N M D"],
    v: Float[Tensor, "N M D_v"],
    scores: Float[Tensor, "N T M"] | None,
) -> tuple[Float[Tensor, "N T D_v"], Float[Tensor, "N T M"]]:
    """Values weighted by the softmax of `scores + q k^T`, and that sum, written down.

    Args:
        q: queries of N heads, scaled already, in float32 or float64.
        k: keys, as wide as the queries.
        v: values, of any width.
        scores: of the layers before, if there are any.
    """
    return _Written.apply(q, k, v, scores)


class _Unwritten(torch.autograd.Function):
    """Keeps queries, keys, values, the result, and one number per query: the log of its sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:2], v.shape[-1])
        log_sums = q.new_empty(*q.shape[:2], 1)
        for heads, here in _blocks(q, k):
            scores = torch.bmm(q[here], k[heads].mT)
            peak = scores.amax(-1, keepdim=True)
            weights = scores.sub_(peak).exp_()
            total = weights.sum(-1, keepdim=True)
            out[here] = torch.bmm(weights, v[heads]).div_(total)
            log_sums[here] = total.log_().add_(peak)
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sums = ctx.saved_tensors
        if torch.is_grad_enabled():
            return plain_gradients(lambda q, k, v: _whole(q, k, v, None)[:1], (q, k, v), grads)
        grad = grads[0].contiguous()
        mean = (grad * out).sum(-1, keepdim=True)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for heads, here in _blocks(q, k):
            weights = torch.baddbmm(log_sums[here], q[here], k[heads].mT, beta=-1).exp_()
            grad_v[heads].baddbmm_(weights.mT, grad[here])
            grad_scores = torch.baddbmm(mean[here], grad[here], v[heads].mT, beta=-1)
            grad_scores.mul_(weights)
            grad_q[here] = torch.bmm(grad_scores, k[heads])
            grad_k[heads].baddbmm_(grad_scores.mT, q[here])
        return grad_q, grad_k, grad_v


class _Written(torch.autograd.Function):
    """Keeps queries, keys, values, the result and the scores."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scores: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        out = q.new_empty(*q.shape[:2], v.shape[-1])
        total = q.new_empty(*q.shape[:2], k.shape[1])
        for heads, here in _blocks(q, k):
            block = total[here]
            if scores is None:
                torch.bmm(q[here], k[heads].mT, out=block)
            else:
                torch.baddbmm(scores[here], q[here], k[heads].mT, out=block)
            torch.bmm(block.softmax(-1), v[heads], out=out[here])
        ctx.save_for_backward(q, k, v, out, total)
        ctx.has_scores = scores is not None
        ctx.set_materialize_grads(False)
        return out, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, out, total = ctx.saved_tensors
        if torch.is_grad_enabled():
            # The scores that came in are not kept: they are what the products leave of the sum.
            before = total - torch.bmm(q, k.mT) if ctx.has_scores else None
            return plain_gradients(_whole, (q, k, v, before), grads)
        grad, grad_total = grads
        grad = torch.zeros_like(out) if grad is None else grad.contiguous()
        mean = (grad * out).sum(-1, keepdim=True)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        grad_before = torch.empty_like(total) if ctx.needs_input_grad[3] else None
        for heads, here in _blocks(q, k):
            weights = total[here].softmax(-1)
            grad_v[heads].baddbmm_(weights.mT, grad[here])
            grad_scores = torch.baddbmm(mean[here], grad[here], v[heads].mT, beta=-1)
            grad_scores.mul_(weights)
            if grad_total is not None:
                grad_scores.add_(grad_total[here])
            grad_q[here] = torch.bmm(grad_scores, k[heads])
            grad_k[heads].baddbmm_(grad_scores.mT, q[here])
            if grad_before is not None:
                grad_before[here] = grad_scores
        return grad_q, grad_k, grad_v, grad_before


def _whole(
    q: Float[Tensor, "N T D"],
    k: Float[Tensor, "N M D"],
    v: Float[Tensor, "N M D_v"],
    scores: Float[Tensor, "N T M"] | None,
) -> tuple[Float[Tensor, "N T D_v"], Float[Tensor, "N T M"]]:
    """The same attention, with everything written down."""
    product = torch.bmm(q, k.mT)
    total = product if scores is None else scores + product
    return torch.bmm(total.softmax(-1), v), total


def _blocks(q: Tensor, k: Tensor) -> list[tuple[slice, tuple[slice, slice]]]:
    """Heads that are looked at together, and with them their queries."""
    rows = min(_BLOCK_QUERIES, q.shape[1])
    heads = max(1, _BLOCK_SCORES // (rows * k.shape[1]))
    return [
        (slice(head, head + heads), (slice(head, head + heads), slice(row, row + rows)))
        for head in range(0, len(q), heads)
        for row in range(0, q.shape[1], rows)
    ]
