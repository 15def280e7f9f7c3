from typing import Any

import pytest
import torch

from frametx.models.v9_patch import V9Patch

SMALL: dict[str, Any] = {
    "in_channels": 1,
    "num_past_crops": 0,
    "crop_frames": 16,
    "out_channels": 1,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_layers": 2,
    "chunk_size": 4,
    "num_heads": 2,
    "expansion": 12,
    "kernel_size": 3,
    "dropout": 0.0,
    "score_scale": "chunk",
    "angle_precision": "float32",
}
# the author's released network
RELEASED: dict[str, Any] = SMALL | {
    "in_channels": 2,
    "num_past_crops": 2,
    "crop_frames": 16,
    "out_channels": 2,
    "n_fft": 2048,
    "channels": 16,
    "widths": [1, 2, 4, 8],
    "num_layers": 17,
    "chunk_size": 32,
    "num_heads": 8,
    "expansion": 512,
}
# what the author's constructor gives when asked for nothing
DEFAULT: dict[str, Any] = RELEASED | {
    "num_past_crops": 0,
    "channels": 8,
    "num_layers": 8,
    "num_heads": 4,
    "expansion": 2,
}


def small(**changes: Any) -> V9Patch:
    torch.manual_seed(0)
    return V9Patch(**(SMALL | changes)).eval()


def magnitude(*, channels: int = 1, frames: int = 48) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(1, channels, 32, frames)


@pytest.mark.parametrize(("config", "parameters"), [(DEFAULT, 3_370_394), (RELEASED, 160_365_690)])
def test_full_size_has_as_many_parameters_as_the_original(
    config: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        network = V9Patch(**config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.frame_multiple == 256


@torch.no_grad()
def test_it_reads_the_mixture_and_the_estimate_of_every_past_crop() -> None:
    network = small(num_past_crops=2)
    assert network.num_past_crops == 2
    x = magnitude(channels=5)
    logits = network(x)
    assert logits.shape == (1, 1, 32, 48)
    for channel in range(5):
        changed = x.clone()
        changed[:, channel] = changed[:, channel].flip(-1)
        assert (network(changed) - logits).abs().max() > 1e-4


@torch.no_grad()
def test_a_patch_hears_every_other() -> None:
    network = small(num_layers=1)
    inside = torch.rand(1, 6, 12, 8)
    changed = inside.clone()
    changed[:, :, -1, -1] += 1
    moved = (network._transformed(changed) - network._transformed(inside)).abs().amax((0, 1))
    patches = moved.unflatten(0, (3, 4)).unflatten(2, (2, 4)).amax((1, 3))
    assert (patches > 0).all()


@torch.no_grad()
def test_patches_are_numbered_band_by_band_and_frame_by_frame_inside_a_band() -> None:
    network = small(num_layers=1)
    seen: list[torch.Tensor] = []
    network.transformers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    frames, bins = torch.meshgrid(torch.arange(12), torch.arange(8), indexing="ij")
    numbers = (bins // 4) * 3 + frames // 4
    network._transformed(numbers.float().expand(1, 6, -1, -1))
    assert seen[0].shape == (6, 6, 4, 4)
    assert torch.equal(seen[0], torch.arange(6.0)[:, None, None, None].expand(6, 6, 4, 4))


@torch.no_grad()
def test_without_transformers_patches_come_back_to_where_they_were() -> None:
    x = torch.rand(2, 6, 12, 8)
    assert torch.equal(small(num_layers=0)._transformed(x), x)


@torch.no_grad()
def test_the_scale_of_the_scores_is_that_of_a_patch_or_of_a_head() -> None:
    x = magnitude()
    scales = {
        scale: small(score_scale=scale).get_submodule("transformers.0.attention").scale
        for scale in ("chunk", "head")
    }
    assert scales == {"chunk": 4**-0.5, "head": 8**-0.5}
    assert not torch.allclose(small()(x), small(score_scale="head")(x), atol=1e-6)


@pytest.mark.parametrize("frames", [0, 8, 17, 40])
def test_frames_that_make_no_whole_patches_are_refused(frames: int) -> None:
    with pytest.raises(ValueError, match=rf"{frames} frames, the network takes multiples of 16"):
        small()(magnitude(frames=frames))


def test_bins_that_make_no_whole_patches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_fft \(80\) gives 40 bins.* 3 levels.*chunk_size 4"):
        small(n_fft=80)


def test_missing_past_crops_are_told() -> None:
    with pytest.raises(ValueError, match=r"1 channels, the network reads 5: .* of 2 crops before"):
        small(num_past_crops=2)(magnitude())
