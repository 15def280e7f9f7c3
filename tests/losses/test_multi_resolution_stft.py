import pytest
import torch
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.losses.multi_resolution_stft import MultiResolutionStft


def make(n_ffts: list[int], *, convergence: float, log_magnitude: float) -> MultiResolutionStft:
    return MultiResolutionStft(
        n_ffts=n_ffts,
        floor=1e-4,
        convergence_weight=convergence,
        log_magnitude_weight=log_magnitude,
        weight=1.0,
    )


def paper(n_fft: int, estimate: Tensor, truth: Tensor) -> tuple[float, float]:
    """Equations 4 and 5 of the paper, of one signal."""
    stft = Stft(n_fft=n_fft, hop_length=n_fft // 4)
    x, y = stft(truth).abs(), stft(estimate).abs()
    return float((x - y).norm() / x.norm()), float((x.log() - y.log()).abs().sum() / x.numel())


@pytest.mark.parametrize("n_ffts", [[64], [32, 128]])
def test_it_is_the_formula_of_the_paper(n_ffts: list[int]) -> None:
    stems, estimates = torch.randn(2, 3, 2, 1, 1000, generator=torch.Generator().manual_seed(1))
    stems[0] *= 0.1  # a quiet sample counts as much as the others
    terms = [
        paper(n, estimates[b, s, 0], stems[b, s, 0])
        for n in n_ffts
        for b in range(3)
        for s in range(2)
    ]
    convergence, log_magnitude = torch.tensor(terms).mean(dim=0).tolist()
    found = make(n_ffts, convergence=1.0, log_magnitude=0.0)(estimates, stems)
    assert float(found) == pytest.approx(convergence, rel=1e-3)
    found = make(n_ffts, convergence=0.0, log_magnitude=1.0)(estimates, stems)
    assert float(found) == pytest.approx(log_magnitude, rel=1e-3)


def test_half_the_level_converges_to_one_half_and_is_log_2_away() -> None:
    stems = torch.randn(2, 1, 1, 1000)
    half = 0.5 * stems
    convergence = make([64], convergence=1.0, log_magnitude=0.0)
    assert float(convergence(half, stems)) == pytest.approx(0.5, rel=1e-3)
    log_magnitude = make([64], convergence=0.0, log_magnitude=1.0)
    assert float(log_magnitude(half, stems)) == pytest.approx(0.6931, rel=1e-3)


def test_a_silent_stem_is_taught_by_its_log_magnitude() -> None:
    silence = torch.zeros(1, 1, 1, 1000)
    estimates = 1e-2 * torch.randn(1, 1, 1, 1000)
    assert make([64], convergence=1.0, log_magnitude=0.0)(estimates, silence) == 0
    log_magnitude = make([64], convergence=0.0, log_magnitude=1.0)
    assert log_magnitude(estimates, silence) > log_magnitude(0.1 * estimates, silence) > 1


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="n_ffts is empty"):
        make([], convergence=1.0, log_magnitude=1.0)
    with pytest.raises(ValueError, match="floor=0"):
        MultiResolutionStft(
            n_ffts=[64], floor=0.0, convergence_weight=1.0, log_magnitude_weight=1.0, weight=1.0
        )
