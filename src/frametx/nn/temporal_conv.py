"""A short convolution over frames that mixes a few maps.

Convolution kernels pad one or two maps to sixteen. Here every tap is a small matrix between maps,
multiplied with the frames as they lie in memory: with the features last, a shift by one frame is a
shift by F numbers, so no shifted copy is made, in neither direction.

    y[o, n] = bias[o] + sum over c, k of taps[o, c, k] x[c, n + (k - K // 2) F]    n counts T x F
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from frametx.nn.second_derivative import plain_gradients


def temporal_conv(
    x: Float[Tensor, "B P C T F"],
    taps: Float[Tensor, "P C_out C K"],
    bias: Float[Tensor, "P C_out"] | None = None,
) -> Float[Tensor, "B P C_out T F"]:
    """Convolve each of P stacks of maps over time with its own kernel, same length out.

    Args:
        x: the stacks, side by side.
        taps: kernels of odd length K.
        bias: added to every frame and feature, if there is one.
    """
    if torch.compiler.is_exporting():
        return _grouped_conv(x, taps, bias)
    num_batch, num_projections, _, num_frames, num_features = x.shape
    # one batch of matrix products over batch and stacks; autograd sums the repeats up again
    matrices = taps.to(x.dtype).expand(num_batch, -1, -1, -1, -1).flatten(0, 1)
    if bias is None:
        bias = taps.new_zeros(taps.shape[:2])
    offset = bias.to(x.dtype).expand(num_batch, -1, -1).flatten(0, 1).unsqueeze(-1)
    with torch.autocast(x.device.type, enabled=False):  # all three have the precision of x
        y = _ShiftedProducts.apply(x.flatten(0, 1).flatten(2), matrices, offset, num_features)
    return y.view(num_batch, num_projections, -1, num_frames, num_features)


def _grouped_conv(
    x: Float[Tensor, "B P C T F"],
    taps: Float[Tensor, "P C_out C K"],
    bias: Float[Tensor, "P C_out"] | None,
) -> Float[Tensor, "B P C_out T F"]:
    """The same sum as one convolution: a graph for other programs holds no writes in place."""
    y = F.conv2d(
        x.flatten(1, 2),
        taps.flatten(0, 1).unsqueeze(-1),
        None if bias is None else bias.flatten(),
        padding=(taps.shape[-1] // 2, 0),
        groups=x.shape[1],
    )
    return y.unflatten(1, (x.shape[1], -1))


class _ShiftedProducts(torch.autograd.Function):
    """Sum of matrix products with shifted views, and its derivative, which is of the same kind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrices: Tensor, offset: Tensor, step: int) -> Tensor:
        ctx.save_for_backward(x, matrices)
        ctx.step = step
        centre = matrices.shape[-1] // 2
        y = offset.expand(-1, -1, x.shape[-1]).clone()
        _add_product(y, matrices[..., centre], x)
        for k, (to, source) in _shifts(matrices.shape[-1], step, x.shape[-1]):
            _add_product(y[..., to], matrices[..., k], x[..., source])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, matrices = ctx.saved_tensors
        if torch.is_grad_enabled():
            # the offset is only added, so its gradient does not depend on it
            offset = grads[0].new_zeros(*matrices.shape[:2], 1).requires_grad_()
            plain = partial(_padded_products, step=ctx.step)
            return *plain_gradients(plain, (x, matrices, offset), grads), None
        grad = grads[0].contiguous()
        centre = matrices.shape[-1] // 2
        grad_x = torch.zeros_like(x)
        _add_product(grad_x, matrices[..., centre].mT, grad)
        grad_matrices = torch.zeros_like(matrices)
        grad_matrices[..., centre] = torch.bmm(grad, x.mT)
        for k, (to, source) in _shifts(matrices.shape[-1], ctx.step, x.shape[-1]):
            _add_product(grad_x[..., source], matrices[..., k].mT, grad[..., to])
            grad_matrices[..., k] = torch.bmm(grad[..., to], x[..., source].mT)
        return grad_x, grad_matrices, grad.sum(-1, keepdim=True), None


def _padded_products(
    x: Float[Tensor, "N C L"],
    matrices: Float[Tensor, "N O C K"],
    offset: Float[Tensor, "N O 1"],
    *,
    step: int,
) -> tuple[Float[Tensor, "N O L"]]:
    """The same sum, of shifted copies."""
    num_taps, length = matrices.shape[-1], x.shape[-1]
    padded = F.pad(x, (num_taps // 2 * step, num_taps // 2 * step))
    products = [
        torch.bmm(matrices[..., k], padded[..., k * step : k * step + length])
        for k in range(num_taps)
    ]
    return (torch.stack(products).sum(0) + offset,)


def _add_product(
    out: Float[Tensor, "N O L"], matrix: Float[Tensor, "N O C"], x: Float[Tensor, "N C L"]
) -> None:
    if matrix.shape[1:] == (1, 1):
        out.addcmul_(matrix, x)  # one pass over all N, where a view's products are N calls
    else:
        out.baddbmm_(matrix, x)


def _shifts(num_taps: int, step: int, length: int) -> list[tuple[int, tuple[slice, slice]]]:
    """For every tap but the centre: where its products go, and where they are read."""
    shifts = []
    for k in range(num_taps):
        by = (k - num_taps // 2) * step
        if 0 < abs(by) < length:
            late, early = slice(abs(by), None), slice(None, length - abs(by))
            shifts.append((k, (early, late) if by > 0 else (late, early)))
    return shifts
