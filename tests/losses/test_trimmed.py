import pytest
import torch
from torch import Tensor

from frametx.losses.trimmed import TrimmedSquaredError


def peers(errors: Tensor, quantile: float) -> Tensor:
    """Stems by pieces: those below the quantile, as MSST chooses them, and their mean."""
    limit = torch.quantile(errors, quantile, dim=1, keepdim=True, interpolation="linear")
    kept = (errors < limit).to(errors)
    return (errors * kept).sum() / kept.sum()


@pytest.mark.parametrize("quantile", [0.45, 0.7, 0.95])
def test_whole_excerpts_are_chosen_as_the_peers_choose_them(quantile: float) -> None:
    stems, estimates = torch.randn(2, 6, 2, 2, 100)
    loss = TrimmedSquaredError(quantile=quantile, piece_samples=None, weight=1.0)
    errors = (estimates - stems).square().mean(dim=(-2, -1)).T
    torch.testing.assert_close(loss(estimates, stems), peers(errors, quantile))


def test_single_samples_are_chosen_as_the_peers_choose_them() -> None:
    stems, estimates = torch.randn(2, 3, 2, 1, 101)
    loss = TrimmedSquaredError(quantile=0.95, piece_samples=1, weight=1.0)
    errors = (estimates - stems).square().transpose(0, 1).flatten(1)
    torch.testing.assert_close(loss(estimates, stems), peers(errors, 0.95))


def test_a_wrong_label_changes_neither_the_loss_nor_the_gradient() -> None:
    stems = torch.randn(4, 1, 1, 100)
    estimates = stems + 0.1 * torch.randn(4, 1, 1, 100)
    loss = TrimmedSquaredError(quantile=0.9, piece_samples=None, weight=1.0)
    results = []
    for wrongness in (10.0, 1000.0):
        labels = stems.clone()
        labels[2] = wrongness
        seen = estimates.clone().requires_grad_()
        cost = loss(seen, labels)
        cost.backward()
        assert seen.grad is not None
        assert seen.grad[2].abs().max() == 0
        assert seen.grad[[0, 1, 3]].abs().amin() > 0
        results.append((cost.detach(), seen.grad))
    torch.testing.assert_close(results[0], results[1], atol=0, rtol=0)


def test_a_shorter_last_piece_has_the_mean_of_its_own_samples() -> None:
    stems = torch.zeros(1, 1, 1, 25)
    estimates = torch.ones(1, 1, 1, 25)
    loss = TrimmedSquaredError(quantile=0.99, piece_samples=10, weight=1.0)
    assert float(loss(estimates, stems)) == pytest.approx(1.0)


def test_a_batch_of_one_piece_is_refused() -> None:
    loss = TrimmedSquaredError(quantile=0.9, piece_samples=None, weight=1.0)
    with pytest.raises(ValueError, match="one piece of a batch"):
        loss(torch.zeros(1, 2, 1, 10), torch.zeros(1, 2, 1, 10))


@pytest.mark.parametrize(("quantile", "piece"), [(0.0, 5), (1.0, 5), (0.9, 0)])
def test_settings_out_of_range_are_refused(quantile: float, piece: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        TrimmedSquaredError(quantile=quantile, piece_samples=piece, weight=1.0)
