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
    path: Path, scores: Sequence[Score], *, trained_on: Mapping[str, str] | None = None
) -> None:
    """One line for each stem of each track; a metric that is undefined is an empty field.

    Args:
        path: of the file.
        scores: of all tracks.
        trained_on: for each track that says nothing about new songs, why.
    """
    columns = ["track", "stem", "seconds", "trained_on"]
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
            writer.writerow([score.track, score.stem, seconds, reason, *numbers, protocol])


def write_json(
    path: Path,
    summaries: Sequence[Summary],
    *,
    facts: Mapping[str, Any],
    remarks: Sequence[str] = (),
    of_all: Sequence[Summary] = (),
) -> None:
    """The means below `facts`, which say what was measured on what; undefined numbers are null.

    Args:
        path: of the file.
        summaries: of the tracks that count.
        facts: plain values.
        remarks: what to mind, in lines.
        of_all: of these tracks and those that do not count; where there are none, it is left out.
    """
    stored = {
        **facts,
        "protocols": PROTOCOLS,
        "notes": [*remarks, *notes(summaries)],
        "summary": [asdict(summary) for summary in summaries],
    }
    if of_all:
        stored["summary_with_trained_on"] = [asdict(summary) for summary in of_all]
    text = json.dumps(without_nan(stored), indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """The same structure with null for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
