import pytest
import torch

from frametx.nn.norm import ChannelNorm, MultichannelLayerNorm


@pytest.mark.parametrize("num_channels", [1, 3])
def test_every_frame_of_every_map_gets_mean_zero_and_variance_one(num_channels: int) -> None:
    norm = MultichannelLayerNorm(num_channels=num_channels, num_features=64)
    y = norm(3 * torch.randn(2, num_channels, 5, 64) + 7)
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, num_channels, 5), atol=1e-5, rtol=0)
    variance = y.var(-1, correction=0)
    torch.testing.assert_close(variance, torch.ones(2, num_channels, 5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_scale_and_shift_belong_to_a_map_and_a_feature(num_channels: int) -> None:
    norm = MultichannelLayerNorm(num_channels=num_channels, num_features=8)
    x = torch.randn(2, num_channels, 5, 8)
    plain = norm(x)
    with torch.no_grad():
        norm.weight.copy_(torch.randn_like(norm.weight))
        norm.bias.copy_(torch.randn_like(norm.bias))
    torch.testing.assert_close(norm(x), plain * norm.weight + norm.bias)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_its_gradients_are_those_of_finite_differences(num_channels: int) -> None:
    norm = MultichannelLayerNorm(num_channels=num_channels, num_features=4).double()
    x = torch.randn(2, num_channels, 3, 4, dtype=torch.float64, requires_grad=True)
    weights = (norm.weight, norm.bias)
    assert torch.autograd.gradcheck(lambda x, *_: norm(x), (x, *weights))


def test_channel_norm_is_the_same_wherever_a_bin_stands() -> None:
    norm = ChannelNorm(num_channels=6)
    x = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(norm(x.roll((1, 2), (2, 3))), norm(x).roll((1, 2), (2, 3)))
    torch.testing.assert_close(norm(x).mean(1), torch.zeros(2, 5, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm(x).var(1, correction=0), torch.ones(2, 5, 4), atol=1e-3, rtol=0)
