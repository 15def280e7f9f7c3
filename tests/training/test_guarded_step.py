import pytest
import torch
from torch import nn

from frametx.training.guarded_step import GuardedStep
from frametx.training.step_batch import StepBatch

BATCH = StepBatch(torch.zeros(1, 2, 1, 4), [7], 1, lambda sample: f"file {sample}")


def step(guarded: GuardedStep, weight: nn.Parameter, loss: torch.Tensor) -> list[str]:
    """One step on a finite gradient; what was reported."""
    reported: list[str] = []
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    guarded(optimizer, [weight], position=3, loss=loss, batch=BATCH, say=reported.append)
    return reported


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_skipped_although_its_gradient_is(loss: float) -> None:
    guarded = GuardedStep(clip_norm=10.0, max_nonfinite=2)
    weight = nn.Parameter(torch.zeros(2))
    (line,) = step(guarded, weight, torch.tensor(loss))
    assert "step 3" in line
    assert "file 7" in line
    assert guarded.num_skipped == 1
    assert weight.tolist() == [0, 0]
    assert weight.grad is None
    assert step(guarded, weight, torch.tensor(1.0)) == []
    assert weight.tolist() == [-0.5, -0.5]
    assert guarded.num_skipped == 1


def test_too_many_in_a_row_end_the_training() -> None:
    guarded = GuardedStep(clip_norm=10.0, max_nonfinite=1)
    weight = nn.Parameter(torch.zeros(2))
    step(guarded, weight, torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match=r"max_nonfinite=1"):
        step(guarded, weight, torch.tensor(float("nan")))


def test_a_loss_of_another_device_that_is_not_finite_is_skipped_here_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exchange(flag: torch.Tensor, _: object) -> None:
        flag.zero_()  # another device has a NaN

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", exchange)
    guarded = GuardedStep(clip_norm=10.0, max_nonfinite=2)
    weight = nn.Parameter(torch.zeros(2))
    assert len(step(guarded, weight, torch.tensor(1.0))) == 1
    assert weight.tolist() == [0, 0]
