"""The original discriminators' numbers, from their own weights through the conversion."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from frametx.legacy.frame_discriminator import build_discriminator

Fixture = Callable[[str], dict[str, Any]]


def close(ours: Tensor, theirs: Tensor | float) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["patchgan", "patchgan_vp"])
@torch.no_grad()
def test_an_original_discriminator_returns_its_own_logits(name: str, reference: Fixture) -> None:
    stored = reference(name)
    network = build_discriminator(stored["state_dict"])
    assert sum(parameter.numel() for parameter in network.parameters()) == stored["params"]
    (logits,) = network(stored["input"]).logits
    close(logits, stored["output"])


@torch.no_grad()
def test_it_tells_the_original_estimate_from_the_original_stem_at_the_original_losses(
    reference: Fixture,
) -> None:
    stored = reference("patchgan")
    network = build_discriminator(stored["state_dict"])
    fake, real = (
        network(torch.cat([stored["X"], shown], 1)).logits[0]
        for shown in (stored["Z"], stored["Y"])
    )
    close(fake, stored["disc_fake"])
    close(real, stored["disc_real"])
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    cross_entropy = F.binary_cross_entropy_with_logits
    close(cross_entropy(real, ones), stored["d_real"])
    close(cross_entropy(fake, zeros), stored["d_fake"])
    close((cross_entropy(real, ones) + cross_entropy(fake, zeros)) / 2, stored["d_loss"])
    close(cross_entropy(fake, ones), stored["g_gan"])
    reconstruction = F.l1_loss(stored["Z"], stored["Y"])
    close(reconstruction, stored["g_l1"])
    close(cross_entropy(fake, ones) + 100 * reconstruction, stored["g_loss"])


def with_head(old: dict[str, Tensor], head: dict[str, Tensor]) -> dict[str, Tensor]:
    encoder = {key: value for key, value in old.items() if not key.startswith("out.")}
    return encoder | {f"out.{key}": value for key, value in head.items()}


@torch.no_grad()
def test_the_linear_head_weighs_every_map_and_feature_of_a_frame(reference: Fixture) -> None:
    stored = reference("patchgan")
    head = {"weight_pw": torch.randn(32, 1, 1), "weight_dw": torch.randn(1, 32)}
    network = build_discriminator(with_head(stored["state_dict"], head))
    judgement = network(stored["input"])
    bridge = judgement.features[-1]  # B C T F
    expected = torch.einsum("bctf,cof,kc->bkot", bridge, head["weight_pw"], head["weight_dw"])
    assert expected.shape == (2, 1, 1, 18)
    close(judgement.logits[0], expected)


@torch.no_grad()
def test_the_normalised_head_is_norm_convolution_square_and_convolution(
    reference: Fixture,
) -> None:
    stored = reference("patchgan")
    weights = {key: value.float() for key, value in stored["state_dict"].items()}
    head = {
        "0.weight": torch.randn(32, 1, 1),
        "0.bias": torch.randn(32, 1, 1),
        "1.weight": weights["out.0.weight"],
        "1.bias": weights["out.0.bias"],
        "3.weight": weights["out.2.weight"],
        "3.bias": weights["out.2.bias"],
    }
    network = build_discriminator(with_head(weights, head))
    judgement = network(stored["input"])
    # of a single feature nothing is left by the norm but its shift; more are in test_patch_head
    h = head["0.bias"].expand(2, -1, -1, 18)
    h = F.conv2d(h, head["1.weight"], head["1.bias"], stride=(1, 2), padding=(0, 1)).relu().square()
    close(judgement.logits[0], F.conv2d(h, head["3.weight"], head["3.bias"]))


def test_the_prefix_of_a_parallel_wrapper_changes_nothing(reference: Fixture) -> None:
    old = reference("patchgan_vp")["state_dict"]
    wrapped = build_discriminator({f"module.{key}": value for key, value in old.items()})
    for name, value in build_discriminator(old).state_dict().items():
        assert torch.equal(wrapped.state_dict()[name], value)


@pytest.mark.parametrize("name", ["out.2.weight", "enc3_transformer.norm1.weight"])
def test_a_missing_entry_is_named(name: str, reference: Fixture) -> None:
    old = reference("patchgan")["state_dict"]
    del old[name]
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        build_discriminator(old)


def test_a_separator_is_no_discriminator(reference: Fixture) -> None:
    with pytest.raises(ValueError, match=r"no original discriminator: it has no 'out\.0\.weight'"):
        build_discriminator(reference("asym_unet_mct")["state_dict"])
