"""uSDR and SI-SDR: laws, and what silence means."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.audio import signal_noise_ratio

from frametx.metrics.decibels import LIMIT_DB
from frametx.metrics.sdr import si_sdr, usdr


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal_error(stems: Tensor, *, ratio_db: float) -> Tensor:
    """Noise without any part of the stem in it, `ratio_db` below it in energy."""
    error = noise(*stems.shape, seed=1).double()
    truth = stems.double()
    share = (error * truth).sum((-2, -1), keepdim=True) / truth.square().sum((-2, -1), keepdim=True)
    error = error - share * truth
    scale = (truth.square().sum() / error.square().sum()).sqrt() * 10 ** (-ratio_db / 20)
    return scale * error


@pytest.mark.parametrize("ratio_db", [-20.0, 0.0, 3.0, 40.0])
def test_noise_k_db_below_a_stem_gives_k_db(ratio_db: float) -> None:
    stem = noise(1, 2, 4000).double()
    estimate = stem + orthogonal_error(stem, ratio_db=ratio_db)
    assert usdr(estimate, stem).item() == pytest.approx(ratio_db, abs=1e-9)
    assert si_sdr(estimate, stem).item() == pytest.approx(ratio_db, abs=1e-9)


def test_half_a_stem_is_6_db_and_perfect_when_level_does_not_count() -> None:
    stems = noise(2, 2, 1000)
    assert torch.allclose(usdr(0.5 * stems, stems), torch.full((2,), 20 * math.log10(2)))
    assert (si_sdr(0.5 * stems, stems) == LIMIT_DB).all()


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 7.0, -2.0, 1e12])
def test_scaling_the_truth_or_the_estimate_leaves_si_sdr(factor: float) -> None:
    stems = noise(2, 2, 1000)
    estimates = stems + 0.3 * noise(2, 2, 1000, seed=1)
    expected = si_sdr(estimates, stems)
    assert torch.allclose(si_sdr(factor * estimates, stems), expected, atol=1e-4)
    assert torch.allclose(si_sdr(estimates, factor * stems), expected, atol=1e-4)


def test_scaling_both_alike_leaves_usdr() -> None:
    stems = noise(2, 2, 1000)
    estimates = stems + 0.3 * noise(2, 2, 1000, seed=1)
    assert torch.allclose(usdr(0.01 * estimates, 0.01 * stems), usdr(estimates, stems), atol=1e-4)


def test_a_louder_channel_is_an_error_that_one_scale_cannot_hide() -> None:
    stem = noise(1, 2, 1000)
    unbalanced = stem * torch.tensor([[1.0], [2.0]])
    assert si_sdr(unbalanced, stem).item() < 15


def test_a_batch_equals_a_loop() -> None:
    stems, estimates = noise(3, 2, 2, 500), noise(3, 2, 2, 500, seed=1)
    for metric in (usdr, si_sdr):
        looped = torch.stack([metric(e, s) for e, s in zip(estimates, stems, strict=True)])
        assert torch.equal(metric(estimates, stems), looped)


def test_single_precision_loses_nothing_that_shows() -> None:
    stems = noise(2, 2, 200_000) + 100  # an offset is what makes sums in single precision go wrong
    estimates = stems + 0.01 * noise(2, 2, 200_000, seed=1)
    for metric in (usdr, si_sdr):
        exact = metric(estimates.double(), stems.double())
        assert torch.allclose(metric(estimates, stems).double(), exact, atol=1e-4)


def test_usdr_is_the_signal_to_noise_ratio_of_all_samples() -> None:
    stems, estimates = noise(2, 1, 900), noise(2, 1, 900, seed=1)
    reference = signal_noise_ratio(estimates.double(), stems.double())[:, 0]
    assert torch.allclose(usdr(estimates, stems).double(), reference, atol=1e-5)


def test_a_silent_stem_has_no_ratio_and_a_silent_estimate_the_worst() -> None:
    silence, sound = torch.zeros(1, 2, 100), noise(1, 2, 100)
    for metric in (usdr, si_sdr):
        assert metric(sound, silence).isnan().all()
        assert metric(silence, silence).isnan().all()
    assert usdr(silence, sound).item() == 0
    assert si_sdr(silence, sound).item() == -LIMIT_DB


def test_identical_is_the_limit_not_infinity() -> None:
    stems = noise(2, 2, 100)
    assert (usdr(stems, stems) == LIMIT_DB).all()
    assert (si_sdr(stems, stems) == LIMIT_DB).all()


def test_nan_in_an_estimate_shows() -> None:
    stems = noise(1, 2, 100)
    broken = stems.clone()
    broken[0, 0, 5] = torch.nan
    assert usdr(broken, stems).isnan().all()
    assert si_sdr(broken, stems).isnan().all()
