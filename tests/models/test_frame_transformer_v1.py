from typing import Any

import pytest
import torch

from frametx.models.frame_transformer_v1 import FrameTransformerV1

ORIGINAL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 2,
    "n_fft": 2048,
    "channels": 2,
    "widths": [1, 2, 4, 6, 8, 10],
    "num_heads": 4,
    "expansion": 4,
    "dropout": 0.1,
    "score_scale": "features",
    "angle_precision": "float32",
    "shares_attention_norm": True,
}
SMALL: dict[str, Any] = ORIGINAL | {"n_fft": 64, "widths": [1, 2, 3], "num_heads": 2}


def small(**changes: Any) -> FrameTransformerV1:
    torch.manual_seed(0)
    return FrameTransformerV1(**(SMALL | changes)).eval()


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 51_769_592),
        ({"channels": 8, "num_heads": 8, "expansion": 24}, 205_948_976),
        # the norm that the original does not call is put to its use, so nothing is added
        ({"shares_attention_norm": False}, 51_769_592),
        ({"channels": 2, "num_heads": 2, "expansion": 2, "n_fft": 256}, 603_672),
    ],
)
def test_full_size_has_as_many_parameters_as_the_original(
    changes: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        model = FrameTransformerV1(**(ORIGINAL | changes))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@torch.no_grad()
@pytest.mark.parametrize("shares", [True, False])
def test_the_norm_of_the_memory_attention_counts_only_where_it_is_not_shared(shares: bool) -> None:
    model, x = small(shares_attention_norm=shares), torch.rand(1, 2, 32, 7)
    before = model(x)
    model.get_parameter("decoder_transformers.0.layer.norm_memory.weight").mul_(3)
    assert torch.equal(model(x), before) == shares


@torch.no_grad()
def test_the_decoder_reads_the_map_of_the_encoders_transformer() -> None:
    """At the deepest decoder the stream is fixed, so only the memory can tell."""
    model = small()
    stream, memory = torch.rand(1, 4, 7, 16), torch.rand(1, 1, 7, 16)
    deepest = model.decoder_transformers[-1]
    one = deepest(stream, memory=memory)
    other = deepest(stream, memory=2 * memory)
    assert one.stream.shape == (1, 5, 7, 16)
    assert torch.equal(one.stream[:, :4], stream)
    assert not torch.equal(one.maps, other.maps)


@torch.no_grad()
def test_the_first_frame_hears_of_the_last() -> None:
    model, x = small(), torch.rand(1, 2, 32, 60)
    changed = x.clone()
    changed[..., -1] = 1 - changed[..., -1]
    assert (model(changed) - model(x)).abs().amax((0, 1, 2))[0] > 0


@torch.no_grad()
def test_scores_can_be_divided_by_the_features_of_a_head() -> None:
    x = torch.rand(1, 2, 32, 7)
    features, head = small(), small(score_scale="head")
    assert not torch.equal(features(x), head(x))
    one_head = [small(score_scale=scale, num_heads=1)(x) for scale in ("features", "head")]
    assert torch.equal(*one_head)


def test_bins_that_cannot_be_halved_often_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_fft \(72\) gives 36 bins.* 3 times.* 4 levels of wid"):
        small(n_fft=72, widths=[1, 2, 3, 4])
