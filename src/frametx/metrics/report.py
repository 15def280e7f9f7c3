"""An evaluation on paper: a table for the terminal, a CSV of tracks, a JSON of means."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from frametx.metrics.bootstrap import LEAST_TRACKS, LEVEL
from frametx.metrics.differences import Comparison
from frametx.metrics.groups import ALL_STEMS, METRICS, GroupSummary, Labels
from frametx.metrics.scores import PROTOCOLS, Score
from frametx.metrics.summary import Interval, Summary

SUFFIXES = ("", "_mixture", "_improvement")  # of a metric's three columns in the CSV


def table(
    summaries: Sequence[Summary],
    *,
    title: str,
    of_all: Sequence[Summary] = (),
) -> Table:
    """One row for each stem and metric; the protocols stand above, what to mind stands below.

    Args:
        summaries: of the tracks that count.
        title: above.
        of_all: of these tracks and those that do not count; their mean gets a column at the end.
    """
    with_all = {(summary.stem, summary.metric): summary for summary in of_all}
    result = Table(
        title="\n".join([escape(title), *PROTOCOLS.values()]),
        caption="\n".join(notes(summaries)) or None,
        title_justify="left",
        caption_justify="left",
    )
    result.add_column("stem")
    result.add_column("metric")
    for heading in (f"mean [{LEVEL:.0%}]", "median", "mixture", "improvement", "tracks"):
        result.add_column(escape(heading), justify="right", no_wrap=True)
    if of_all:
        num_tracks = max(summary.num_tracks + summary.num_left_out for summary in of_all)
        result.add_column(f"mean of all {num_tracks}", justify="right", no_wrap=True)
    previous = None
    for summary in summaries:
        if previous is not None and previous != summary.stem:
            result.add_section()
        previous = summary.stem
        result.add_row(
            escape(summary.stem),
            PROTOCOLS[summary.metric].split(":")[0],
            escape(in_words(summary.estimate, sign="")),
            f"{summary.median:z.2f}",
            f"{summary.mixture:z.2f}",
            escape(in_words(summary.improvement, sign="+")),
            str(summary.num_tracks),
            *([f"{with_all[summary.stem, summary.metric].estimate.mean:z.2f}"] if of_all else ()),
        )
    return result


def group_tables(summaries: Sequence[GroupSummary]) -> list[Table]:
    """A table for each metric, with a row for each group and a column for each stem."""
    stems = list(dict.fromkeys(summary.stem for summary in summaries))
    groups = list(dict.fromkeys(summary.group for summary in summaries))
    cells = {(s.metric, s.group, s.stem): s for s in summaries}
    tables: list[Table] = []
    for metric in METRICS if summaries else ():
        name = PROTOCOLS[metric].split(":")[0]
        result = Table(title=f"{name} by kind and level, dB", title_justify="left")
        result.add_column("tracks of kind and level")
        for stem in stems:
            heading = "mean of the stems" if stem == ALL_STEMS else stem
            result.add_column(escape(f"{heading} [{LEVEL:.0%}]"), justify="right", no_wrap=True)
        result.add_column("tracks", justify="right")
        for group in groups:
            of_group = [cells[metric, group, stem] for stem in stems]
            result.add_row(
                escape(group),
                *(escape(in_words(one.estimate, sign="")) for one in of_group),
                str(of_group[-1].num_tracks),
            )
        tables.append(result)
    return tables


def difference_table(comparison: Comparison) -> Table:
    """One row for each group of tracks; above 0, this evaluation is better."""
    result = Table(
        title="mean uSDR of the stems, this evaluation minus "
        f"{escape(comparison.folder)}, track by track, dB",
        title_justify="left",
    )
    result.add_column("tracks")
    for heading in (f"difference [{LEVEL:.0%}]", "this", "against", "tracks"):
        result.add_column(escape(heading), justify="right", no_wrap=True)
    for one in comparison.differences:
        result.add_row(
            escape(one.group),
            escape(in_words(one.difference, sign="+")),
            f"{one.this:z.2f}",
            f"{one.against:z.2f}",
            str(one.num_tracks),
        )
    return result


def notes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader of the numbers must be told: tracks left out, intervals that say little."""
    lines = [
        f"{summary.stem}, {PROTOCOLS[summary.metric].split(':')[0]}: {summary.num_left_out} "
        "track(s) left out, where a stem or its estimate is silent"
        for summary in summaries
        if summary.num_left_out
    ]
    if any(summary.num_tracks < LEAST_TRACKS for summary in summaries):
        lines.append(
            f"fewer than {LEAST_TRACKS} tracks: the interval says little, "
            "it only knows the tracks it has seen"
        )
    return lines


def in_words(interval: Interval, *, sign: str) -> str:
    """`mean [low, high]` in dB with two decimals."""
    return f"{interval.mean:{sign}z.2f} [{interval.low:{sign}z.2f}, {interval.high:{sign}z.2f}]"


def write_csv(
    path: Path,
    scores: Sequence[Score],
    *,
    trained_on: Mapping[str, str] | None = None,
    labels: Labels | None = None,
) -> None:
    """One line for each stem of each track; a metric that is undefined is an empty field.

    Args:
        path: of the file.
        scores: of all tracks.
        trained_on: for each track that says nothing about new songs, why.
        labels: by track, what goes into columns of its own: kind, level.
    """
    of_track = labels or {}
    keys = list(dict.fromkeys(key for found in of_track.values() for key in found))
    columns = ["track", "stem", "seconds", "trained_on", *keys]
    columns += [f"{metric}{suffix}" for metric in PROTOCOLS for suffix in SUFFIXES]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "protocol"])
        protocol = "; ".join(PROTOCOLS.values())
        for score in scores:
            numbers = [
                "" if math.isnan(value) else f"{value:z.4f}"
                for metric in PROTOCOLS
                for value in (
                    score.estimate[metric],
                    score.mixture[metric],
                    score.improvement(metric),
                )
            ]
            seconds = f"{score.seconds:.3f}"
            reason = (trained_on or {}).get(score.track, "")
            found = [of_track.get(score.track, {}).get(key, "") for key in keys]
            writer.writerow([score.track, score.stem, seconds, reason, *found, *numbers, protocol])


def write_json(
    path: Path,
    summaries: Sequence[Summary],
    *,
    facts: Mapping[str, Any],
    remarks: Sequence[str] = (),
    of_all: Sequence[Summary] = (),
    by_group: Sequence[GroupSummary] = (),
    comparison: Comparison | None = None,
) -> None:
    """The means below `facts`, which say what was measured on what; undefined numbers are null.

    Args:
        path: of the file.
        summaries: of the tracks that count.
        facts: plain values.
        remarks: what to mind, in lines.
        of_all: of these tracks and those that do not count; where there are none, it is left out.
        by_group: of the tracks that count, by kind and level; likewise.
        comparison: with another evaluation; likewise.
    """
    stored = {
        **facts,
        "protocols": PROTOCOLS,
        "notes": [*remarks, *notes(summaries)],
        "summary": [asdict(summary) for summary in summaries],
    }
    if of_all:
        stored["summary_with_trained_on"] = [asdict(summary) for summary in of_all]
    if by_group:
        stored["by_group"] = [asdict(summary) for summary in by_group]
    if comparison is not None:
        stored["against"] = asdict(comparison)
    text = json.dumps(without_nan(stored), indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """The same structure with null for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
