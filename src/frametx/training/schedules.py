"""The learning rate as a pure function of the step: nothing to save, nothing to resume."""

import math
from collections.abc import Callable
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def scheduled(optimizer: Optimizer, factor: Callable[[int], float]) -> LambdaLR:
    """The optimiser's rates times a factor of the step.

    A plain function is handed on: of a callable object LambdaLR would store the attributes in
    checkpoints, and a resumed run could not be given a longer schedule.
    """
    return LambdaLR(optimizer, lambda step: factor(step))


class WarmupDecay:
    """Rise linearly to 1, then fall to `floor` at `total_steps`, and stay there.

    With x = (step - warmup) / (total - warmup), clamped to [0, 1]:

        cosine      floor + (1 - floor) (1 + cos(pi x)) / 2
        polynomial  floor + (1 - floor) (1 - x)^power
        constant    1

    The exponent stands outside the bracket and x is clamped: the original family had 1 - x^power,
    which falls to half within a thousand steps and turns negative past the end
    (specs/training.md section 3).

    Args:
        warmup_steps: optimiser steps of the rise; step 0 already has 1 / (warmup_steps + 1). None
            is 1000, or a tenth of a training shorter than 10 000 steps.
        total_steps: optimiser steps after which the factor stays at `floor`.
        shape: of the fall.
        power: exponent of the polynomial; 1 is a straight line.
        floor: smallest factor, a share of the full learning rate.

    Raises:
        ValueError: if the warm-up does not end before the total.
    """

    def __init__(
        self,
        *,
        warmup_steps: int | None,
        total_steps: int,
        shape: Literal["cosine", "polynomial", "constant"],
        power: float,
        floor: float,
    ) -> None:
        if shape not in ("cosine", "polynomial", "constant"):
            raise ValueError(f"scheduler.shape={shape} must be cosine, polynomial or constant")
        if warmup_steps is None:
            warmup_steps = min(1000, total_steps // 10)
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"scheduler.warmup_steps={warmup_steps} must be below "
                f"scheduler.total_steps={total_steps}: shorten the warm-up or train longer"
            )
        if not 0 <= floor <= 1:
            raise ValueError(f"scheduler.floor={floor} must be between 0 and 1")
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.shape = shape
        self.power = power
        self.floor = floor

    def __call__(self, step: int) -> float:
        """The factor of the learning rate at a step counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        done = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        if self.shape == "constant":
            return 1.0
        if self.shape == "polynomial":
            return self.floor + (1 - self.floor) * (1 - done) ** self.power
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
