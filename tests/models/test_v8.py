from typing import Any

import pytest
import torch

from frametx.models.v8 import V8

SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 2,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_attention_maps": 2,
    "num_heads": 4,
    "expansions": [34, 20, 12],
    "attention_kernel_size": 3,
    "dropout": 0.0,
    "score_scale": "features",
    "angle_precision": "float32",
    "rounds_upsampling": False,
}
# what the author's constructor builds when told nothing
ORIGINAL: dict[str, Any] = SMALL | {
    "n_fft": 2048,
    "widths": [1, 2, 4, 6, 8, 10],
    "num_attention_maps": 1,
    "expansions": [2150, 1536, 768, 512, 256, 160],
}


def small(**changes: Any) -> V8:
    torch.manual_seed(0)
    return V8(**(SMALL | changes)).eval()


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [({}, 104_261_744), ({"channels": 8, "num_heads": 8}, 227_730_588)],
    ids=["", "released"],
)
def test_every_setting_has_as_many_parameters_as_the_original(
    changes: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        model = V8(**(ORIGINAL | changes))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@torch.no_grad()
def test_the_script_that_rounded_costs_little_but_something() -> None:
    x = torch.rand(1, 2, 32, 9)
    exact, rounded = small()(x), small(rounds_upsampling=True)(x)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02)


@torch.no_grad()
def test_every_level_sees_the_magnitudes_at_their_full_resolution() -> None:
    """Bins that the deepest level has merged still reach its queries apart."""
    model, x = small(), torch.rand(1, 2, 32, 6)
    deepest = model.encoder_transformers[-1]
    h = torch.rand(1, 6, 6, 8)
    source = x.transpose(2, 3)
    swapped = source.clone()
    swapped[..., [0, 1]] = source[..., [1, 0]]
    assert not torch.equal(deepest(h, source=source).maps, deepest(h, source=swapped).maps)


def test_every_level_needs_its_expansion() -> None:
    with pytest.raises(ValueError, match="2 expansions for 3 widths"):
        small(expansions=[34, 20])


def test_bins_that_cannot_be_halved_often_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_fft \(72\) gives 36 bins.* 3 times.* 4 levels of wid"):
        small(n_fft=72, widths=[1, 2, 3, 4], expansions=[4] * 4)
