import pytest
import torch

from frametx.audio.stft import Stft
from frametx.losses.log_spectral import LogSpectralDistance


@pytest.mark.parametrize(("takes_root", "expected"), [(True, 20.0), (False, 400.0)])
def test_a_tenth_of_the_level_is_20_db_away(takes_root: bool, expected: float) -> None:
    loss = LogSpectralDistance(n_fft=64, floor=1e-7, takes_root=takes_root, weight=1.0)
    stems = torch.randn(1, 2, 1, 2000, dtype=torch.float64)
    assert float(loss(0.1 * stems, stems)) == pytest.approx(expected, rel=1e-3)


def test_the_plain_formulas() -> None:
    stems, estimates = torch.randn(2, 2, 1, 2, 1000)
    stft = Stft(n_fft=128, hop_length=32)
    levels = [10 * torch.log10(stft(x).abs().square() + 1e-10) for x in (estimates, stems)]
    squares = (levels[0] - levels[1]).square()
    original = LogSpectralDistance(n_fft=128, floor=1e-5, takes_root=False, weight=1.0)
    torch.testing.assert_close(original(estimates, stems), squares.mean(), rtol=1e-4, atol=0)
    standard = LogSpectralDistance(n_fft=128, floor=1e-5, takes_root=True, weight=1.0)
    expected = squares.mean(dim=-2).sqrt().mean()
    torch.testing.assert_close(standard(estimates, stems), expected, rtol=1e-3, atol=0)


def test_it_is_zero_only_where_the_magnitudes_are_equal() -> None:
    loss = LogSpectralDistance(n_fft=64, floor=1e-4, takes_root=True, weight=1.0)
    stems = torch.randn(1, 1, 1, 500)
    nearly = stems.clone()
    nearly[..., 250] += 0.01
    assert float(loss(stems, stems)) == pytest.approx(0, abs=1e-9)
    assert loss(nearly, stems) > 1e-3


def test_a_floor_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="floor=0"):
        LogSpectralDistance(n_fft=64, floor=0.0, takes_root=True, weight=1.0)
