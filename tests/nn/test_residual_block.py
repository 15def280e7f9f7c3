import pytest
import torch
import torch.nn.functional as F

from frametx.nn.frame_decoder import FrameDecoder
from frametx.nn.residual_block import ResBlock
from frametx.nn.squared_relu import squared_relu


def plainly(block: ResBlock, x: torch.Tensor) -> torch.Tensor:
    """Norm, two convolutions and a strided 1x1 convolution, as torch has them."""
    padding = block.conv_in.kernel_size[0] // 2
    branch = F.conv2d(block.norm(x), block.conv_in.weight, padding=padding)
    weight, stride = block.conv_out.weight, block.stride
    branch = F.conv2d(squared_relu(branch), weight, stride=stride, padding=padding)
    if isinstance(block.shortcut, torch.nn.Identity):
        return x + branch
    return F.conv2d(x, block.shortcut.weight[:, :, None, None], stride=stride) + branch


@pytest.mark.parametrize("num_frames", [1, 5])
@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "kernel_size"),
    [(3, 1, 11), (1, 1, 5), (4, 6, 3), (20, 4, 3), (3, 1, 1)],
)
def test_it_is_two_convolutions_beside_a_shortcut(
    in_channels: int, out_channels: int, kernel_size: int, stride: tuple[int, int], num_frames: int
) -> None:
    block = ResBlock(
        in_channels=in_channels,
        out_channels=out_channels,
        num_features=32,
        kernel_size=kernel_size,
        stride=stride,
    ).double()
    x = torch.randn(2, in_channels, num_frames, 32, dtype=torch.float64)
    torch.testing.assert_close(block(x), plainly(block, x))


def test_dropout_spares_the_shortcut() -> None:
    block = ResBlock(in_channels=2, out_channels=2, num_features=8, dropout=0.999_999)
    x = torch.randn(1, 2, 3, 8)
    torch.testing.assert_close(block.train()(x), x)
    assert not torch.allclose(block.eval()(x), x)


@pytest.mark.parametrize("num_frames", [1, 5])
@pytest.mark.parametrize("num_features", [2, 16])
def test_the_decoder_doubles_the_features_from_the_first_to_the_last(
    num_frames: int, num_features: int
) -> None:
    body = ResBlock(in_channels=5, out_channels=4, num_features=num_features)
    decoder = FrameDecoder(body=body).double()
    x = torch.randn(2, 3, num_frames, num_features // 2, dtype=torch.float64)
    skip = torch.randn(2, 2, num_frames, num_features, dtype=torch.float64)
    larger = F.interpolate(x, size=(num_frames, num_features), mode="bilinear", align_corners=True)
    torch.testing.assert_close(decoder(x, skip), decoder.body(torch.cat([larger, skip], 1)))
    torch.testing.assert_close(larger[..., [0, -1]], x[..., [0, -1]])


def test_the_encoders_maps_stand_behind_those_from_below_or_before_them() -> None:
    x, skip = torch.randn(2, 3, 5, 4), torch.randn(2, 2, 10, 8)
    larger = F.interpolate(x, size=(10, 8), mode="bilinear", align_corners=True)
    body = torch.nn.Identity()
    assert torch.equal(FrameDecoder(body=body)(x, skip), torch.cat([larger, skip], 1))
    assert torch.equal(
        FrameDecoder(body=body, skip_first=True)(x, skip), torch.cat([skip, larger], 1)
    )


def test_half_precision_interpolation_costs_some_precision_and_no_more() -> None:
    x, skip = torch.rand(2, 3, 5, 4), torch.zeros(2, 0, 5, 8)
    body = torch.nn.Identity()
    exact = FrameDecoder(body=body)(x, skip)
    rounded = FrameDecoder(body=body, rounds_interpolation=True)(x, skip)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.01, rtol=0)
