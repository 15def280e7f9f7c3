"""HTDemucs beside the package that it is made of."""

import sys
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from frametx.models.htdemucs import BagOfHtdemucs, Htdemucs

htdemucs = pytest.importorskip("demucs.htdemucs")

SMALL: dict[str, Any] = {
    "stems": ["vocals", "drums", "other"],
    "complement": None,
    "sources": ["drums", "other", "vocals"],
    "num_channels": 2,
    "n_fft": 256,
    "num_maps": 8,
    "num_levels": 2,
    "bottom_features": 12,
    "num_layers": 3,
    "num_heads": 2,
    "expansion": 2.0,
    "dropout": 0.0,
    "residual_branches": "both",
    "min_seconds": 0.1,
    "sample_rate": 16_000,
}


def build(**changes: Any) -> Htdemucs:
    torch.manual_seed(0)
    return Htdemucs(**(SMALL | changes)).eval()


def mixture(length: int = 1_600) -> Tensor:
    torch.manual_seed(1)
    return 0.3 * torch.randn(2, 2, length)


@torch.no_grad()
@pytest.mark.parametrize("length", [1_600, 1_000, 333])
def test_it_returns_what_the_packages_own_network_returns_in_our_order(length: int) -> None:
    """Shorter mixtures too, which the package fills up to the length it was trained with."""
    ours = build()
    theirs = htdemucs.HTDemucs(
        ["drums", "other", "vocals"],
        audio_channels=2,
        channels=8,
        nfft=256,
        depth=2,
        bottom_channels=12,
        t_layers=3,
        t_heads=2,
        t_hidden_scale=2.0,
        dconv_mode=3,
        samplerate=16_000,
        segment=Fraction(1, 10),
    ).eval()
    theirs.load_state_dict(ours.demucs.state_dict())
    x = mixture(length)
    drums, other, vocals = theirs(x).unbind(1)
    expected = torch.stack([vocals, drums, other], 1)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_zeros_fill_up_a_short_mixture_in_separation_and_not_in_training() -> None:
    filling, plain, x = build(), build(min_seconds=0.0), mixture(700)
    assert not torch.allclose(filling(x), plain(x), atol=1e-4)
    longer = torch.cat([x, torch.zeros(2, 2, 900)], 2)
    torch.testing.assert_close(filling(x), plain(longer)[..., :700])
    torch.testing.assert_close(filling.train()(x), plain.train()(x))


@torch.no_grad()
def test_a_mixture_longer_than_the_trained_one_is_separated_as_it_is() -> None:
    ours, x = build(), mixture(3_000)
    assert ours(x).shape == (2, 3, 2, 3_000)
    torch.testing.assert_close(ours(x), build(min_seconds=0.0)(x))


@torch.no_grad()
def test_of_a_bag_each_stem_is_the_weighted_mean_of_its_networks() -> None:
    networks = [build(), build(), build()]
    for number, network in enumerate(networks):
        for parameter in network.parameters():
            parameter.mul_(1 + 0.1 * number)
    bag = BagOfHtdemucs(
        networks=networks, weights=[[1.0, 0.0, 1.0], [0.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    )
    x = mixture()
    one, two, _ = (network(x) for network in networks)
    expected = torch.stack([one[:, 0], two[:, 1], 0.25 * one[:, 2] + 0.75 * two[:, 2]], 1)
    torch.testing.assert_close(bag(x), expected)
    assert bag.num_stems == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sources": ["drums", "other"]}, r"sources=\['drums', 'other'\] must be the stems"),
        ({"residual_branches": "none"}, "residual_branches=none must be encoder or both"),
        ({"n_fft": 80}, "n_fft=80 must be a multiple of 32, and at least 96"),
        ({"num_heads": 5}, "12 features at the bottom must be a multiple of 4 and of num_heads=5"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_rule(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(**changes)


@pytest.mark.parametrize("weights", [[[1.0, 1.0, 1.0]], [[1.0], [1.0]], [[1.0, 0.0, 1.0]] * 2])
def test_a_bag_whose_weights_do_not_fit_is_refused(weights: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="must have a row for each of the 2 networks"):
        BagOfHtdemucs(networks=[build(), build()], weights=weights)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "demucs.htdemucs", None)
    with pytest.raises(ValueError, match=r"pip install 'frametx\[demucs\]'"):
        build()
