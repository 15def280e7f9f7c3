import pytest
import torch
import torch.nn.functional as F

from frametx.nn.multichannel_linear import MultichannelLinear


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
