import pytest
import torch
import torch.nn.functional as F

from frametx.nn.frame_projection import FrameProjection


def test_projections_of_the_same_frames_do_not_see_each_other() -> None:
    project = FrameProjection(num_channels=2, num_features=6, num_projections=3)
    x = torch.randn(2, 2, 7, 6)
    before = project(x)
    assert project.taps is not None
    with torch.no_grad():
        project.weight[:, 6:12] += 1
        project.taps[1] += 1
    moved = (project(x) - before).abs().amax((0, 2, 3, 4))
    assert (moved > 0).tolist() == [False, True, False]


@pytest.mark.parametrize("is_depthwise", [False, True])
@pytest.mark.parametrize("num_features", [6, 16])
def test_it_is_a_convolution_a_matrix_per_map_and_taps_over_time(
    is_depthwise: bool, num_features: int
) -> None:
    """Written down for each projection on its own; sixteen features take the folded kernel."""
    project = FrameProjection(
        num_channels=2,
        num_features=4,
        num_projections=2,
        in_channels=2 if is_depthwise else 3,
        in_features=num_features,
        conv_kernel=3,
        is_depthwise=is_depthwise,
    ).double()
    x = torch.randn(2, 2 if is_depthwise else 3, 5, num_features, dtype=torch.float64)
    assert project.conv is not None
    assert project.conv.bias is not None
    assert project.taps is not None
    assert project.bias is not None
    ours = project(x)
    for p in range(2):
        maps = slice(2 * p, 2 * p + 2)
        groups = 2 if is_depthwise else 1
        h = F.conv2d(
            x, project.conv.weight[maps], project.conv.bias[maps], padding=1, groups=groups
        )
        h = torch.einsum("bctf,cof->bcto", h, project.weight[maps])
        h = F.conv2d(h, project.taps[p].unsqueeze(-1), project.bias[p], padding=(1, 0))
        torch.testing.assert_close(ours[:, p], h)


def test_one_tap_mixes_the_maps_and_no_tap_leaves_them() -> None:
    mixed = FrameProjection(
        num_channels=2, num_features=4, num_projections=1, num_taps=1, has_bias=False
    )
    plain = FrameProjection(num_channels=2, num_features=4, num_projections=1, num_taps=0)
    plain.weight = mixed.weight
    assert mixed.taps is not None
    assert mixed.bias is None
    x = torch.randn(2, 2, 5, 4)
    expected = torch.einsum("bpctf,pdc->bpdtf", plain(x), mixed.taps[..., 0])
    torch.testing.assert_close(mixed(x), expected)


def test_maps_read_twice_are_as_maps_that_come_twice() -> None:
    project = FrameProjection(
        num_channels=2,
        num_features=4,
        num_projections=2,
        in_channels=5,
        conv_kernel=3,
        num_repeated=2,
    )
    assert project.conv is not None
    assert project.conv.in_channels == 7
    copied = FrameProjection(
        num_channels=2, num_features=4, num_projections=2, in_channels=7, conv_kernel=3
    )
    copied.load_state_dict(project.state_dict())
    x = torch.randn(2, 5, 6, 4)
    torch.testing.assert_close(project(x), copied(torch.cat([x, x[:, -2:]], 1)))
