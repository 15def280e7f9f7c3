import pytest
import torch
import torch.nn.functional as F

from frametx.nn.multichannel_linear import MultichannelLinear, linear_per_channel


@pytest.mark.parametrize("num_channels", [1, 3])
def test_every_map_has_its_own_linear_layer(num_channels: int) -> None:
    layer = MultichannelLinear(num_channels=num_channels, in_features=6, out_features=4)
    x = torch.randn(2, num_channels, 5, 6)
    expected = torch.stack([F.linear(x[:, c], layer.weight[c]) for c in range(num_channels)], 1)
    torch.testing.assert_close(layer(x), expected)


def test_without_mixing_one_map_never_reaches_another() -> None:
    layer = MultichannelLinear(num_channels=3, in_features=6, out_features=4)
    x = torch.randn(2, 3, 5, 6)
    changed = x.clone()
    changed[:, 1] += 1
    moved = (layer(changed) - layer(x)).abs().amax((0, 2, 3))
    assert (moved > 0).tolist() == [False, True, False]


def test_another_number_of_maps_mixes_them() -> None:
    layer = MultichannelLinear(num_channels=3, in_features=6, out_features=4, out_channels=2)
    x = torch.randn(2, 3, 5, 6)
    assert layer.mixing is not None
    per_map = torch.einsum("bctf,cof->bcto", x, layer.weight)
    expected = torch.einsum("bcto,dc->bdto", per_map, layer.mixing)
    torch.testing.assert_close(layer(x), expected)


def test_mixing_can_be_asked_for_with_the_same_number_of_maps() -> None:
    layer = MultichannelLinear(num_channels=3, in_features=6, out_features=4, mix_channels=True)
    assert layer.mixing is not None
    with torch.no_grad():
        layer.mixing.copy_(torch.eye(3).roll(1, 0))
    x = torch.randn(2, 3, 5, 6)
    unmixed = MultichannelLinear(num_channels=3, in_features=6, out_features=4)
    unmixed.load_state_dict({"weight": layer.weight})
    torch.testing.assert_close(layer(x), unmixed(x).roll(1, 1))


def test_its_derivatives_are_those_of_finite_differences() -> None:
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear_per_channel, (x, weight))
    assert torch.autograd.gradgradcheck(linear_per_channel, (x, weight))


@pytest.mark.parametrize("num_channels", [1, 3])
def test_autocast_multiplies_in_its_precision_and_keeps_the_gradient_of_the_weights(
    num_channels: int,
) -> None:
    layer = MultichannelLinear(num_channels=num_channels, in_features=6, out_features=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(torch.randn(2, num_channels, 5, 6))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_the_gradient_needs_no_copy_to_lie_as_the_weights() -> None:
    x, weight = torch.randn(2, 3, 5, 6), torch.randn(3, 4, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear_per_channel(x, weight).sum(), weight)
    assert gradient.stride() == weight.stride()
