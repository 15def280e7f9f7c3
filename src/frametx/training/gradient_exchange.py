"""How several devices come to one gradient: inside the backward pass, or after it."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import Tensor, nn

BUCKET_NUMBERS = 2**23  # of gradients that are exchanged at once: 32 MiB in 32 bits


def exchange_in_backward(strategy: Strategy, *, enabled: bool) -> AbstractContextManager[Any]:
    """Let the backward passes inside exchange gradients as they go, or keep them to each device.

    Enabled in the last micro-batch of a step only, it costs least. It wants one player, all of
    whose parameters take part in that backward pass.
    """
    if enabled or not isinstance(strategy, ParallelStrategy):
        return nullcontext()
    return strategy.block_backward_sync()


def average_gradients(parameters: Iterable[nn.Parameter], strategy: Strategy) -> None:
    """Replace every gradient by its mean over all devices, after backward passes without exchange.

    For several players, each with parameters of its own: which take part in a backward pass does
    not matter here. A parameter without a gradient on any device keeps none.
    """
    if not isinstance(strategy, ParallelStrategy) or strategy.world_size == 1:
        return
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    if not learning:
        return
    has = torch.tensor([p.grad is not None for p in learning], dtype=torch.float32)
    # asked of all, because one that lacks a gradient here may have one elsewhere
    has = cast(Tensor, strategy.reduce(has.to(learning[0].device), reduce_op="sum"))
    taking_part = [p for p, count in zip(learning, has.tolist(), strict=True) if count]
    for bucket in _buckets(taking_part):
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        mean = cast(Tensor, strategy.reduce(flat, reduce_op="mean"))
        parts = mean.split([gradient.numel() for gradient in gradients])
        for parameter, gradient, part in zip(bucket, gradients, parts, strict=True):
            parameter.grad = gradient.copy_(part.view_as(gradient))


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters of one type on one device, not too large."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        is_alike = not bucket or (bucket[0].dtype, bucket[0].device) == (
            parameter.dtype,
            parameter.device,
        )
        if bucket and (not is_alike or size + parameter.numel() > BUCKET_NUMBERS):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
