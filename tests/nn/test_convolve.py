from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frametx.nn.convolve import convolve, convolve_twice
from frametx.nn.squared_relu import squared_relu

# maps that come, stand between and go; kernel; stride of the second
SHAPES = [
    (3, 5, 2, 3, (1, 1)),
    (20, 40, 20, 3, (1, 1)),
    (3, 3, 5, 5, (2, 1)),
    (3, 4, 1, 3, (1, 1)),
    (3, 1, 4, 3, (1, 1)),
    (4, 6, 3, 1, (1, 1)),
]


def pair(shape: tuple[int, int, int, int, tuple[int, int]]) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    incoming, between, outgoing, kernel, stride = shape
    conv = partial(nn.Conv2d, kernel_size=kernel, padding=kernel // 2)
    return conv(incoming, between, bias=False), conv(between, outgoing, stride=stride)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_layers_one_after_the_other(
    shape: tuple[int, int, int, int, tuple[int, int]],
) -> None:
    first, second = pair(shape)
    x = torch.randn(2, shape[0], 7, 32, requires_grad=True)
    results: list[tuple[Tensor, ...]] = []
    wanted = [x, *first.parameters(), *second.parameters()]
    for y in (
        second(squared_relu(first(x))),
        convolve_twice(x, first, squared_relu, second),
        convolve(squared_relu(convolve(x, first)), second),
    ):
        assert y.is_contiguous()
        results.append((y, *torch.autograd.grad(y.square().mean(), wanted)))
    for ours in results[1:]:
        for value, expected in zip(ours, results[0], strict=True):
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)


def test_an_activation_in_place_between_two_convolutions_changes_no_gradient() -> None:
    first, second = pair(SHAPES[0])
    x = torch.randn(2, 3, 7, 32)
    gradients = [
        torch.autograd.grad(
            convolve_twice(x, first, partial(F.leaky_relu, inplace=inplace), second).sum(),
            list(first.parameters()),
        )
        for inplace in (False, True)
    ]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_gradient_leaves_in_the_layout_in_which_the_input_came() -> None:
    x = torch.randn(2, 3, 7, 32, requires_grad=True)
    came = x * 1
    layouts: list[bool] = []
    came.register_hook(lambda gradient: layouts.append(gradient.is_contiguous()))
    first, second = pair(SHAPES[0])
    convolve_twice(came, first, F.relu, second).sum().backward()
    assert layouts == [True]


def test_a_kernel_given_replaces_the_layers_own() -> None:
    first, _ = pair(SHAPES[0])
    x = torch.randn(2, 3, 7, 32)
    torch.testing.assert_close(convolve(x, first, weight=2 * first.weight), 2 * convolve(x, first))
