"""Means over groups of tracks: by kind, by level, and by both; of each stem and of all stems."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from frametx.metrics.scores import Score
from frametx.metrics.summary import Interval, interval

METRICS = ("usdr", "si_sdr")
ALL = "all"
"""Name of the group of all tracks."""
ALL_STEMS = "mean"
"""Stands for the mean over the stems of a track, where a stem is named otherwise."""
Labels = Mapping[str, Mapping[str, str]]
"""By track: {"kind": "sung", "level": "-6 dB"}."""


@dataclass(frozen=True)
class GroupSummary:
    """One metric of one stem, or of the mean over the stems, over the tracks of a group."""

    group: str
    stem: str
    metric: str
    estimate: Interval
    num_tracks: int
    """Those on which the metric is defined."""


def groups_of(labels: Labels) -> dict[str, frozenset[str]]:
    """Tracks by group: all, one group for each label, and one for each combination of labels.

    Labels come in the order in which they first appear, first all kinds, then all levels.
    """
    keys = list(dict.fromkeys(key for of_track in labels.values() for key in of_track))
    wanted = [(key,) for key in keys] + ([tuple(keys)] if len(keys) > 1 else [])
    groups = {ALL: set(labels)}
    for combination in wanted:
        for track, of_track in labels.items():
            if all(key in of_track for key in combination):
                name = ", ".join(of_track[key] for key in combination)
                groups.setdefault(name, set()).add(track)
    return {name: frozenset(tracks) for name, tracks in groups.items()}


def summarise_groups(
    scores: Sequence[Score], labels: Labels, *, resamples: int, seed: int
) -> list[GroupSummary]:
    """A summary for each group, metric and stem, and for the mean over the stems.

    Args:
        scores: of the tracks that count.
        labels: of all tracks; without any there are no groups, and the list is empty.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    if not any(labels.values()):
        return []
    return [
        GroupSummary(
            group=group,
            stem=stem,
            metric=metric,
            estimate=interval(
                [value for track, value in values if track in tracks],
                resamples=resamples,
                seed=seed,
            ),
            num_tracks=sum(track in tracks for track, _ in values),
        )
        for group, tracks in groups_of(labels).items()
        for metric in METRICS
        for stem, values in _by_stem(scores, metric)
    ]


def _by_stem(scores: Sequence[Score], metric: str) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """For each stem, and for the mean over all, the value of every track that has one."""
    stems = list(dict.fromkeys(score.stem for score in scores))
    counted = [score for score in scores if score.counts(metric)]
    of_track: dict[str, list[float]] = {}
    for score in counted:
        of_track.setdefault(score.track, []).append(score.estimate[metric])
    for stem in stems:
        yield stem, [(s.track, s.estimate[metric]) for s in counted if s.stem == stem]
    yield (
        ALL_STEMS,
        [(track, sum(v) / len(v)) for track, v in of_track.items() if len(v) == len(stems)],
    )
