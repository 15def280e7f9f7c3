"""Functions with a gradient written by hand can be differentiated twice, by finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from frametx.nn import blocked_attention as attention
from frametx.nn import recomputed_feed_forward as feed_forward
from frametx.nn.blocked_attention import blocked_attention, blocked_residual_attention
from frametx.nn.multichannel_linear import linear_per_channel
from frametx.nn.recomputed_feed_forward import recomputed_feed_forward
from frametx.nn.second_derivative import plain_gradients
from frametx.nn.squared_relu import squared_relu
from frametx.nn.temporal_conv import temporal_conv

FUNCTIONS: dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], list[tuple[int, ...]]]] = {
    "temporal convolution": (temporal_conv, [(1, 2, 1, 3, 2), (2, 2, 1, 3), (2, 2)]),
    "temporal convolution longer than the input": (
        temporal_conv,
        [(1, 1, 1, 2, 2), (1, 1, 1, 7), (1, 1)],
    ),
    "attention": (blocked_attention, [(2, 4, 2), (2, 3, 2), (2, 3, 1)]),
    "attention of a chain": (
        blocked_residual_attention,
        [(2, 4, 2), (2, 3, 2), (2, 3, 1), (2, 4, 3)],
    ),
    "the start of a chain": (
        lambda q, k, v: blocked_residual_attention(q, k, v, None),
        [(2, 4, 2), (2, 3, 2), (2, 3, 1)],
    ),
    "feed-forward": (
        lambda x, expand, contract: recomputed_feed_forward(x, expand, contract, torch.tanh),
        [(2, 3, 2), (2, 4, 2), (2, 3, 4)],
    ),
    "linear layer per map": (linear_per_channel, [(1, 2, 3, 2), (2, 3, 2)]),
    "squared rectifier": (squared_relu, [(3, 4)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives_are_those_of_finite_differences(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_BLOCK_QUERIES", 3)
    monkeypatch.setattr(attention, "_BLOCK_SCORES", 20)
    monkeypatch.setattr(feed_forward, "_CPU_BLOCK_NUMBERS", 8)
    function, shapes = FUNCTIONS[name]
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_the_second_derivative_of_a_chain_whose_queries_are_made_of_its_scores() -> None:
    """As in a network: the scores reach a layer directly and through what it attends from."""

    def two_layers(x: Tensor) -> Tensor:
        out, scores = blocked_residual_attention(x, x, x, None)
        return blocked_residual_attention(out + x, out, x, scores)[0]

    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(two_layers, (x,))


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    x, fixed = torch.randn(3, requires_grad=True), torch.randn(3)
    grads = plain_gradients(lambda a, b, c: (a * b,), (x, fixed, None), [torch.ones(3)])
    assert grads[1:] == (None, None)
    assert grads[0] is not None
    torch.testing.assert_close(grads[0], fixed)
