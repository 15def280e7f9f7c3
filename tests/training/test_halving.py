from itertools import pairwise

import pytest

from frametx.training.halving import Halving


def test_the_rate_is_whole_first_and_halves_every_so_often_down_to_the_floor() -> None:
    factor = Halving(first_step=3, every_n_steps=2, floor=0.2)
    assert [factor(step) for step in range(9)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2]
    assert factor(10**9) == 0.2


def test_it_never_rises() -> None:
    factor = Halving(first_step=10, every_n_steps=7, floor=0.0)
    factors = [factor(step) for step in range(200)]
    assert all(now <= before for before, now in pairwise(factors))


@pytest.mark.parametrize(
    ("first_step", "every_n_steps", "floor"), [(-1, 1, 0.1), (0, 0, 0.1), (0, 1, 1.1)]
)
def test_steps_and_floors_that_cannot_be_are_refused(
    first_step: int, every_n_steps: int, floor: float
) -> None:
    with pytest.raises(ValueError, match=r"scheduler\."):
        Halving(first_step=first_step, every_n_steps=every_n_steps, floor=floor)
