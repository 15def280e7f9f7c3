from typing import Literal

import pytest

from frametx.training.schedules import WarmupDecay

Shape = Literal["cosine", "polynomial", "constant"]


def schedule(
    shape: Shape, *, warmup: int = 10, total: int = 1000, power: float = 0.1, floor: float = 0.0
) -> WarmupDecay:
    return WarmupDecay(
        warmup_steps=warmup, total_steps=total, shape=shape, power=power, floor=floor
    )


@pytest.mark.parametrize("shape", ["cosine", "polynomial", "constant"])
def test_it_rises_then_never_rises_again_and_is_never_negative(shape: Shape) -> None:
    factors = [schedule(shape)(step) for step in range(1500)]
    assert factors[:11] == sorted(factors[:11])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert min(factors) >= 0.0


def test_the_first_step_already_learns() -> None:
    assert schedule("cosine")(0) > 0


@pytest.mark.parametrize("shape", ["cosine", "polynomial"])
def test_it_ends_at_the_floor_and_stays(shape: Shape) -> None:
    decay = schedule(shape, floor=0.05)
    assert decay(1000) == pytest.approx(0.05)
    assert decay(10**9) == pytest.approx(0.05)


def test_the_exponent_stands_outside_the_bracket() -> None:
    """With power 0.1 the original fell to half within 1 % of the way; this one stays above 0.9."""
    assert schedule("polynomial")(20) > 0.9
    assert schedule("polynomial", power=1.0, warmup=0)(500) == pytest.approx(0.5)


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match="warmup_steps=1000"):
        schedule("cosine", warmup=1000)
    with pytest.raises(ValueError, match=r"floor=1\.5"):
        schedule("cosine", floor=1.5)


@pytest.mark.parametrize(
    ("total", "warmup"), [(1, 0), (2, 0), (300, 30), (10_000, 1000), (10**6, 1000)]
)
def test_a_warm_up_left_open_fits_into_any_training(total: int, warmup: int) -> None:
    schedule = WarmupDecay(
        warmup_steps=None, total_steps=total, shape="cosine", power=1.0, floor=0.0
    )
    assert schedule.warmup_steps == warmup
