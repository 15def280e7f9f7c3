"""An optimiser step that a loss or gradient which is not finite cannot spoil."""

import math
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from frametx.training.step_batch import StepBatch


class GuardedStep:
    """Clips the gradient and steps; a loss or gradient that is not finite is skipped and counted.

    A loss may be NaN where the gradient is finite: a clamp passes NaN on, and back nothing.

    Args:
        clip_norm: largest global L2 norm of the gradient.
        max_nonfinite: steps in a row that may be skipped; one more ends the training.
        player: whose gradient it is where there are several, e.g. `discriminator`.

    Attributes:
        num_skipped: in all; the owner stores it in checkpoints.
    """

    def __init__(self, *, clip_norm: float, max_nonfinite: int, player: str | None = None) -> None:
        self.clip_norm = clip_norm
        self.max_nonfinite = max_nonfinite
        self.player = player
        self.num_skipped = 0
        self._skipped_in_a_row = 0

    def __call__(
        self,
        optimizer: Optimizer,
        parameters: Iterable[nn.Parameter],
        *,
        position: int,
        loss: Tensor,
        batch: StepBatch,
        say: Callable[[str], None],
    ) -> Tensor:
        """Take the step and forget the gradient; returns its norm before clipping.

        All ranks decide alike: the gradient was exchanged before, and whether all losses are finite
        is exchanged here.

        Args:
            optimizer: Lightning's wrapper, where the step shall count, or a plain one.
            parameters: whose gradients are clipped together.
            position: of the step, for the message.
            loss: of the step, likewise.
            batch: of the step, likewise.
            say: is told what was skipped.

        Raises:
            FloatingPointError: if too many steps in a row had to be skipped.
        """
        norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        if math.isfinite(norm.item()) and _is_finite_everywhere(loss):
            self._skipped_in_a_row = 0
            optimizer.step()
        else:
            self._skip(batch, position, float(loss), norm.item(), say)
        optimizer.zero_grad(set_to_none=True)
        return norm

    def _skip(
        self,
        batch: StepBatch,
        position: int,
        loss: float,
        norm: float,
        say: Callable[[str], None],
    ) -> None:
        self.num_skipped += 1
        self._skipped_in_a_row += 1
        behind = "; ".join(f"sample {n}: {batch.describe(n)}" for n in batch.samples)
        who = "" if self.player is None else f" of the {self.player}"
        message = (
            f"step {position}{who} has loss {loss:g} and gradient norm {norm:g}: skipped "
            f"({self._skipped_in_a_row} in a row, {self.num_skipped} in all); it was {behind}"
        )
        if self._skipped_in_a_row > self.max_nonfinite:
            raise FloatingPointError(
                f"{message}. Training stops after more than module.max_nonfinite="
                f"{self.max_nonfinite} such steps in a row: lower optimizer.lr, or look at these "
                "files; the last checkpoint is from before"
            )
        say(message)


def _is_finite_everywhere(loss: Tensor) -> bool:
    """Whether the loss of this step is finite on all devices."""
    is_finite = loss.detach().isfinite().all().to(torch.int32)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(is_finite, torch.distributed.ReduceOp.MIN)
    return bool(is_finite)


def step_schedules(*schedules: LRScheduler) -> None:
    """Let the learning rates go on, whether or not the optimiser took its step.

    Torch warns of a schedule that is ahead of its optimiser, which is right here: a first step may
    have been skipped, and a player may start late.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for schedule in schedules:
            schedule.step()
