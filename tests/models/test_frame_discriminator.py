from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from frametx.models.asym_unet_mct import AsymUNetMCT
from frametx.models.frame_discriminator import FrameDiscriminator, FrameMultiscaleDiscriminator
from frametx.nn.patch_head import LinearHead, PatchHead

WIDTHS = [1, 2, 4, 6, 8, 10, 12, 14, 16]
# the author's discriminators: what they had in common, at the sizes he gave as defaults
ENCODER: dict[str, Any] = {
    "in_channels": 2,
    "num_bins": 1024,
    "channels": 2,
    "widths": WIDTHS,
    "num_attention_maps": 1,
    "num_heads": 4,
    "expansion": 4,
    "dropout": 0.1,
    "kernel_sizes": [3, 9],
    "embedding_widths": WIDTHS[1:],
    "embedding_kernel_size": 11,
    "score_scale": "features",
    "angle_precision": "float32",
}
FRAME: dict[str, Any] = ENCODER | {
    "num_plain_levels": 0,
    "num_bridge_layers": 4,
    "bridge_dropout": 0.1,
    "bridge_kernel_size": 3,
    "restarts_bridge_residual": True,
    "out_channels": 1,
    "make_head": partial(PatchHead, frames_per_patch=2, normalizes=False),
}
PRESENCE: dict[str, Any] = FRAME | {
    "out_channels": None,
    "make_head": partial(PatchHead, frames_per_patch=1, normalizes=False),
}
MULTISCALE: dict[str, Any] = ENCODER | {
    "in_channels": 4,
    "num_heads": [4] * 8 + [2],
    "num_bands": 4,
}
TRAINED: dict[str, Any] = {"channels": 16, "expansion": 10_240, "num_heads": 8}
SMALL: dict[str, Any] = {
    "num_bins": 32,
    "widths": [1, 2, 3],
    "num_heads": 2,
    "embedding_widths": [2],
    "embedding_kernel_size": 3,
    "kernel_sizes": [3, 5],
    "num_bridge_layers": 1,
    "dropout": 0.0,
    "bridge_dropout": 0.0,
}
SMALL_LEVELS: dict[str, Any] = {
    key: value
    for key, value in SMALL.items()
    if key not in ("num_bridge_layers", "bridge_dropout", "num_heads")
} | {"num_heads": [2, 2, 1]}


def generator(**changes: Any) -> AsymUNetMCT:
    torch.manual_seed(3)
    sizes: dict[str, Any] = {
        "in_channels": 2,
        "out_channels": 2,
        "n_fft": 64,
        "channels": 2,
        "widths": [1, 2, 3],
        "num_plain_levels": 0,
        "num_attention_maps": 1,
        "num_heads": 2,
        "expansion": 4,
        "num_bridge_layers": 1,
        "dropout": 0.0,
        "encoder_kernel_sizes": [3, 5],
        "decoder_kernel_sizes": [3, 3, 3],
        "embedding_widths": [2],
        "embedding_kernel_size": 3,
        "decoder_dropout": 0.0,
        "num_decoder_dropout_levels": 0,
        "gate": "query",
        "score_scale": "features",
        "angle_precision": "float32",
        "restarts_bridge_residual": True,
        "has_vocal_bands": False,
        "normalizes_vocal_bands": True,
        "normalizes_output": False,
    }
    return AsymUNetMCT(**(sizes | changes)).eval()


def small(**changes: Any) -> FrameDiscriminator:
    torch.manual_seed(0)
    return FrameDiscriminator(**(FRAME | SMALL | changes)).eval()


def several(**changes: Any) -> FrameMultiscaleDiscriminator:
    torch.manual_seed(0)
    return FrameMultiscaleDiscriminator(**(MULTISCALE | SMALL_LEVELS | changes)).eval()


