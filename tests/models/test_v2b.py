from typing import Any

import pytest
import torch

from frametx.models.v2b import LinearResBlock, V2b
from frametx.nn.residual_block import ResBlock

# what the author's two scripts built differs in `channels`, `num_heads` and `expansion`
ORIGINAL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 2,
    "n_fft": 2048,
    "channels": 2,
    "widths": [1, 2, 4, 6, 8, 10],
    "num_linear_levels": 2,
    "num_attention_maps": 12,
    "num_heads": 4,
    "expansion": 4,
    "dropout": 0.1,
    "attention_kernel_size": 9,
    "feed_forward_kernel_size": 3,
    "embedding_widths": [2, 4, 6, 8, 10, 12, 14, 16],
    "embedding_kernel_size": 11,
    "has_sinusoids": True,
    "score_scale": "features",
    "angle_precision": "float32",
}
SMALL: dict[str, Any] = ORIGINAL | {
    "n_fft": 64,
    "widths": [1, 2, 3],
    "num_attention_maps": 2,
    "num_heads": 2,
    "expansion": 2,
    "attention_kernel_size": 3,
    "embedding_widths": [2],
    "embedding_kernel_size": 3,
}


def small(**changes: Any) -> V2b:
    torch.manual_seed(0)
    return V2b(**(SMALL | changes)).eval()


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 253_366_778),
        ({"channels": 8, "num_heads": 8, "expansion": 6}, 255_797_690),
        ({"channels": 8, "num_heads": 8, "expansion": 4}, 255_735_194),
        (
            {"channels": 8, "num_heads": 8, "expansion": 6, "has_sinusoids": False},
            255_793_432,
        ),
    ],
)
def test_full_size_has_as_many_parameters_as_the_original(
    changes: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        model = V2b(**(ORIGINAL | changes))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_the_deepest_levels_are_linear_on_both_sides(levels: int) -> None:
    model = small(num_linear_levels=levels)
    kinds = [LinearResBlock if level >= 3 - levels else ResBlock for level in range(3)]
    assert [type(block) for block in model.encoders] == kinds
    assert [type(decoder.body) for decoder in model.decoders] == kinds[:-1]
    x = torch.rand(1, 2, 32, 5)
    assert model(x).shape == x.shape


@pytest.mark.parametrize("levels", [-1, 4])
def test_more_linear_levels_than_there_are_levels_are_refused(levels: int) -> None:
    with pytest.raises(ValueError, match=rf"num_linear_levels \({levels}\) must be 0 to 3"):
        small(num_linear_levels=levels)


@torch.no_grad()
def test_a_linear_block_sees_one_frame_and_all_its_bins() -> None:
    torch.manual_seed(0)
    block = LinearResBlock(in_channels=3, out_channels=2, num_features=8, stride=(1, 2))
    x = torch.rand(1, 3, 5, 8)
    changed = x.clone()
    changed[:, 0, 2, 7] += 1
    moved = (block(changed) - block(x)).abs()
    assert moved.shape == (1, 2, 5, 4)
    assert (moved[:, :, 2] > 0).all()
    assert (moved[:, :, [0, 1, 3, 4]] == 0).all()


@torch.no_grad()
def test_a_linear_block_without_its_layers_takes_every_other_bin() -> None:
    block = LinearResBlock(in_channels=2, out_channels=2, num_features=8, stride=(1, 2))
    block.linear_out.weight.zero_()
    block.shortcut.weight.copy_(torch.eye(2))
    x = torch.rand(1, 2, 5, 8)
    torch.testing.assert_close(block(x), x[..., ::2])


@torch.no_grad()
@pytest.mark.parametrize("place", ["input_transformer", "encoder_transformers.2"])
def test_the_chain_of_scores_runs_from_the_input_to_the_last_decoder(place: str) -> None:
    """Only keys are scaled: they reach nothing but scores, at that place and along the chain."""
    model, x = small(), torch.rand(1, 2, 32, 9)
    seen: dict[str, torch.Tensor] = {}
    last = model.get_submodule("decoder_transformers.0")
    last.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(chain=kwargs["scores"].materialised()),
        with_kwargs=True,
    )
    # cut off what this attention gives besides its scores
    model.get_parameter(f"{place}.layer.attention.to_out.weight").zero_()
    model(x)
    unheard = seen["chain"]
    model.get_parameter(f"{place}.layer.attention.to_qkv.weight")[2:4].mul_(2)
    model(x)
    assert unheard.shape == (1, 2, 2, 9, 9)
    assert not torch.allclose(seen["chain"], unheard)


@torch.no_grad()
def test_the_sinusoids_tell_frames_apart_before_any_attention() -> None:
    constant = torch.rand(1, 2, 1, 32).expand(-1, -1, 60, -1)
    inside = slice(20, 40)  # further from the ends than the kernels see
    for has_sinusoids in (True, False):
        embedded = small(has_sinusoids=has_sinusoids, embedding_widths=[]).embedding(constant)
        frames = embedded[:, :, inside]
        assert torch.allclose(frames, frames[:, :, :1], atol=1e-6) != has_sinusoids


def test_bins_that_cannot_be_halved_often_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_fft \(36\) gives 18 bins.* 2 times.* 3 levels of wid"):
        small(n_fft=36)
    with pytest.raises(ValueError, match="embedding_widths"):
        small(n_fft=40, embedding_widths=[1, 2, 3])
