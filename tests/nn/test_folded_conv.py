"""Folding bins into channels must not change a single sum."""

import pytest
import torch
import torch.nn.functional as F

from frametx.nn.folded_conv import can_fold, depthwise_conv2d, folded_conv2d

KERNELS = [(1, 1), (3, 3), (5, 9), (11, 11), (3, 33)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (3, 1), (2, 4)])
def test_folding_equals_the_convolution(
    kernel: tuple[int, int], in_channels: int, out_channels: int
) -> None:
    x = torch.randn(2, in_channels, 7, 48, dtype=torch.float64)
    weight = torch.randn(out_channels, in_channels, *kernel, dtype=torch.float64)
    bias = torch.randn(out_channels, dtype=torch.float64)
    padding = (kernel[0] // 2, kernel[1] // 2)
    torch.testing.assert_close(
        folded_conv2d(x, weight, bias), F.conv2d(x, weight, bias, padding=padding)
    )


@pytest.mark.parametrize("num_features", [16, 32, 24, 5])
@pytest.mark.parametrize("num_channels", [1, 2, 5])
def test_depthwise_equals_the_grouped_convolution(num_features: int, num_channels: int) -> None:
    x = torch.randn(2, num_channels, 6, num_features, dtype=torch.float64)
    weight = torch.randn(num_channels, 1, 5, 3, dtype=torch.float64)
    bias = torch.randn(num_channels, dtype=torch.float64)
    expected = F.conv2d(x, weight, bias, padding=(2, 1), groups=num_channels)
    torch.testing.assert_close(depthwise_conv2d(x, weight, bias), expected)


@pytest.mark.parametrize("num_features", [32, 5])
def test_several_kernels_of_a_map_equal_a_convolution_of_the_repeated_maps(
    num_features: int,
) -> None:
    x = torch.randn(2, 3, 6, num_features, dtype=torch.float64)
    weight = torch.randn(6, 1, 5, 3, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    expected = F.conv2d(x.repeat(1, 2, 1, 1), weight, bias, padding=(2, 1), groups=6)
    torch.testing.assert_close(depthwise_conv2d(x, weight, bias), expected)


def test_its_gradients_are_those_of_the_convolution() -> None:
    inputs = (torch.randn(2, 2, 5, 32), torch.randn(2, 1, 3, 5), torch.randn(2))
    inputs = tuple(x.double().requires_grad_() for x in inputs)
    x, weight, bias = inputs
    upstream = torch.randn(2, 2, 5, 32, dtype=torch.float64)
    ours = torch.autograd.grad(depthwise_conv2d(x, weight, bias), inputs, upstream)
    plain = F.conv2d(x, weight, bias, padding=(1, 2), groups=2)
    for gradient, expected in zip(ours, torch.autograd.grad(plain, inputs, upstream), strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("num_features", "width", "foldable"), [(32, 3, True), (24, 3, False)])
def test_only_whole_blocks_are_folded(num_features: int, width: int, foldable: bool) -> None:
    assert can_fold(torch.zeros(1, 1, 2, num_features), torch.zeros(1, 1, 3, width)) is foldable


def test_a_kernel_wider_than_the_neighbouring_blocks_is_not_folded() -> None:
    assert not can_fold(torch.zeros(1, 1, 2, 64), torch.zeros(1, 1, 3, 35))
