"""Open-Unmix beside the package that it is made of."""

from typing import Any

import pytest
import torch
from openunmix.model import OpenUnmix as OneTarget
from openunmix.model import Separator
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.models.open_unmix import OpenUnmix
from frametx.separator import SpectrogramSeparator

SMALL: dict[str, Any] = {
    "stems": ["vocals", "drums", "rest"],
    "complement": None,
    "in_channels": 2,
    "n_fft": 64,
    "sample_rate": 16_000,
    "bandwidth_hz": 6_000.0,
    "num_features": 8,
    "num_layers": 2,
    "dropout": 0.0,
    "is_causal": False,
}


def build(**changes: Any) -> OpenUnmix:
    torch.manual_seed(0)
    network = OpenUnmix(**(SMALL | changes)).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value) if "var" in name else 0.1)
    return network


def separator(network: OpenUnmix) -> SpectrogramSeparator:
    return SpectrogramSeparator(
        stft=Stft(n_fft=64, hop_length=16),
        network=network,
        stems=SMALL["stems"],
        complement=None,
        sample_rate=16_000,
        num_channels=2,
        chunk_frames=50,
        scale="none",
        top_bin="copy",
    ).eval()


def theirs(network: OpenUnmix, *, max_bin: int) -> dict[str, nn.Module]:
    targets: dict[str, nn.Module] = {}
    for stem, ours in zip(SMALL["stems"], network.targets, strict=True):
        own = OneTarget(nb_bins=33, nb_channels=2, hidden_size=8, nb_layers=2, max_bin=max_bin)
        own.load_state_dict(ours.state_dict())
        targets[stem] = own.eval()
    return targets


@torch.no_grad()
def test_the_stems_are_those_that_the_package_separates() -> None:
    """With silence at both ends: the package reflects what is there, and our STFT fills zeros."""
    network = build()
    package = Separator(
        theirs(network, max_bin=25), niter=0, sample_rate=16_000, n_fft=64, n_hop=16
    ).eval()
    torch.manual_seed(1)
    x = 0.3 * torch.randn(2, 2, 640)
    x[..., :40] = x[..., -40:] = 0
    torch.testing.assert_close(separator(network)(x), package(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_magnitudes_are_those_of_the_packages_networks_for_any_number_of_frames() -> None:
    network = build()
    for num_frames in (1, 2, 9):
        x = torch.rand(2, 2, 33, num_frames)
        expected = [target(x) for target in theirs(network, max_bin=25).values()]
        torch.testing.assert_close(network(x), torch.cat(expected, 1))


@torch.no_grad()
def test_nothing_above_the_bandwidth_is_looked_at_and_all_of_it_is_given() -> None:
    network = build()
    x, louder = torch.rand(1, 2, 33, 9), torch.zeros(1, 2, 33, 9)
    louder[:, :, 25:] = 1.0
    heard = network(x + louder)
    torch.testing.assert_close(heard[:, :, :25], network(x)[:, :, :25])
    assert (heard[:, :, 25:] > 0).any()
    assert build(bandwidth_hz=50_000.0)(x).shape == (1, 6, 33, 9)


@torch.no_grad()
def test_a_causal_network_never_looks_ahead() -> None:
    x = torch.rand(1, 2, 33, 9)
    later = x.clone()
    later[..., 5:] += 1
    causal, usual = build(is_causal=True), build()
    torch.testing.assert_close(causal(later)[..., :5], causal(x)[..., :5])
    assert not torch.allclose(usual(later)[..., :5], usual(x)[..., :5], atol=1e-6)


def test_silence_stays_silence_with_a_finite_gradient() -> None:
    network = build().train()
    estimates = separator(network)(torch.zeros(1, 2, 400, requires_grad=True))
    assert not estimates.any()
    estimates.sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@torch.no_grad()
def test_the_estimate_is_the_networks_magnitude_with_the_phase_of_the_mixture() -> None:
    network = build()
    torch.manual_seed(1)
    x: Tensor = 0.3 * torch.randn(1, 2, 640)
    whole = separator(network)
    spectrogram = whole.stft(x)
    wanted = network(spectrogram.abs()).unflatten(1, (3, 2)) * torch.sgn(spectrogram)[:, None]
    torch.testing.assert_close(whole(x), whole.stft.inverse(wanted, length=640))


def test_dropout_is_random_in_training_alone() -> None:
    network, x = build(dropout=0.5), torch.rand(1, 2, 33, 9)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))
    still = build().train()
    assert torch.equal(still(x), still(x))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bandwidth_hz": 0.0}, "bandwidth_hz=0.0 must be above 0"),
        ({"num_features": 7}, "num_features=7 must be even"),
        ({"num_layers": 1, "dropout": 0.4}, "dropout=0.4 lies between the layers"),
        ({"stems": ["a"], "complement": "a"}, "leave nothing to separate"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_rule(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(**changes)
