import pytest
import torch
import torch.nn.functional as F

from frametx.nn.frame_projection import FrameProjection, temporal_conv


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


def test_projections_of_the_same_frames_do_not_see_each_other() -> None:
    project = FrameProjection(num_channels=2, num_features=6, num_projections=3)
    x = torch.randn(2, 2, 7, 6)
    before = project(x)
    with torch.no_grad():
        project.weight[:, 6:12] += 1
        project.taps[1] += 1
    moved = (project(x) - before).abs().amax((0, 2, 3, 4))
    assert (moved > 0).tolist() == [False, True, False]