@pytest.mark.parametrize(
    ("network", "config", "parameters"),
    [
        (FrameDiscriminator, FRAME, 13_330_373),
        (FrameDiscriminator, FRAME | TRAINED | {"in_channels": 4}, 88_677_983),
        (FrameDiscriminator, PRESENCE, 13_326_342),
        (FrameDiscriminator, PRESENCE | TRAINED, 88_185_012),
        (FrameMultiscaleDiscriminator, MULTISCALE, 13_111_497),
    ],
)
def test_full_size_has_as_many_parameters_as_the_original(
    network: type[nn.Module], config: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        discriminator = network(**config)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == parameters


@torch.no_grad()
def test_patches_are_bands_of_bins_and_two_frames() -> None:
    (logits,) = small()(torch.rand(2, 2, 32, 13)).logits
    assert logits.shape == (2, 1, 8, 7)


@torch.no_grad()
def test_vocal_presence_is_a_logit_for_every_channel_band_and_frame() -> None:
    changes = {key: PRESENCE[key] for key in ("out_channels", "make_head")}
    (logits,) = small(**changes)(torch.rand(3, 2, 32, 13)).logits
    assert logits.shape == (3, 2, 8, 13)


@torch.no_grad()
def test_the_linear_head_gives_every_frame_one_logit() -> None:
    (logits,) = small(make_head=LinearHead)(torch.rand(2, 2, 32, 13)).logits
    assert logits.shape == (2, 1, 1, 13)


@torch.no_grad()
def test_every_level_of_several_judges_bands_of_half_as_many_frames() -> None:
    judgement = several()(torch.rand(2, 4, 32, 13))
    assert [tuple(logits.shape) for logits in judgement.logits] == [
        (2, 1, 4, 13),
        (2, 1, 4, 7),
        (2, 1, 4, 4),
    ]
    assert [features.shape[2:] for features in judgement.features] == [(13, 32), (7, 16), (4, 8)]


@torch.no_grad()
def test_patches_see_the_most_distant_frame_and_bin() -> None:
    discriminator, x = small().double(), torch.rand(1, 2, 32, 40).double()
    changed = x.clone()
    changed[:, :, -1, -1] = 1 - changed[:, :, -1, -1]
    (before,), (after,) = discriminator(x).logits, discriminator(changed).logits
    # a rectifier may hide a tiny change from a few
    assert (before != after).double().mean() > 0.9


@torch.no_grad()
def test_with_the_generators_weights_it_encodes_as_the_generator_does() -> None:
    source, discriminator, x = generator(), small(), torch.rand(2, 2, 32, 9)
    copied = discriminator.from_generator(source)
    assert copied.left == {}
    kept = []
    source.decoders[-1].register_forward_pre_hook(lambda _, inputs: kept.extend(inputs))
    source(x)
    bridge, deepest_stream = kept
    features = discriminator(x).features
    torch.testing.assert_close(features[-1], bridge)
    torch.testing.assert_close(features[-2], deepest_stream)


def test_shown_more_channels_it_keeps_its_own_embedding_and_first_encoder() -> None:
    """As `from_generator` of the original did."""
    source, discriminator = generator(), small(in_channels=4)
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    copied = discriminator.from_generator(source)
    assert list(copied.left) == ["embedding", "encoders.0"]
    assert copied.copied == [
        "encoders.1",
        "encoders.2",
        "encoder_transformers.0",
        "encoder_transformers.1",
        "bridge.0",
    ]
    assert str(copied).startswith("copied: encoders.1, encoders.2")
    theirs = source.state_dict()
    for name, value in discriminator.state_dict().items():
        is_copied = any(name.startswith(f"{part}.") for part in copied.copied)
        assert torch.equal(value, theirs[name] if is_copied else before[name])


def test_the_copies_are_not_shared_with_the_generator() -> None:
    source, discriminator = generator(), small()
    discriminator.from_generator(source)
    before = {name: value.clone() for name, value in source.state_dict().items()}
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


def test_several_scales_start_from_a_generator_except_for_their_deepest_transformer() -> None:
    discriminator = several(in_channels=2)
    copied = discriminator.from_generator(generator())
    assert copied.left == {"encoder_transformers.2": "the generator has none"}


def test_a_generator_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no part .* fits the generator's: give both the same"):
        small(in_channels=4, channels=4).from_generator(generator())
    with pytest.raises(ValueError, match="encoder of an AsymUNetMCT, not of a Linear"):
        small().from_generator(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_bins": 34}, r"34 bins, which cannot be halved 2 times for the 3 levels of widths"),
        ({"embedding_widths": [2] * 6}, "embedding_widths"),
        ({"num_heads": 5}, "cannot be split into 5 heads"),
        ({"num_plain_levels": 2}, r"num_plain_levels \(2\) must leave a level"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_a_number_of_heads_is_needed_for_every_level() -> None:
    with pytest.raises(ValueError, match="num_heads has 2 numbers for the 3 levels"):
        several(num_heads=[2, 2])
