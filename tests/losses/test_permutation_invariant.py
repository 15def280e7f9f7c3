import pytest
import torch
from torch import Tensor
from torchmetrics.functional.audio import (
    permutation_invariant_training,
    scale_invariant_signal_noise_ratio,
)

from frametx.losses.permutation_invariant import PermutationInvariantSiSnr
from frametx.metrics.permutation import in_best_order


def pair(num_stems: int, *, num_channels: int = 1) -> tuple[Tensor, Tensor]:
    """Stems with a mean, and estimates that are theirs, with some of the others in them."""
    torch.manual_seed(num_stems)
    stems = torch.randn(3, num_stems, num_channels, 600) + 0.3
    leak = torch.rand(3, num_stems, num_stems) * 0.4 + torch.eye(num_stems)
    return torch.einsum("bij,bjcl->bicl", leak, stems), stems


def gradient(loss: PermutationInvariantSiSnr, estimates: Tensor, stems: Tensor) -> Tensor:
    estimates = estimates.clone().requires_grad_()
    loss(estimates, stems).backward()
    assert estimates.grad is not None
    return estimates.grad


@pytest.mark.parametrize("num_stems", [2, 3, 4])
def test_the_loss_is_that_of_torchmetrics(num_stems: int) -> None:
    estimates, stems = pair(num_stems)
    shuffled = estimates.roll(1, dims=1)
    expected, _ = permutation_invariant_training(
        shuffled[:, :, 0],
        stems[:, :, 0],
        scale_invariant_signal_noise_ratio,
        mode="permutation-wise",
        eval_func="max",
    )
    found = PermutationInvariantSiSnr(limit_db=None, weight=2.0)(shuffled, stems)
    torch.testing.assert_close(found, -2 * expected.mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_stems", [2, 3])
def test_swapped_speakers_cost_nothing_and_the_gradient_is_swapped_with_them(
    num_stems: int,
) -> None:
    estimates, stems = pair(num_stems, num_channels=2)
    loss = PermutationInvariantSiSnr(limit_db=None, weight=1.0)
    straight = gradient(loss, estimates, stems)
    for order in (list(range(num_stems))[::-1], [*range(1, num_stems), 0]):
        torch.testing.assert_close(loss(estimates[:, order], stems), loss(estimates, stems))
        torch.testing.assert_close(gradient(loss, estimates[:, order], stems), straight[:, order])
    assert straight.abs().amax(dim=(2, 3)).min() > 0


def test_each_mixture_of_a_batch_has_an_order_of_its_own() -> None:
    estimates, stems = pair(2)
    mixed = torch.stack([estimates[0].flip(0), estimates[1], estimates[2].flip(0)])
    loss = PermutationInvariantSiSnr(limit_db=None, weight=1.0)
    torch.testing.assert_close(loss(mixed, stems), loss(estimates, stems))
    alone = torch.stack(
        [loss(one[None], stem[None]) for one, stem in zip(mixed, stems, strict=True)]
    )
    torch.testing.assert_close(loss(mixed, stems), alone.mean())


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_silent_speaker_pulls_at_nothing_and_the_other_takes_the_best_estimate(
    order: list[int],
) -> None:
    estimates, stems = pair(2)
    stems[:, 1] = 0
    estimates = estimates[:, order]
    loss = PermutationInvariantSiSnr(limit_db=None, weight=1.0)
    pulled = gradient(loss, estimates, stems).abs().amax(dim=(2, 3))
    assert pulled.isfinite().all()
    sounding = order.index(0)
    assert (pulled[:, sounding] > 0).all()
    assert (pulled[:, 1 - sounding] == 0).all()
    alone = loss(estimates[:, sounding : sounding + 1], stems[:, :1])
    torch.testing.assert_close(loss(estimates, stems), alone / 2)


def test_silent_estimates_and_silence_all_over_have_a_finite_gradient() -> None:
    estimates, stems = pair(2)
    loss = PermutationInvariantSiSnr(limit_db=30.0, weight=1.0)
    assert gradient(loss, torch.zeros_like(estimates), stems).isfinite().all()
    assert gradient(loss, estimates, torch.zeros_like(stems)).abs().max() == 0


def test_a_mixture_above_the_limit_counts_as_the_limit_and_pulls_at_nothing() -> None:
    estimates, stems = pair(2)
    estimates[0] = stems[0] + 1e-3 * torch.randn_like(stems[0])  # 60 dB
    pulled = gradient(PermutationInvariantSiSnr(limit_db=30.0, weight=1.0), estimates, stems)
    assert pulled[0].abs().max() == 0
    assert pulled[1].abs().max() > 0
    one = PermutationInvariantSiSnr(limit_db=30.0, weight=1.0)(estimates[:1], stems[:1])
    assert float(one) == -30.0


def test_a_nan_reaches_the_loss_and_stops_nothing() -> None:
    estimates, stems = pair(3)
    estimates[0, 0, 0, 0] = torch.nan
    assert PermutationInvariantSiSnr(limit_db=30.0, weight=1.0)(estimates, stems).isnan()


def test_more_speakers_than_orders_can_be_tried_for_are_refused() -> None:
    stems = torch.randn(1, 8, 1, 20)
    with pytest.raises(ValueError, match="8 stems have too many orders"):
        PermutationInvariantSiSnr(limit_db=None, weight=1.0)(stems, stems)


def test_estimates_are_put_in_the_order_of_their_stems_and_silent_stems_take_the_rest() -> None:
    estimates, stems = pair(3, num_channels=2)
    expected, truth = estimates[0], stems[0]
    for order in ([2, 0, 1], [1, 0, 2]):
        assert torch.equal(in_best_order(expected[order], truth), expected)
    truth[1] = 0
    assert torch.equal(in_best_order(expected[[2, 0, 1]], truth), expected)
