"""How much better one evaluation is than another of the same tracks: the paired bootstrap.

The two are compared track by track, so that what makes a track easy or hard for both drops out: the
interval of the difference is narrower than the intervals of the two means, often by far.
"""

import csv
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from frametx.metrics.groups import Labels, groups_of
from frametx.metrics.scores import Score
from frametx.metrics.summary import Interval, interval, mean

METRIC = "usdr"
DECIMALS = 4
"""Of a value in tracks.csv."""


@dataclass(frozen=True)
class Earlier:
    """The uSDR of an evaluation that has been written to a folder.

    Args:
        folder: as the user gave it.
        by_track: mean uSDR over the stems, dB; only tracks on which all stems have one.
        stems: their names.
        trained_on: tracks that were trained on.
        formats: rates and channels of its tracks, as in summary.json; empty where they are unknown.
    """

    folder: str
    by_track: Mapping[str, float]
    stems: frozenset[str]
    trained_on: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Difference:
    """Mean uSDR over the stems of two evaluations, on the tracks of a group that both have."""

    group: str
    this: float
    against: float
    difference: Interval
    """This minus against: above 0, this one is better."""
    num_tracks: int


@dataclass(frozen=True)
class Comparison:
    """All differences to another evaluation.

    Args:
        folder: of the other evaluation.
        differences: one for each group; none where no track is in both.
        num_left_out: tracks that only one of the two has.
        other_formats: the two sets of formats, in words, where they differ; else empty.
    """

    folder: str
    differences: list[Difference] = field(default_factory=list)
    num_left_out: int = 0
    other_formats: str = ""

    @property
    def remarks(self) -> list[str]:
        """What to mind, in lines, or none."""
        if not self.differences:
            return [f"no difference to {self.folder}: no track has scores in both evaluations"]
        lines: list[str] = []
        if self.other_formats:
            lines.append(
                f"the difference to {self.folder} is no fair one: {self.other_formats}; choose one "
                "for both by data.test.sample_rate= and data.test.num_channels="
            )
        if self.num_left_out:
            lines.append(
                f"the difference to {self.folder} is without {self.num_left_out} track(s) that "
                "have scores in one of the two alone, or were trained on"
            )
        return lines


def read_earlier(folder: Path | str) -> Earlier:
    """The scores in a folder that `python -m frametx.evaluate` has written.

    Raises:
        ValueError: if there are none, or they cannot be read.
    """
    path = Path(folder).expanduser() / "tracks.csv"
    if not path.is_file():
        raise ValueError(
            f"against={folder} holds no tracks.csv: give the output folder of an evaluation"
        )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                (row["track"], row["stem"], row[METRIC], row.get("trained_on"))
                for row in csv.DictReader(file)
            ]
        values = [
            (track, stem, float("nan" if value == "" else value)) for track, stem, value, _ in rows
        ]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error!r}): evaluate again") from error
    if not values:
        raise ValueError(f"{path} has no tracks: evaluate again")
    return Earlier(
        folder=str(folder),
        by_track=_means(values),
        stems=frozenset(stem for _, stem, _ in values),
        trained_on=frozenset(track for track, _, _, reason in rows if reason),
        formats=_formats_of(path.with_name("summary.json")),
    )


def compare(
    scores: Sequence[Score],
    earlier: Earlier,
    labels: Labels,
    *,
    resamples: int,
    seed: int,
    formats: Collection[str] = (),
) -> Comparison:
    """The differences of this evaluation to an earlier one, over all tracks and by group.

    Values are rounded as they are in tracks.csv, so a model does not differ from itself.

    Args:
        scores: of this evaluation, of the tracks that count.
        earlier: the other one; of it too, tracks that were trained on do not count.
        labels: of the tracks, see `frametx.metrics.groups`.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        formats: rates and channels of the tracks.

    Raises:
        ValueError: if the two have other stems.
    """
    check_same_stems({score.stem for score in scores}, earlier)
    ours = _means(
        [(s.track, s.stem, round(s.estimate[METRIC], DECIMALS)) for s in scores if s.counts(METRIC)]
    )
    counted = earlier.by_track.keys() - earlier.trained_on
    common = [track for track in ours if track in counted]
    num_left_out = len((ours.keys() | earlier.by_track.keys()) - set(common))
    if not common:
        return Comparison(earlier.folder, num_left_out=num_left_out)
    found = [
        _difference(
            group,
            [(ours[track], earlier.by_track[track]) for track in common if track in tracks],
            resamples=resamples,
            seed=seed,
        )
        for group, tracks in groups_of({track: labels.get(track, {}) for track in common}).items()
    ]
    both = [", ".join(sorted(of_one)) for of_one in (formats, earlier.formats)]
    differ = f"this one is at {both[0]}, that one at {both[1]}" if both[0] != both[1] else ""
    return Comparison(earlier.folder, found, num_left_out, differ if all(both) else "")


def check_same_stems(stems: set[str], earlier: Earlier) -> None:
    """Refuse to compare evaluations of other stems.

    Raises:
        ValueError: naming both.
    """
    if stems != earlier.stems:
        raise ValueError(
            f"against={earlier.folder} has the stems {', '.join(sorted(earlier.stems))}, this "
            f"evaluation {', '.join(sorted(stems))}: compare two of the same stems"
        )


def _difference(
    group: str, pairs: Sequence[tuple[float, float]], *, resamples: int, seed: int
) -> Difference:
    this, against = zip(*pairs, strict=True)
    return Difference(
        group=group,
        this=mean(this),
        against=mean(against),
        # The same tracks are drawn again for both, which is to draw their differences again.
        difference=interval([a - b for a, b in pairs], resamples=resamples, seed=seed),
        num_tracks=len(pairs),
    )


def _formats_of(summary: Path) -> frozenset[str]:
    """What a summary.json says of its tracks; nothing where it is missing or of another kind."""
    try:
        return frozenset(map(str, json.loads(summary.read_text(encoding="utf-8"))["formats"]))
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _means(values: Sequence[tuple[str, str, float]]) -> dict[str, float]:
    """Mean over the stems of every track on which all have a value."""
    num_stems = len({stem for _, stem, _ in values})
    by_track: dict[str, list[float]] = {}
    for track, _, value in values:
        if not math.isnan(value):
            by_track.setdefault(track, []).append(value)
    return {track: mean(v) for track, v in by_track.items() if len(v) == num_stems}
