from typing import Any

import pytest
import torch

from frametx.models.v3 import V3

SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 3,
    "num_layers": 2,
    "num_heads": 4,
    "expansion": 2,
    "kernel_size": 3,
    "embedding_kernel_size": 3,
    "dropout": 0.0,
    "head": "mask",
    "score_scale": "features",
    "angle_precision": "float32",
    "normalizes_output": True,
}
ORIGINAL = SMALL | {
    "out_channels": 2,
    "n_fft": 2048,
    "expansion": 4,
    "normalizes_output": False,
}


def small(**changes: Any) -> V3:
    torch.manual_seed(0)
    return V3(**(SMALL | changes)).eval()


def magnitude(*, frames: int = 7) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 2, 32, frames)


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"channels": 2, "num_layers": 15, "num_heads": 4}, 125_956_600),
        ({"channels": 8, "num_layers": 8, "num_heads": 16}, 268_736_672),
        ({"channels": 8, "num_layers": 12, "num_heads": 16}, 403_104_928),
        ({"channels": 8, "num_layers": 12, "num_heads": 8}, 403_104_928),
    ],
)
def test_full_size_has_as_many_parameters_as_the_original(
    changes: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        model = V3(**(ORIGINAL | changes))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@torch.no_grad()
def test_the_head_changes_no_number_and_can_be_read() -> None:
    x = magnitude()
    mask, direct = small(head="mask"), small(head="magnitude")
    assert (mask.head, direct.head) == ("mask", "magnitude")
    assert torch.equal(mask(x), direct(x))


@torch.no_grad()
@pytest.mark.parametrize(("in_channels", "channels"), [(2, 3), (1, 1), (6, 2)])
def test_any_number_of_channels_becomes_any_number_of_maps(in_channels: int, channels: int) -> None:
    model = small(in_channels=in_channels, channels=channels)
    assert model(torch.rand(1, in_channels, 32, 5)).shape == (1, 3, 32, 5)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{"kernel_size": 1}, {"embedding_kernel_size": 5}])
def test_attention_reaches_where_no_convolution_does(changes: dict[str, int]) -> None:
    model, x = small(**changes), magnitude(frames=60)
    changed = x.clone()
    changed[..., -1] = 1 - changed[..., -1]
    moved = (model(changed) - model(x)).abs().amax((0, 1, 2))
    assert moved[0] > 0


@torch.no_grad()
def test_every_layer_adds_its_scores_to_those_of_the_layers_before() -> None:
    model = small(num_layers=3)
    handed_on: list[torch.Tensor] = []
    own: list[torch.Tensor] = []

    def keep(layer: Any, args: Any, output: Any) -> None:
        handed_on.append(output.scores.materialised())
        own.append(layer.attention(layer.norm_attention(args[0]))[1].materialised())

    for layer in model.layers:
        layer.register_forward_hook(keep)
    model(magnitude())
    for depth in range(3):
        expected = torch.stack(own[: depth + 1]).sum(0)
        torch.testing.assert_close(handed_on[depth], expected, atol=1e-6, rtol=1e-5)
