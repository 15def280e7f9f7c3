from itertools import pairwise
from typing import Any

import pytest
import torch

from frametx.models.jansson_unet import JanssonUNet

PUBLISHED: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "num_bins": 512,
    "widths": [16, 32, 64, 128, 256, 512],
    "kernel_size": 5,
    "num_dropout_levels": 3,
    "dropout": 0.5,
}


def published(**changes: Any) -> JanssonUNet:
    return JanssonUNet(**(PUBLISHED | changes))


def test_its_parameters_are_those_of_twelve_layers_of_five_by_five() -> None:
    with torch.device("meta"):
        network = published()
    widths = [1, 16, 32, 64, 128, 256, 512]
    ups = [(512, 256), (512, 128), (256, 64), (128, 32), (64, 16), (32, 1)]
    convolutions = [*pairwise(widths), *ups]
    expected = sum(25 * maps * out + out for maps, out in convolutions)
    expected += 2 * (sum(widths[1:]) + sum(out for _, out in ups[:-1]))  # scale and shift
    assert sum(p.numel() for p in network.parameters()) == expected


def test_dropout_is_in_the_three_deepest_decoders() -> None:
    with torch.device("meta"):
        network = published()
    drops = [part.p for part in network.modules() if isinstance(part, torch.nn.Dropout)]
    assert drops == [0.5, 0.5, 0.5, 0.0, 0.0]


@torch.no_grad()
def test_a_shift_by_whole_strides_shifts_the_mask_away_from_the_ends() -> None:
    torch.manual_seed(0)
    network = published(num_bins=16, widths=[4, 6]).eval()
    x = torch.zeros(1, 1, 16, 64)
    x[..., 24:32] = torch.rand(1, 1, 16, 8)
    shifted = network(x.roll(4, dims=3))
    middle = slice(20, 44)  # 20 frames from either end see none of the zeros around
    torch.testing.assert_close(shifted[..., middle], network(x).roll(4, dims=3)[..., middle])
    assert (shifted - network(x))[..., middle].abs().max() > 1e-3


def test_bins_that_cannot_be_halved_often_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_bins \(24\) cannot be halved 6 times"):
        published(num_bins=24)
