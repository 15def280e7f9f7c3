"""The interval around a mean over tracks."""

import math

import pytest
import torch

from frametx.metrics.bootstrap import bootstrap_interval


def draw(count: int, seed: int = 0) -> torch.Tensor:
    return 5 + 2 * torch.randn(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_the_interval_contains_the_mean(count: int) -> None:
    values = draw(count)
    low, high = bootstrap_interval(values, resamples=2000, seed=0)
    assert values.min() <= low <= values.mean() <= high <= values.max()


def test_the_interval_shrinks_with_the_square_root_of_the_number_of_tracks() -> None:
    def width(count: int) -> float:
        low, high = bootstrap_interval(draw(count), resamples=4000, seed=0)
        return high - low

    assert width(50) / width(800) == pytest.approx(4, rel=0.25)


def test_the_interval_of_many_normal_values_is_the_textbooks() -> None:
    values = draw(400)
    low, high = bootstrap_interval(values, resamples=4000, seed=0)
    textbook = 2 * 1.96 * values.std().item() / math.sqrt(len(values))
    assert high - low == pytest.approx(textbook, rel=0.1)


def test_nineteen_of_twenty_intervals_hold_the_true_mean() -> None:
    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(draw(60, seed), resamples=1000, seed=seed)
        held += low <= 5 <= high
    assert 0.89 <= held / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = draw(10)
    first = bootstrap_interval(values, resamples=1000, seed=3)
    assert bootstrap_interval(values, resamples=1000, seed=3) == first
    assert bootstrap_interval(values, resamples=1000, seed=4) != first


def test_one_value_is_its_own_interval_and_none_has_none() -> None:
    one = torch.tensor([2.5])
    assert bootstrap_interval(one, resamples=1000, seed=0) == (2.5, 2.5)
    assert all(math.isnan(end) for end in bootstrap_interval(one[:0], resamples=1000, seed=0))


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="resamples=999 must be at least 1000"):
        bootstrap_interval(draw(5), resamples=999, seed=0)
