from typing import Any

import pytest
import torch
from torch import nn

from frametx.models.positionwise import Positionwise
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention

SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_heads": [4, 2, 1],
    "expansion_factor": 2,
    "num_taps": 3,
    "dropout": 0.0,
    "input_range": [-1.0, 1.0],
    "score_scale": "features",
    "angle_precision": "float32",
    "skips_join_dropout": False,
    "has_unused_norms": False,
}
# the author's network: its two sizes differ in what follows
ORIGINAL: dict[str, Any] = SMALL | {
    "out_channels": 2,
    "n_fft": 2048,
    "widths": [1, 2, 4, 6, 8, 10],
    "num_heads": 4,
    "num_taps": 9,
    "skips_join_dropout": True,
    "has_unused_norms": True,
}


def small(**changes: Any) -> Positionwise:
    torch.manual_seed(0)
    return Positionwise(**(SMALL | changes)).eval()


def magnitude(*, batch: int = 2, frames: int = 7) -> torch.Tensor:
    return 2 * torch.rand(batch, 2, 32, frames) - 1


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [({}, 135_345_876), ({"channels": 16, "expansion_factor": 12}, 2_317_949_824)],
)
def test_full_size_has_as_many_parameters_as_the_original(
    changes: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        network = Positionwise(**(ORIGINAL | changes))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@torch.no_grad()
def test_the_unused_norms_of_the_original_change_nothing_and_are_not_trained() -> None:
    network, x = small(has_unused_norms=True), magnitude()
    logits = network(x)
    unused = list(network.unused_norms.parameters())
    assert [len(parameter) for parameter in unused] == [64, 64, 32, 32, 16, 16]
    assert not any(parameter.requires_grad for parameter in unused)
    for parameter in unused:
        parameter.fill_(7)
    assert torch.equal(network(x), logits)


@torch.no_grad()
def test_the_logits_are_those_of_one_number_of_heads_or_the_same_number_at_every_level() -> None:
    x = magnitude()
    assert torch.equal(small(num_heads=2)(x), small(num_heads=[2, 2, 2])(x))
    assert not torch.allclose(small(num_heads=2)(x), small()(x))


@pytest.mark.parametrize("skips", [True, False])
def test_the_original_drops_nothing_behind_the_join(skips: bool) -> None:
    network = small(dropout=0.3, skips_join_dropout=skips)
    drops = {name for name, part in network.named_modules() if isinstance(part, nn.Dropout)}
    joins = {f"decoders.{level}.dropout" for level in range(2)}
    assert drops & joins == (set() if skips else joins)
    assert {f"encoders.{level}.dropout" for level in range(3)} <= drops
    assert {f"decoders.{level}.body.dropout" for level in range(2)} <= drops


@torch.no_grad()
def test_a_frame_hears_the_last_one() -> None:
    network, x = small(), magnitude(frames=40)
    changed = x.clone()
    changed[..., -1] *= -1
    assert (network(changed) - network(x))[..., 0].abs().max() > 0


@torch.no_grad()
def test_only_the_lower_half_of_every_head_knows_positions() -> None:
    attention = small().get_submodule("encoder_transformers.0.attention")
    assert isinstance(attention, MultichannelMultiheadAttention)
    x = torch.ones(1, 1, 1, 2, 8)
    turned = attention.rotary(x)[..., 1, :]
    assert (turned != 1).nonzero()[:, -1].tolist() == [0, 1, 2, 3]


def test_the_range_of_its_input_is_told_and_must_not_be_empty() -> None:
    assert small().input_range == (-1.0, 1.0)
    with pytest.raises(ValueError, match=r"input_range \(1.0, 0.0\) must go up"):
        small(input_range=[1.0, 0.0])


def test_as_many_numbers_of_heads_as_levels_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"num_heads \(\[4, 2\]\) must be one number.*3 levels"):
        small(num_heads=[4, 2])


def test_bins_that_cannot_be_halved_often_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_fft \(36\) gives 18 bins.* 2 times.* 3 levels of wid"):
        small(n_fft=36)
