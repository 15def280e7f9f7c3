import pytest
import torch
from torch import nn

from frametx.losses.spectral import MagnitudeL1
from frametx.losses.waveform import WaveformL1
from frametx.losses.weighted_sum import WeightedSum

LOSSES = [
    MagnitudeL1(n_ffts=[64], weight=1.0),
    MagnitudeL1(n_ffts=[32, 128], weight=1.0),
    WaveformL1(weight=1.0),
    WeightedSum(terms={"a": WaveformL1(weight=0.5), "b": MagnitudeL1(n_ffts=[64], weight=2.0)}),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_truth_costs_nothing_and_noise_costs_more_the_louder_it_is(loss: nn.Module) -> None:
    stems, noise = torch.randn(2, 2, 1, 500), torch.randn(2, 2, 1, 500)
    costs = [float(loss(stems + level * noise, stems)) for level in (0.0, 0.1, 1.0)]
    assert costs[0] == 0
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_finite_for_silence_and_points_towards_the_truth(loss: nn.Module) -> None:
    silence = torch.zeros(1, 2, 1, 300, requires_grad=True)
    loss(silence, torch.zeros(1, 2, 1, 300)).backward()
    assert silence.grad is not None
    assert torch.isfinite(silence.grad).all()

    stems = torch.randn(1, 2, 1, 300)
    estimates = (0.5 * stems).requires_grad_()
    loss(estimates, stems).backward()
    assert estimates.grad is not None
    assert (estimates.grad * (stems - estimates)).sum() < 0


def test_a_sum_is_the_sum_of_its_terms() -> None:
    stems, estimates = torch.randn(2, 1, 2, 1, 400)
    terms = {"a": WaveformL1(weight=0.5), "b": MagnitudeL1(n_ffts=[64], weight=2.0)}
    expected = sum(float(term(estimates, stems)) for term in terms.values())
    assert float(WeightedSum(terms=terms)(estimates, stems)) == pytest.approx(expected)


def test_white_noise_costs_about_the_same_at_every_resolution() -> None:
    stems = torch.randn(1, 1, 1, 16000, generator=torch.Generator().manual_seed(0))
    costs = [
        float(MagnitudeL1(n_ffts=[n], weight=1.0)(torch.zeros_like(stems), stems))
        for n in (128, 512, 2048)
    ]
    assert max(costs) < 1.2 * min(costs)
