"""Scores by kind and level, and the differences between two evaluations."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from frametx.metrics.differences import Comparison, compare, read_earlier
from frametx.metrics.groups import ALL, ALL_STEMS, groups_of, summarise_groups
from frametx.metrics.report import write_csv
from frametx.metrics.scores import PROTOCOLS, Score

KINDS = ("spoken", "sung")
LEVELS = ("0 dB", "-6 dB")
STEMS = ("vocals", "instrumental")
BOOTSTRAP = {"resamples": 1000, "seed": 0}


def labels_of(num_tracks: int = 12) -> dict[str, dict[str, str]]:
    return {
        f"track {n}": {"kind": KINDS[n % 2], "level": LEVELS[n // 2 % 2]} for n in range(num_tracks)
    }


def scores_of(seed: int, *, gain: float = 0.0, num_tracks: int = 12) -> list[Score]:
    generator = torch.Generator().manual_seed(seed)
    values = 10 * torch.rand(num_tracks, 2, generator=generator, dtype=torch.float64)
    return [
        Score(
            track=f"track {number}",
            stem=stem,
            seconds=1.0,
            estimate=dict.fromkeys(PROTOCOLS, float(values[number, at]) + gain),
            mixture=dict.fromkeys(PROTOCOLS, 0.0),
        )
        for number in range(num_tracks)
        for at, stem in enumerate(STEMS)
    ]


def written(folder: Path, scores: list[Score], **options) -> Path:
    folder.mkdir()
    write_csv(folder / "tracks.csv", scores, **options)
    return folder


def compared(folder: Path, scores: list[Score]) -> Comparison:
    return compare(scores, read_earlier(folder), labels_of(), resamples=1000, seed=0)


def test_groups_are_all_then_kinds_then_levels_then_both() -> None:
    groups = groups_of(labels_of())
    assert list(groups) == [
        ALL, "spoken", "sung", "0 dB", "-6 dB",
        "spoken, 0 dB", "sung, 0 dB", "spoken, -6 dB", "sung, -6 dB",
    ]  # fmt: skip
    assert groups["spoken, 0 dB"] == groups["spoken"] & groups["0 dB"]


@pytest.mark.parametrize("divided", [KINDS, LEVELS])
def test_the_groups_of_a_label_add_up_to_all(divided: tuple[str, ...]) -> None:
    found = summarise_groups(scores_of(0), labels_of(), **BOOTSTRAP)
    by_name = {(one.group, one.stem, one.metric): one for one in found}
    for stem in (*STEMS, ALL_STEMS):
        for metric in ("usdr", "si_sdr"):
            parts = [by_name[group, stem, metric] for group in divided]
            total = sum(part.estimate.mean * part.num_tracks for part in parts)
            whole = by_name[ALL, stem, metric]
            assert whole.num_tracks == sum(part.num_tracks for part in parts) == 12
            assert total / 12 == pytest.approx(whole.estimate.mean)
            assert whole.estimate.low < whole.estimate.mean < whole.estimate.high
    means = [by_name[ALL, stem, "usdr"].estimate.mean for stem in (*STEMS, ALL_STEMS)]
    assert sum(means[:2]) / 2 == pytest.approx(means[2])


def test_a_track_without_a_number_for_a_stem_is_not_in_the_mean_of_both() -> None:
    scores = scores_of(0)
    scores[0] = replace(scores[0], estimate=dict.fromkeys(PROTOCOLS, math.nan))
    found = summarise_groups(scores, labels_of(), **BOOTSTRAP)
    counts = {one.stem: one.num_tracks for one in found if (one.group, one.metric) == (ALL, "usdr")}
    assert counts == {"vocals": 11, "instrumental": 12, ALL_STEMS: 11}


def test_a_set_without_kinds_has_no_groups_and_no_columns(tmp_path: Path) -> None:
    assert summarise_groups(scores_of(0), {"track 0": {}}, **BOOTSTRAP) == []
    plain = written(tmp_path / "plain", scores_of(0)) / "tracks.csv"
    labelled = written(tmp_path / "labelled", scores_of(0), labels=labels_of()) / "tracks.csv"
    assert plain.read_text().startswith("track,stem,seconds,trained_on,usdr,")
    lines = labelled.read_text().splitlines()
    assert lines[0].startswith("track,stem,seconds,trained_on,kind,level,usdr,")
    assert lines[1].startswith("track 0,vocals,1.000,,spoken,0 dB,")


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", scores_of(0))
    comparison = compared(folder, scores_of(0))
    assert len(comparison.differences) == 9
    for one in comparison.differences:
        assert (one.difference.mean, one.difference.low, one.difference.high) == (0, 0, 0)
        assert one.this == one.against
    assert comparison.remarks == []


def test_a_constant_gain_is_found_exactly_however_far_the_tracks_spread(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", scores_of(0))
    for one in compared(folder, scores_of(0, gain=0.5)).differences:
        ends = (one.difference.mean, one.difference.low, one.difference.high)
        assert ends == pytest.approx((0.5, 0.5, 0.5))


def test_the_difference_is_that_of_the_means_and_changes_its_sign_with_the_order(
    tmp_path: Path,
) -> None:
    first, second = scores_of(1), scores_of(2)
    there = compared(written(tmp_path / "b", second), first).differences
    back = compared(written(tmp_path / "a", first), second).differences
    for one, other in zip(there, back, strict=True):
        assert one.difference.mean == pytest.approx(one.this - one.against)
        assert one.difference.mean == pytest.approx(-other.difference.mean)
        assert one.difference.low < one.difference.mean < one.difference.high


def test_tracks_of_one_evaluation_alone_and_trained_on_are_left_out(tmp_path: Path) -> None:
    trained_on = {"track 3": "content"}
    folder = written(tmp_path / "a", scores_of(0, num_tracks=6), trained_on=trained_on)
    comparison = compared(folder, scores_of(1))
    assert comparison.differences[0].num_tracks == 5
    assert comparison.num_left_out == 7
    assert "without 7 track(s)" in comparison.remarks[0]
    others = [replace(score, track=f"other {score.track}") for score in scores_of(1)]
    nothing = compared(folder, others)
    assert nothing.differences == []
    assert "no track has scores in both" in nothing.remarks[0]


def test_what_is_no_evaluation_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"against=.*nowhere holds no tracks\.csv: give the output"
    ):
        read_earlier(tmp_path / "nowhere")
    folder = written(tmp_path / "a", scores_of(0))
    text = (folder / "tracks.csv").read_text()
    for damaged, message in (
        (text.replace("usdr", "size"), r"tracks\.csv is damaged"),
        (text.replace("track 3,vocals,1.000,,", "track 3,vocals,1.000,,x"), r"is damaged"),
        (text.splitlines()[0], r"has no tracks"),
        (text[: text.index("track 1,vocals,1.0") + 10], r"is damaged"),
    ):
        (folder / "tracks.csv").write_text(damaged)
        with pytest.raises(ValueError, match=message):
            read_earlier(folder)


def test_evaluations_of_other_stems_are_not_compared(tmp_path: Path) -> None:
    others = [replace(score, stem=score.stem.replace("vocals", "drums")) for score in scores_of(0)]
    folder = written(tmp_path / "a", others)
    with pytest.raises(ValueError, match="has the stems drums, instrumental, this evaluation"):
        compared(folder, scores_of(0))
