from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from frametx.nn import recomputed_feed_forward as module
from frametx.nn.feed_forward import LinearFeedForward
from frametx.nn.recomputed_feed_forward import recomputed_feed_forward
from frametx.nn.squared_relu import squared_relu


@pytest.mark.parametrize(
    "numbers", [1, 20, 36, 80, 10_000], ids=lambda numbers: f"{numbers} numbers in a block"
)
@pytest.mark.parametrize("activation", [F.leaky_relu, squared_relu])
def test_in_blocks_of_any_size_it_is_the_two_layers_with_their_gradients(
    activation: Callable[[torch.Tensor], torch.Tensor],
    numbers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CPU_BLOCK_NUMBERS", numbers)
    torch.manual_seed(0)
    x, expand, contract = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 7, 3), (5, 4, 3), (5, 2, 4))
    )
    weight = torch.randn(5, 7, 2, dtype=torch.float64)
    expected = activation(x @ expand.mT) @ contract.mT
    ours = recomputed_feed_forward(x, expand, contract, activation)
    torch.testing.assert_close(ours, expected)
    for mine, other in zip(
        torch.autograd.grad((weight * ours).sum(), (x, expand, contract)),
        torch.autograd.grad((weight * expected).sum(), (x, expand, contract)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("out_channels", [None, 2])
def test_a_layer_that_keeps_nothing_gives_what_one_that_keeps_all_gives(
    out_channels: int | None,
) -> None:
    kept, again = (
        LinearFeedForward(
            num_channels=3,
            num_features=4,
            hidden_features=10,
            out_channels=out_channels,
            activation=F.leaky_relu,
            keeps_hidden=keeps_hidden,
        )
        for keeps_hidden in (True, False)
    )
    again.load_state_dict(kept.state_dict())
    x = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(again(x), kept(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = again(x)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), kept(x), atol=0.05, rtol=0.05)
    rough.float().square().sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())
