from typing import Any

import pytest
import torch

from frametx.models.asym_unet_mct import AsymUNetMCT

# every kind of part, small: two levels with transformers below one without, and a bridge
SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3, 4],
    "num_plain_levels": 1,
    "num_attention_maps": 2,
    "num_heads": 2,
    "expansion": 12,
    "num_bridge_layers": 2,
    "dropout": 0.0,
    "encoder_kernel_sizes": [3, 5],
    "decoder_kernel_sizes": [5, 3, 3],
    "embedding_widths": [2, 3],
    "embedding_kernel_size": 5,
    "decoder_dropout": 0.0,
    "num_decoder_dropout_levels": 0,
    "gate": "conv3d",
    "score_scale": "features",
    "angle_precision": "float32",
    "restarts_bridge_residual": False,
    "has_vocal_bands": False,
    "normalizes_vocal_bands": True,
    "normalizes_output": True,
}
# the author's network: sizes of its three published settings differ in what follows
ORIGINAL: dict[str, Any] = SMALL | {
    "out_channels": 2,
    "n_fft": 2048,
    "channels": 2,
    "widths": [1, 2, 4, 6, 8, 10, 12, 14, 16],
    "num_plain_levels": 0,
    "num_attention_maps": 4,
    "num_heads": 4,
    "expansion": 4,
    "num_bridge_layers": 4,
    "encoder_kernel_sizes": [3, 9],
    "decoder_kernel_sizes": [11, 7, 7],
    "embedding_widths": [2, 4, 6, 8, 10, 12, 14, 16],
    "embedding_kernel_size": 11,
    "restarts_bridge_residual": True,
    "normalizes_output": False,
}


def small(**changes: Any) -> AsymUNetMCT:
    torch.manual_seed(0)
    return AsymUNetMCT(**(SMALL | changes)).eval()


def magnitude(*, batch: int = 2, frames: int = 7) -> torch.Tensor:
    return torch.rand(batch, 2, 32, frames)


def count(**changes: Any) -> int:
    with torch.device("meta"):
        model = AsymUNetMCT(**(ORIGINAL | changes))
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def test_evaluation_is_deterministic_and_dropout_makes_training_random() -> None:
    model, x = small(dropout=0.3, decoder_dropout=0.5, num_decoder_dropout_levels=2), magnitude()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@torch.no_grad()
@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_decoder_dropout_is_that_of_the_deepest_decoders(levels: int) -> None:
    model = small(decoder_dropout=0.5, num_decoder_dropout_levels=levels)
    drops = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Dropout)}
    assert drops == {f"decoders.{level}.body.dropout" for level in range(3 - levels, 3)}


@pytest.mark.parametrize("bands", [False, True])
@pytest.mark.parametrize("plain_levels", [0, 1, 2])
def test_the_gradient_reaches_every_parameter(bands: bool, plain_levels: int) -> None:
    model = small(has_vocal_bands=bands, num_plain_levels=plain_levels)
    model(magnitude()).square().sum().backward()
    unreached = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert unreached == []


def test_what_the_original_vocal_bands_leave_unused_does_not_learn() -> None:
    model = small(has_vocal_bands=True, normalizes_vocal_bands=False)
    model(magnitude()).square().sum().backward()
    unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unreached == ["vocal_bands.norm.weight", "vocal_bands.norm.bias"]
    assert unreached == [name for name, p in model.named_parameters() if not p.requires_grad]
    # weights of that form have them all the same
    assert set(unreached) <= set(model.state_dict())


@torch.no_grad()
def test_the_vocal_bands_are_logits_per_frame_and_bin_of_the_bridge() -> None:
    model, x = small(has_vocal_bands=True), magnitude()
    logits, bands = model.forward_with_vocal_bands(x)
    assert bands is not None
    assert bands.shape == (2, 3, 4, 7)
    assert torch.equal(logits, model(x))


@torch.no_grad()
def test_without_vocal_bands_there_are_none() -> None:
    assert small().forward_with_vocal_bands(magnitude())[1] is None


@torch.no_grad()
def test_the_scores_of_attention_reach_from_the_first_frame_to_the_last() -> None:
    model, x = small(num_bridge_layers=0), magnitude(frames=60)
    changed = x.clone()
    changed[..., -1] = 1 - changed[..., -1]
    moved = (model(changed) - model(x)).abs().amax((0, 1, 2))
    assert moved[0] > 0


@torch.no_grad()
def test_long_inputs_keep_their_positions_apart_under_autocast() -> None:
    """Frames beyond 256 would share positions if angles were made in bfloat16."""
    model, x = small(num_bridge_layers=0), magnitude(batch=1, frames=1)
    constant = x.expand(-1, -1, -1, 600)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(constant)
    assert (logits[..., 401] != logits[..., 400]).any()


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 157_809_403),
        ({"channels": 8, "expansion": 10_240, "num_heads": 8}, 501_049_283),
        ({"channels": 16, "expansion": 10_240, "num_heads": 8}, 529_718_531),
        ({"num_attention_maps": 1, "has_vocal_bands": True}, 40_183_873),
        (
            {
                "num_attention_maps": 1,
                "has_vocal_bands": True,
                "channels": 16,
                "expansion": 10_240,
                "num_heads": 8,
            },
            168_759_309,
        ),
        (
            {
                "num_attention_maps": 1,
                "has_vocal_bands": True,
                "channels": 8,
                "expansion": 10_240,
                "num_heads": 8,
            },
            134_562_301,
        ),
    ],
)
def test_full_size_has_as_many_parameters_as_the_original(
    changes: dict[str, Any], parameters: int
) -> None:
    assert count(**changes) == parameters


def test_bins_that_cannot_be_halved_often_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_fft \(72\) gives 36 bins.* 3 times.* 4 levels of wid"):
        small(n_fft=72)
    with pytest.raises(ValueError, match="embedding_widths"):
        small(n_fft=72, widths=[1, 2, 3], embedding_widths=[1, 2, 3])


@pytest.mark.parametrize("plain_levels", [-1, 3])
def test_a_network_without_any_transformer_is_refused(plain_levels: int) -> None:
    with pytest.raises(ValueError, match=rf"num_plain_levels \({plain_levels}\)"):
        small(num_plain_levels=plain_levels)
