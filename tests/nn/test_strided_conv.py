import pytest
import torch

from frametx.nn.strided_conv import DoublingConv, HalvingConv


@torch.no_grad()
@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5])
def test_halving_and_doubling_are_each_others_transpose(kernel_size: int) -> None:
    halve = HalvingConv(in_channels=2, out_channels=3, kernel_size=kernel_size).double()
    double = DoublingConv(in_channels=3, out_channels=2, kernel_size=kernel_size).double()
    assert halve.conv.bias is not None
    assert double.conv.bias is not None
    halve.conv.bias.zero_()
    double.conv.bias.zero_()
    double.conv.weight.copy_(halve.conv.weight)
    x, y = torch.randn(1, 2, 8, 12).double(), torch.randn(1, 3, 4, 6).double()
    assert halve(x).shape == y.shape
    assert double(y).shape == x.shape
    torch.testing.assert_close((halve(x) * y).sum(), (x * double(y)).sum())


@torch.no_grad()
def test_the_odd_zero_lies_at_the_end() -> None:
    halve = HalvingConv(in_channels=1, out_channels=1, kernel_size=5)
    assert halve.conv.bias is not None
    halve.conv.bias.zero_()
    halve.conv.weight.zero_()
    halve.conv.weight[0, 0, 1, 1] = 1.0  # the tap that reads the bin an output starts at
    x = torch.rand(1, 1, 6, 6)
    assert torch.equal(halve(x), x[..., ::2, ::2])


def test_a_kernel_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel_size \(1\) must be at least"):
        HalvingConv(in_channels=1, out_channels=1, kernel_size=1)
