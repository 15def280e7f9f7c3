import pytest
import torch
import torch.nn.functional as F

from frametx.nn.temporal_conv import temporal_conv


@pytest.mark.parametrize("num_frames", [1, 2, 9])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_it_is_a_convolution_over_frames_for_every_projection(
    num_frames: int, kernel_size: int
) -> None:
    x = torch.randn(2, 3, 4, num_frames, 6)
    taps, bias = torch.randn(3, 5, 4, kernel_size), torch.randn(3, 5)
    ours = temporal_conv(x, taps, bias)
    for p in range(3):
        weight, padding = taps[p].unsqueeze(-1), (kernel_size // 2, 0)
        expected = F.conv2d(x[:, p], weight, bias[p], padding=padding)
        torch.testing.assert_close(ours[:, p], expected)


@pytest.mark.parametrize("num_frames", [1, 4])
def test_its_gradients_are_those_of_finite_differences(num_frames: int) -> None:
    shapes = [(2, 2, 3, num_frames, 2), (2, 2, 3, 3), (2, 2)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(temporal_conv, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_keeps_the_precision_of_its_input(dtype: torch.dtype) -> None:
    x, taps, bias = torch.randn(2, 3, 1, 5, 4), torch.randn(3, 1, 1, 3), torch.randn(3, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = temporal_conv(x.to(dtype), taps, bias)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), temporal_conv(x, taps, bias), atol=0.1, rtol=0.05)
