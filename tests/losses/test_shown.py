from typing import Any

import pytest
import torch

from frametx.audio.stft import Stft
from frametx.losses.shown import Showing


def showing(**changes: Any) -> Showing:
    settings: dict[str, Any] = {
        "stft": Stft(n_fft=16, hop_length=8),
        "stems": ["vocals", "drums", "other"],
        "judged": ["drums", "other"],
        "num_bins": 8,
        "shows_mixture": True,
    }
    return Showing(**{**settings, **changes})


def test_true_stems_shown_as_estimates_look_the_same_behind_the_mixture() -> None:
    stems = torch.randn(2, 3, 2, 64)
    show = showing()
    real, fake, named, _ = show(stems, stems, torch.zeros(2))
    assert torch.equal(real, fake)
    assert real.shape == (2, show.in_channels(2), 8, 9)
    assert torch.equal(real[:, 2:4], named["drums"])
    assert torch.equal(real[:, 4:], named["other"])
    mixture = show.stft(stems.sum(1)).abs()[:, :, :8]
    torch.testing.assert_close(real[:, :2], mixture / mixture.amax((1, 2, 3), keepdim=True))
    assert torch.equal(showing(shows_mixture=False)(stems, stems, torch.zeros(2)).real, real[:, 2:])


def test_what_is_shown_does_not_depend_on_loudness() -> None:
    stems, estimates = torch.randn(2, 2, 3, 1, 64)
    loud = showing()(8 * estimates, 8 * stems, torch.zeros(2))
    soft = showing()(estimates, stems, torch.zeros(2))
    torch.testing.assert_close(loud.real, soft.real)
    torch.testing.assert_close(loud.fake, soft.fake)


def test_silence_is_shown_as_silence_and_its_gradient_is_finite() -> None:
    silent = torch.zeros(1, 3, 1, 64)
    estimates = torch.full_like(silent, 1e-9).requires_grad_()
    real, fake, _, _ = showing()(estimates, silent, torch.zeros(1))
    assert real.abs().max() == 0
    assert fake.abs().max() < 1e-3
    fake.sum().backward()
    assert estimates.grad is not None
    assert estimates.grad.isfinite().all()


def test_the_gradient_reaches_judged_estimates_and_no_others() -> None:
    stems = torch.randn(1, 3, 1, 64)
    estimates = torch.randn(1, 3, 1, 64, requires_grad=True)
    showing(judged=["other"])(estimates, stems, torch.zeros(1)).fake.square().sum().backward()
    assert estimates.grad is not None
    assert estimates.grad[:, :2].abs().max() == 0
    assert (estimates.grad[:, 2] != 0).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"judged": []}, "one or more of"),
        ({"judged": ["bass"]}, "one or more of"),
        ({"num_bins": 10}, "use the same n_fft"),
    ],
)
def test_impossible_views_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        showing(**changes)
