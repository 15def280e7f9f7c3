"""BS-RoFormer and Mel-Band RoFormer beside the package that they are made of."""

import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.models.bs_roformer import BsRoformer
from frametx.models.mel_band_roformer import MelBandRoformer
from frametx.nn.block import recompute_blocks
from frametx.nn.residual_scores import use_backend
from frametx.nn.roformer_package import Attend

bs_roformer = pytest.importorskip("bs_roformer")

SHARED: dict[str, Any] = {
    "stems": ["vocals", "rest"],
    "complement": None,
    "num_channels": 2,
    "n_fft": 64,
    "hop_length": 16,
    "num_features": 8,
    "num_layers": 2,
    "num_frame_layers": 1,
    "num_band_layers": 2,
    "num_heads": 2,
    "head_features": 4,
    "num_mask_layers": 2,
    "dropout": 0.0,
    "num_residual_streams": 2,
    "has_value_residual": True,
}
BS: dict[str, Any] = SHARED | {"bins_per_band": [8, 8, 17]}
MEL: dict[str, Any] = SHARED | {"sample_rate": 16_000, "num_bands": 4, "num_joint_layers": 1}
THEIR_SHARED: dict[str, Any] = {
    "dim": 8,
    "depth": 2,
    "stereo": True,
    "num_stems": 2,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 2,
    "dim_head": 4,
    "heads": 2,
    "attn_dropout": 0.0,
    "ff_dropout": 0.0,
    "flash_attn": False,
    "num_residual_streams": 2,
    "stft_n_fft": 64,
    "stft_win_length": 64,
    "stft_hop_length": 16,
}


def build(network: type[nn.Module], **changes: Any) -> Any:
    torch.manual_seed(0)
    config = (BS if network is BsRoformer else MEL) | changes
    return network(**config).eval()


def theirs_with_weights_of(ours: Any) -> nn.Module:
    """The package's own network, as it is, with the same weights."""
    if isinstance(ours, BsRoformer):
        made = bs_roformer.BSRoformer
        own: dict[str, Any] = {"freqs_per_bands": (8, 8, 17), "mask_estimator_depth": 2}
    else:
        made = bs_roformer.MelBandRoformer
        own = {"sample_rate": 16_000, "num_bands": 4}
        own |= {"linear_transformer_depth": 1, "mask_estimator_depth": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = made(**THEIR_SHARED, **own).eval()
    weights = {k.replace(".transformer.", "."): v for k, v in ours.roformer.state_dict().items()}
    lacking, unknown = theirs.load_state_dict(weights, strict=False)
    assert not unknown
    assert all(name.endswith("rotary_embed.freqs") for name in lacking)
    return theirs


def mixture(length: int = 400) -> Tensor:
    torch.manual_seed(1)
    return 0.3 * torch.randn(2, 2, length)


@torch.no_grad()
@pytest.mark.parametrize("network", [BsRoformer, MelBandRoformer])
def test_it_returns_what_the_packages_own_network_returns(network: type[nn.Module]) -> None:
    ours = build(network)
    for parameter in ours.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = theirs_with_weights_of(ours)
    x = mixture(length=25 * 16)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    # the package gives whole hops only; ours is the same on these, and goes on
    assert ours(mixture(length=407)).shape[-1] == 407
    assert theirs(mixture(length=407)).shape[-1] == 400


@torch.no_grad()
@pytest.mark.parametrize("network", [BsRoformer, MelBandRoformer])
def test_the_papers_network_has_neither_value_residuals_nor_residual_streams(
    network: type[nn.Module],
) -> None:
    plain = build(network, num_residual_streams=1, has_value_residual=False)
    named = {name for name, _ in plain.named_parameters()}
    assert not [name for name in named if "value_residual" in name or "alpha" in name]
    first = plain.roformer.layers[1][1].transformer.layers[0][0].branch
    x = torch.randn(1, 7, 8)
    values = torch.randn(1, 2, 7, 4)
    torch.testing.assert_close(first(x, value_residual=values)[0], first(x)[0])


@torch.no_grad()
def test_under_bfloat16_every_place_still_has_a_rotation_of_its_own() -> None:
    rotation = build(BsRoformer).roformer.layers[0][0].transformer.layers[0][0].branch.rotary_embed
    same = torch.ones(1, 1, 600, 4, dtype=torch.bfloat16)
    turned = rotation.rotate_queries_or_keys(same)
    exact = rotation.rotate_queries_or_keys(same.float())
    torch.testing.assert_close(turned.float(), exact, atol=1e-2, rtol=0)
    package = bs_roformer.bs_roformer.RotaryEmbedding(dim=4)
    wrong = package.rotate_queries_or_keys(same).float()
    assert (wrong - exact).abs().max() > 0.5  # why it is replaced


@torch.no_grad()
def test_both_backends_of_attention_agree_with_and_without_a_scale() -> None:
    q, k, v = torch.randn(3, 2, 2, 9, 4)
    for scale in (None, 8.0):
        attend = Attend(dropout=0.0, scale=scale)
        fused = attend(q, k, v)
        use_backend(attend, "materialised")
        torch.testing.assert_close(attend(q, k, v), fused)
    plain = (q @ k.mT / 2).softmax(-1) @ v
    torch.testing.assert_close(Attend(dropout=0.0, scale=None)(q, k, v), plain)


@pytest.mark.parametrize("network", [BsRoformer, MelBandRoformer])
def test_running_transformers_again_in_backward_changes_no_gradient(
    network: type[nn.Module],
) -> None:
    ours, x = build(network, dropout=0.2).train(), mixture()

    def gradients() -> list[Tensor]:
        torch.manual_seed(2)
        ours.zero_grad()
        ours(x).square().mean().backward()
        return [p.grad.clone() for p in ours.parameters() if p.grad is not None]

    kept = gradients()
    recompute_blocks(ours)
    for one, other in zip(kept, gradients(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("network", "changes", "says"),
    [
        (BsRoformer, {"bins_per_band": [8, 8]}, r"16 bins in all, but n_fft=64 gives 33"),
        (BsRoformer, {"bins_per_band": [33]}, "must be two bands or more"),
        (BsRoformer, {"num_channels": 3}, "num_channels=3 must be 1 or 2"),
        (BsRoformer, {"hop_length": 33}, "hop_length=33 must be between 1 and"),
        (BsRoformer, {"head_features": 5}, "head_features=5 must be even"),
        (BsRoformer, {"n_fft": 8192}, "n_fft=8192 must be even and below 8192"),
        (MelBandRoformer, {"num_bands": 30}, "num_bands=30 does not fit n_fft=64 at 16000 Hz"),
        (MelBandRoformer, {"num_mask_layers": 1}, "num_mask_layers=1 must be at least 2"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_rule(
    network: type[nn.Module], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        build(network, **changes)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bs_roformer", None)
    with pytest.raises(ValueError, match=r"pip install 'frametx\[roformer\]'"):
        build(BsRoformer)
