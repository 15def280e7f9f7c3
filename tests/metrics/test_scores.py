"""Scores of a track, their means, and the files they are written to."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from frametx.metrics.report import table, write_csv, write_json
from frametx.metrics.scores import PROTOCOLS, Score, measure, score_track
from frametx.metrics.summary import Summary, summarise

RATE = 1000  # Hz
NUM_TRACKS = 5
STEMS = ("vocals", "instrumental")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scores_of(estimates: Tensor, stems: Tensor, track: str = "song") -> list[Score]:
    return score_track(estimates, stems, track=track, stem_names=STEMS, sample_rate=RATE)


def some_tracks() -> list[Score]:
    scores = []
    for seed in range(NUM_TRACKS):
        stems = noise(2, 1, 3 * RATE, seed=seed)
        estimates = stems + 0.1 * (seed + 1) * noise(2, 1, 3 * RATE, seed=10 + seed)
        scores += scores_of(estimates, stems, track=f"song {seed}")
    return scores


def summary_of(summaries: list[Summary], stem: str, metric: str) -> Summary:
    (found,) = [s for s in summaries if (s.stem, s.metric) == (stem, metric)]
    return found


def test_the_mixture_as_estimate_improves_nothing() -> None:
    stems = noise(2, 2, 2 * RATE)
    for score in scores_of(stems.sum(dim=0).expand(2, -1, -1), stems):
        assert all(score.improvement(metric) == 0 for metric in PROTOCOLS)


def test_the_mixture_of_equally_loud_unlike_stems_scores_0_db() -> None:
    stems = noise(2, 1, 100 * RATE)
    for score in scores_of(stems, stems):
        assert score.mixture["usdr"] == pytest.approx(0, abs=0.2)
        assert score.mixture["si_sdr"] == pytest.approx(0, abs=0.2)
        assert score.seconds == 100


def test_a_score_holds_what_measure_returns_for_its_stem() -> None:
    stems, estimates = noise(2, 2, 2 * RATE), noise(2, 2, 2 * RATE, seed=1)
    measured = measure(estimates, stems, sample_rate=RATE)
    assert tuple(measured) == tuple(PROTOCOLS)
    for at, score in enumerate(scores_of(estimates, stems)):
        assert score.stem == STEMS[at]
        assert score.estimate == {metric: float(measured[metric][at]) for metric in PROTOCOLS}


def test_an_estimate_that_is_not_finite_is_an_error_and_no_silence() -> None:
    stems = noise(2, 2, RATE)
    with pytest.raises(ValueError, match="the estimates of song hold NaN or infinity"):
        scores_of(stems / 0, stems)


def test_means_medians_and_improvements_are_those_of_the_scores() -> None:
    scores = some_tracks()
    summaries = summarise(scores, resamples=1000, seed=0)
    assert [(s.stem, s.metric) for s in summaries] == [(s, m) for s in STEMS for m in PROTOCOLS]
    values = [s.estimate["usdr"] for s in scores if s.stem == "vocals"]
    vocals = summary_of(summaries, "vocals", "usdr")
    assert vocals.estimate.mean == pytest.approx(sum(values) / NUM_TRACKS)
    assert vocals.median == pytest.approx(sorted(values)[NUM_TRACKS // 2])
    assert vocals.improvement.mean == pytest.approx(vocals.estimate.mean - vocals.mixture)
    assert vocals.estimate.low < vocals.estimate.mean < vocals.estimate.high
    assert (vocals.num_tracks, vocals.num_left_out) == (NUM_TRACKS, 0)


def test_a_silent_stem_is_left_out_of_the_means_and_counted() -> None:
    stems = noise(2, 1, 2 * RATE, seed=5)
    stems[0] = 0
    with_silence = some_tracks() + scores_of(stems, stems, track="silent voice")
    summaries = summarise(with_silence, resamples=1000, seed=0)
    without = summarise(some_tracks(), resamples=1000, seed=0)
    vocals = summary_of(summaries, "vocals", "si_sdr")
    assert vocals.estimate == summary_of(without, "vocals", "si_sdr").estimate
    assert (vocals.num_tracks, vocals.num_left_out) == (NUM_TRACKS, 1)
    assert summary_of(summaries, "instrumental", "si_sdr").num_tracks == NUM_TRACKS + 1
    assert "vocals, SI-SDR: 1 track(s) left out" in printed(summaries)


def printed(summaries: list[Summary]) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table(summaries, title="a.ckpt on [demo]"))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_table_names_its_protocols_and_shows_the_numbers() -> None:
    summaries = summarise(some_tracks(), resamples=1000, seed=0)
    text = printed(summaries)
    assert "a.ckpt on [demo]" in text
    assert all(protocol in text for protocol in PROTOCOLS.values())
    vocals = summary_of(summaries, "vocals", "usdr")
    assert f"{vocals.estimate.mean:.2f} [{vocals.estimate.low:.2f}" in text
    assert f"{vocals.improvement.mean:+.2f} [" in text
    assert "says little" not in text


def test_four_tracks_come_with_the_remark_that_their_interval_says_little() -> None:
    assert "the interval says little" in printed(
        summarise(some_tracks()[:8], resamples=1000, seed=0)
    )


def test_the_csv_holds_a_line_per_track_and_stem_with_the_protocol(tmp_path: Path) -> None:
    stems = noise(2, 1, 2 * RATE, seed=5)
    stems[0] = 0
    scores = some_tracks() + scores_of(stems, stems, track="silent, voice")
    write_csv(tmp_path / "tracks.csv", scores)
    with (tmp_path / "tracks.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["track"], line["stem"]) for line in lines] == [(s.track, s.stem) for s in scores]
    assert float(lines[1]["si_sdr_improvement"]) == pytest.approx(
        scores[1].improvement("si_sdr"), abs=1e-3
    )
    assert float(lines[1]["csdr_mixture"]) == pytest.approx(scores[1].mixture["csdr"], abs=1e-3)
    assert lines[2 * NUM_TRACKS]["usdr"] == ""
    assert "BSSEval v4" in lines[0]["protocol"]


def test_the_json_holds_the_same_means_and_null_for_what_is_undefined(tmp_path: Path) -> None:
    stems = noise(2, 1, 2 * RATE, seed=5)
    stems[0] = 0
    for scores in (some_tracks(), scores_of(stems, stems)):
        summaries = summarise(scores, resamples=1000, seed=0)
        write_json(tmp_path / "summary.json", summaries, facts={"ckpt": "a.ckpt"})
        stored = json.loads((tmp_path / "summary.json").read_text())
        assert stored["ckpt"] == "a.ckpt"
        assert stored["protocols"] == PROTOCOLS
        mean = stored["summary"][0]["estimate"]["mean"]
        expected = summaries[0].estimate.mean
        assert mean is None if math.isnan(expected) else mean == expected
    assert stored["notes"]
