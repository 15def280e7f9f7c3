from typing import Literal

import pytest
import torch

from frametx.audio.stft import Stft
from frametx.losses.signal_ratio import BatchSignalRatio, SiSdr
from frametx.metrics.sdr import si_sdr


def ratio(
    form: Literal["snr", "sdr"],
    *,
    place: Literal["inside", "outside"] = "inside",
    stft: Stft | None = None,
) -> BatchSignalRatio:
    return BatchSignalRatio(form=form, epsilon=1e-10, epsilon_place=place, stft=stft, weight=1.0)


def test_si_sdr_is_the_metric_turned_round() -> None:
    stems, estimates = torch.randn(2, 3, 2, 2, 800)
    expected = -si_sdr(estimates, stems).mean()
    torch.testing.assert_close(SiSdr(weight=1.0)(estimates, stems), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gain", [1e-2, 0.5, 100.0])
def test_si_sdr_sees_neither_the_level_of_the_estimate_nor_that_of_the_song(gain: float) -> None:
    stems = torch.randn(2, 2, 2, 800)
    estimates = stems + 0.1 * torch.randn(2, 2, 2, 800)
    loss = SiSdr(weight=1.0)
    torch.testing.assert_close(loss(gain * estimates, stems), loss(estimates, stems))
    torch.testing.assert_close(loss(gain * estimates, gain * stems), loss(estimates, stems))


def test_a_silent_stem_counts_as_0_db_and_pulls_at_nothing() -> None:
    stems, estimates = torch.randn(2, 1, 2, 1, 800)
    stems[:, 1] = 0
    estimates.requires_grad_()
    found = SiSdr(weight=1.0)(estimates, stems)
    torch.testing.assert_close(found, 0.5 * SiSdr(weight=1.0)(estimates[:, :1], stems[:, :1]))
    found.backward()
    assert estimates.grad is not None
    assert estimates.grad[:, 1].abs().max() == 0
    assert estimates.grad[:, 0].abs().max() > 0


def test_a_batch_has_one_ratio_of_sums() -> None:
    stems, estimates = torch.randn(2, 3, 2, 1, 500, dtype=torch.float64)
    error = estimates - stems
    expected = -10 * torch.log10(stems.square().sum() / error.square().sum())
    torch.testing.assert_close(ratio("snr")(estimates, stems), expected)


def test_only_sdr_forgives_a_level_that_the_batch_shares() -> None:
    stems = torch.randn(2, 2, 1, 500, dtype=torch.float64)
    estimates = stems + 0.1 * torch.randn(2, 2, 1, 500, dtype=torch.float64)
    torch.testing.assert_close(
        ratio("sdr")(0.3 * estimates, stems), ratio("sdr")(estimates, stems), atol=1e-6, rtol=0
    )
    assert ratio("snr")(0.3 * estimates, stems) > ratio("snr")(estimates, stems) + 10


def test_the_originals_epsilon_stands_outside_the_fraction() -> None:
    stems, estimates = torch.randn(2, 1, 1, 1, 500, dtype=torch.float64)
    right = stems * (estimates * stems).sum() / stems.square().sum()
    estimates = estimates - (1 - 1e-4) * right  # so little of it is right that the epsilon shows
    projected = stems * (estimates * stems).sum() / (stems.square().sum() + 1e-10)
    error = (estimates - projected).square().sum()
    expected = -10 * torch.log10((projected.square().sum() + 1e-10) / error + 1e-10)
    found = ratio("sdr", place="outside")(estimates, stems)
    torch.testing.assert_close(found, expected)
    assert abs(float(found - ratio("sdr")(estimates, stems))) > 1e-2


def test_magnitudes_are_compared_where_an_stft_is_given() -> None:
    stems = torch.randn(1, 2, 1, 500)
    of_magnitudes = ratio("snr", stft=Stft(n_fft=64, hop_length=32))
    assert of_magnitudes(-stems, stems) < -60  # a turned phase is not heard
    assert ratio("snr")(-stems, stems) == pytest.approx(6.02, abs=0.01)


def test_the_slip_of_sdr_is_refused_for_snr() -> None:
    with pytest.raises(ValueError, match="slip of sdr"):
        ratio("snr", place="outside")
