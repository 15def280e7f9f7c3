"""A learning rate that halves again and again, as a pure function of the step."""


class Halving:
    """1 until `first_step`, then half, and half of that every so often, down to `floor`.

    The SepFormer's rate halves where validation has not improved for three epochs, from a certain
    epoch on. That rule needs a memory; this one has none, so a resumed run continues exactly.

    Args:
        first_step: optimiser steps before the first halving.
        every_n_steps: between two of them.
        floor: smallest factor.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(self, *, first_step: int, every_n_steps: int, floor: float) -> None:
        if first_step < 0 or every_n_steps < 1:
            raise ValueError(
                f"scheduler.first_step={first_step} must be at least 0 and "
                f"scheduler.every_n_steps={every_n_steps} at least 1"
            )
        if not 0 <= floor <= 1:
            raise ValueError(f"scheduler.floor={floor} must be between 0 and 1")
        self.first_step = first_step
        self.every_n_steps = every_n_steps
        self.floor = floor

    def __call__(self, step: int) -> float:
        """The factor of the learning rate at a step counted from 0."""
        num_halvings = max(0, -(-(step + 1 - self.first_step) // self.every_n_steps))
        return max(self.floor, 0.5**num_halvings)
