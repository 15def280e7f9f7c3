import pytest
import torch
from torch import Tensor, nn

from frametx.nn.block import Block, recompute_blocks


class Outer(Block):
    """Two blocks in a block, with dropout; counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.dropout = nn.Dropout(0.5)
        self.num_runs = 0

    def forward(self, x: Tensor, *, factor: float) -> Tensor:
        self.num_runs += 1
        return self.dropout(self.inner(x)) * factor


class Inner(Block):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).exp()


def gradient(block: Outer) -> Tensor:
    torch.manual_seed(0)
    block.zero_grad()
    block(torch.linspace(0, 1, 8).view(2, 4), factor=3.0).square().sum().backward()
    assert block.inner.linear.weight.grad is not None
    return block.inner.linear.weight.grad.clone()


def test_a_block_that_runs_again_has_the_same_gradient_dropout_included() -> None:
    block = Outer()
    kept = gradient(block)
    recompute_blocks(block)
    assert torch.equal(gradient(block), kept)
    assert block.num_runs == 3


def test_only_the_outermost_blocks_run_again_and_they_can_be_told_to_stop() -> None:
    network = nn.Sequential(Outer())
    recompute_blocks(network)
    outer = network[0]
    assert isinstance(outer, Outer)
    assert outer.recomputes
    assert not outer.inner.recomputes
    recompute_blocks(network, recomputes=False)
    assert not outer.recomputes


def test_without_gradients_a_block_runs_once() -> None:
    block = Outer()
    recompute_blocks(block)
    with torch.no_grad():
        block(torch.zeros(1, 4), factor=1.0)
    assert block.num_runs == 1


def test_a_network_without_blocks_cannot_save_memory_so() -> None:
    with pytest.raises(ValueError, match="Linear has no blocks"):
        recompute_blocks(nn.Linear(2, 2))
