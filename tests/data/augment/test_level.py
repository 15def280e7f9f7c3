import pytest
import torch

from frametx.data.augment import Gain, PolarityFlip


def test_six_decibels_double_the_amplitude() -> None:
    gain = Gain(min_db=-6.0206, max_db=6.0206)
    parameters = gain.draw(torch.tensor([[0.0], [0.5], [1.0]]))
    transformed = gain.apply(torch.ones(3, 2, 8), parameters)
    torch.testing.assert_close(transformed[:, 0, 0], torch.tensor([0.5, 1.0, 2.0]))


def test_gains_are_even_in_decibels() -> None:
    gains = Gain(min_db=-9, max_db=3).draw(torch.arange(1_000)[:, None] / 1_000)["gain_db"]
    assert gains.min() == -9
    assert 2.98 < gains.max() < 3
    assert gains.mean() == pytest.approx(-3, abs=0.01)


def test_a_flipped_waveform_and_its_twin_cancel() -> None:
    waveform = torch.randn(2, 2, 64)
    assert (PolarityFlip(probability=1).apply(waveform, {}) + waveform).abs().max() == 0


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a probability \(1\.5\) must lie between 0 and 1"):
        PolarityFlip(probability=1.5)
    with pytest.raises(ValueError, match=r"min_db \(3\) must not exceed max_db \(-3\)"):
        Gain(min_db=3, max_db=-3)
