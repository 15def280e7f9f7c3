"""Means over tracks, one per stem and metric, with the interval that each deserves."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from frametx.metrics.bootstrap import bootstrap_interval
from frametx.metrics.scores import PROTOCOLS, Score


@dataclass(frozen=True)
class Interval:
    """A mean over tracks in dB and the 95 % bootstrap interval around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One metric of one stem over all tracks on which it is defined.

    `median` is over tracks and of the estimate alone: papers quote the median of cSDR.
    """

    stem: str
    metric: str
    estimate: Interval
    median: float
    mixture: float
    improvement: Interval
    num_tracks: int
    num_left_out: int  # a stem or its estimate is silent


def summarise(scores: Sequence[Score], *, resamples: int, seed: int) -> list[Summary]:
    """A summary for each stem and metric, stems in the order in which they first appear."""
    return [
        summarise_metric(
            [score for score in scores if score.stem == stem],
            stem=stem,
            metric=metric,
            resamples=resamples,
            seed=seed,
        )
        for stem in dict.fromkeys(score.stem for score in scores)
        for metric in PROTOCOLS
    ]


def summarise_metric(
    scores: Sequence[Score], *, stem: str, metric: str, resamples: int, seed: int
) -> Summary:
    """Mean, median and intervals of one metric; tracks on which it is undefined are left out."""
    counted = [score for score in scores if score.counts(metric)]
    estimates = [score.estimate[metric] for score in counted]
    return Summary(
        stem=stem,
        metric=metric,
        estimate=interval(estimates, resamples=resamples, seed=seed),
        median=float(torch.tensor(estimates).double().quantile(0.5)) if counted else torch.nan,
        mixture=mean([score.mixture[metric] for score in counted]),
        # Of the differences, not the difference of two intervals: both see the same tracks.
        improvement=interval(
            [score.improvement(metric) for score in counted], resamples=resamples, seed=seed
        ),
        num_tracks=len(counted),
        num_left_out=len(scores) - len(counted),
    )


def interval(values: Sequence[float], *, resamples: int, seed: int) -> Interval:
    """The mean of values that are all finite, and its interval."""
    tensor = torch.tensor(values, dtype=torch.float64)
    low, high = bootstrap_interval(tensor, resamples=resamples, seed=seed)
    return Interval(mean=mean(values), low=low, high=high)


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return sum(values) / len(values) if values else torch.nan
