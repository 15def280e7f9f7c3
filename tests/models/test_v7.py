from typing import Any

import pytest
import torch

from frametx.models.v7 import V7

SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 2,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_attention_maps": 2,
    "num_heads": 4,
    "num_bottom_heads": 2,
    "expansions": [12, 10, 8],
    "dropout": 0.0,
    "embedding_widths": [2, 3],
    "embedding_kernel_size": 5,
    "mixes_encoder_hidden": False,
    "score_scale": "features",
    "angle_precision": "float32",
}
# what the author's constructor builds when told nothing
ORIGINAL: dict[str, Any] = SMALL | {
    "n_fft": 2048,
    "widths": [1, 2, 4, 6, 8, 10, 12, 14, 16],
    "num_attention_maps": 1,
    "expansions": [4096] * 9,
    "embedding_widths": [2, 4, 6, 8, 10, 12, 14, 16],
    "embedding_kernel_size": 11,
}
RELEASED = {"channels": 8, "num_heads": 8, "num_bottom_heads": 4, "num_attention_maps": 2}


def small(**changes: Any) -> V7:
    torch.manual_seed(0)
    return V7(**(SMALL | changes)).eval()


def count(**changes: Any) -> int:
    with torch.device("meta"):
        model = V7(**(ORIGINAL | changes))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "parameters"), [({}, 50_612_369), (RELEASED, 103_013_180)], ids=["", "released"]
)
def test_every_setting_has_as_many_parameters_as_the_original(
    changes: dict[str, Any], parameters: int
) -> None:
    assert count(**changes) == parameters


def test_mixing_the_encoders_hidden_features_costs_a_matrix_over_the_maps_per_level() -> None:
    assert count(num_attention_maps=2, mixes_encoder_hidden=True) == (
        count(num_attention_maps=2) + 9 * 2 * 2
    )


def test_where_the_unet_has_as_many_maps_as_the_transformer_nothing_embeds_them() -> None:
    names = [name for name, _ in small(num_attention_maps=4).named_parameters()]
    levels = [level for level in range(3) if f"encoder_transformers.{level}.embed.weight" in names]
    assert levels == [0, 2]
    assert "decoder_transformers.1.embed.weight" not in names
    assert "decoder_transformers.1.embed_memory.weight" in names


@torch.no_grad()
def test_the_last_level_attends_with_heads_of_its_own_which_no_other_level_sees() -> None:
    x = torch.rand(1, 2, 32, 6)
    ours, fewer = small(), small(num_bottom_heads=1)
    fewer.load_state_dict(ours.state_dict())
    assert not torch.equal(ours(x), fewer(x))
    with pytest.raises(ValueError, match="8 features cannot be split into 16 heads"):
        small(num_bottom_heads=16)


def test_every_level_needs_its_expansion() -> None:
    with pytest.raises(ValueError, match="2 expansions for 3 widths"):
        small(expansions=[12, 10])


def test_bins_that_cannot_be_halved_often_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_fft \(72\) gives 36 bins.* 3 times.* 4 levels of wid"):
        small(n_fft=72, widths=[1, 2, 3, 4], expansions=[4] * 4)
    with pytest.raises(ValueError, match="embedding_widths"):
        small(n_fft=72, embedding_widths=[1, 2, 3])
