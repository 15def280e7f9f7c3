import torch

from frametx.nn.frame_projection import FrameProjection


def test_projections_of_the_same_frames_do_not_see_each_other() -> None:
    project = FrameProjection(num_channels=2, num_features=6, num_projections=3)
    x = torch.randn(2, 2, 7, 6)
    before = project(x)
    with torch.no_grad():
        project.weight[:, 6:12] += 1
        project.taps[1] += 1
    moved = (project(x) - before).abs().amax((0, 2, 3, 4))
    assert (moved > 0).tolist() == [False, True, False]
