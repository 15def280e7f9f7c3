"""What a network is made of, and may run twice to save memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    """A part of a network, large enough that running it again costs less than keeping its insides.

    Attributes:
        recomputes: keep only what comes in and goes out for the backward pass, and run the block
            again there. The numbers are the same, dropout included.
    """

    recomputes = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As any module, or kept small for the backward pass."""
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False, **kwargs)
        return super().__call__(*args, **kwargs)


def recompute_blocks(network: nn.Module, *, recomputes: bool = True) -> None:
    """Let the outermost blocks of a network run again in the backward pass, or no longer.

    Raises:
        ValueError: if the network has no blocks.
    """
    blocks = list(_outermost_blocks(network))
    if recomputes and not blocks:
        raise ValueError(f"{type(network).__name__} has no blocks that could be run again")
    for block in blocks:
        block.recomputes = recomputes


def _outermost_blocks(part: nn.Module) -> Iterator[Block]:
    if isinstance(part, Block):
        yield part
        return
    for child in part.children():
        yield from _outermost_blocks(child)
