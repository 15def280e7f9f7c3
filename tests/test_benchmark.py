"""The command on a list of mixtures: a checkpoint, references, differences, and mistakes."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor, nn

from frametx.data.listed_mixtures import ListedMixtures
from frametx.data.lists import Entry, MixtureList, write_list
from frametx.data.lists.room import Room
from frametx.data.synthetic import music, voice
from frametx.evaluate import evaluate, main
from frametx.execution import Execution
from frametx.metrics.differences import read_earlier
from frametx.metrics.reference import Reference
from frametx.pipeline import Pipeline
from frametx.separation_options import SeparationOptions

RATE = 8_000
STEMS = ("vocals", "instrumental")
ROOM = Room(decay_seconds=0.3, predelay_ms=10.0, wet_db=-6.0, pan=0.4, seed=5)


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, save_louder_is_more: Callable[[Path], Path]
) -> Path:
    """Corpora, a list of six mixtures of a second, and a checkpoint."""
    root = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    sounds = {
        "vocals/tuxpaint_be_01.flac": voice(3 * RATE, sample_rate=RATE, rng=rng),
        "singing/synthetic_singing_tuxpaint_be_01.flac": voice(3 * RATE, sample_rate=RATE, rng=rng),
        "instrumental/singularity-music/Apex.flac": music(3 * RATE, sample_rate=RATE, rng=rng),
    }
    paths = [f"validation/{name}" for name in sounds]
    for path, sound in zip(paths, sounds.values(), strict=True):
        (root / "corpora" / path).parent.mkdir(parents=True, exist_ok=True)
        sf.write(root / "corpora" / path, sound, RATE)
    kinds = {"spoken": (paths[0], None), "sung": (paths[1], None), "in_a_room": (paths[1], ROOM)}
    entries = [
        Entry(
            name=f"{kind}_{number}",
            kind=kind,
            voice=voice_path,
            voice_start_seconds=0.5 * number,
            music=paths[2],
            music_start_seconds=1.0,
            level_db=-6.0 * number,
            room=room,
        )
        for kind, (voice_path, room) in kinds.items()
        for number in range(2)
    ]
    drawn = MixtureList(about="", seed=0, seconds=1.0, mixtures=tuple(entries), contents={})
    write_list(drawn, root / "list.json")
    save_louder_is_more(root / "a.ckpt")
    return root


def arguments(workplace: Path, *more: str) -> list[str]:
    return [
        "data=benchmark",
        f"data.test.mixtures={workplace / 'list.json'}",
        f"paths.corpora_dir={workplace / 'corpora'}",
        f"paths.cache_dir={workplace / 'cache'}",
        "pictures=0",
        "resamples=1000",
        *more,
    ]


def run(
    workplace: Path, *more: str, monkeypatch: pytest.MonkeyPatch, code: int = 0
) -> dict[str, Any]:
    """The summary of the command in the process of the test."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments(workplace, *more)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    output = next(text.partition("=")[2] for text in more if text.startswith("output="))
    path = workplace / output / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def test_the_command_reports_by_kind_and_compares(workplace: Path) -> None:
    for more in (["ckpt=a.ckpt", "output=one"], ["ckpt=a.ckpt", "output=two", "against=one"]):
        done = subprocess.run(
            [sys.executable, "-m", "frametx.evaluate", *arguments(workplace, *more)],
            cwd=workplace,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert "uSDR by kind and level, dB" in done.stdout
    assert "in_a_room, -6 dB" in done.stdout
    assert "this evaluation minus one" in done.stdout
    assert "+0.00 [+0.00, +0.00]" in done.stdout
    summary = json.loads((workplace / "two" / "summary.json").read_text())
    assert {row["group"] for row in summary["by_group"]} >= {"all", "spoken", "-6 dB"}
    assert {row["stem"] for row in summary["by_group"]} == {*STEMS, "mean"}
    by_metric = {(row["stem"], row["metric"]): row["estimate"] for row in summary["summary"]}
    for row in summary["by_group"]:
        if row["group"] == "all" and row["stem"] != "mean":
            assert row["estimate"] == by_metric[row["stem"], row["metric"]]
    assert all(row["difference"]["mean"] == 0 for row in summary["against"]["differences"])
    with (workplace / "two" / "tracks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows[::4]] == ["spoken", "sung", "in_a_room"]
    assert {row["level"] for row in rows} == {"0 dB", "-6 dB"}


def test_references_are_evaluated_like_checkpoints(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    means = {}
    for name in ("mixture", "ratio_mask", "best_mask"):
        summary = run(
            workplace, f"ckpt=reference:{name}", f"output={name}", monkeypatch=monkeypatch
        )
        (overall,) = (
            row["estimate"]["mean"]
            for row in summary["by_group"]
            if (row["group"], row["stem"], row["metric"]) == ("all", "mean", "usdr")
        )
        means[name] = overall
        assert summary["trained_on"] == {}
    assert means["mixture"] < means["ratio_mask"] < means["best_mask"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["ckpt=reference:mask"], "reference:mask: no reference of this name; there is reference:"),
        (["ckpt=[reference:mixture,a.ckpt]"], "computed from the true stems"),
        (["ckpt=reference:mixture", "quality=best"], "quality does nothing with ckpt=reference:"),
        (["ckpt=a.ckpt", "against=nowhere"], "against=nowhere holds no tracks.csv"),
        (["ckpt=a.ckpt", "data.test.mixtures=mine"], "mine: no list of this name"),
        (["ckpt=a.ckpt", "paths.corpora_dir=empty"], "3 of its 3 files are missing below empty"),
    ],
)
def test_a_mistake_is_one_line(
    more: list[str],
    message: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(workplace, *more, "output=mistaken", monkeypatch=monkeypatch, code=2)
    error = capfd.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_separate_refuses_a_reference(workplace: Path) -> None:
    song = next((workplace / "corpora").rglob("*.flac"))
    done = subprocess.run(
        [sys.executable, "-m", "frametx.separate", "ckpt=reference:best_mask", f"input={song}"],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: reference:best_mask is computed from the true stems")
    assert done.stderr.count("\n") == 1


def test_an_evaluation_without_a_track_in_common_says_so(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = workplace / "other"
    other.mkdir()
    (other / "tracks.csv").write_text("track,stem,usdr\nsong,vocals,1.0\nsong,instrumental,2.0\n")
    options = ["ckpt=reference:mixture", "output=apart", "against=other"]
    summary = run(workplace, *options, monkeypatch=monkeypatch, code=1)
    assert summary["against"]["differences"] == []
    assert "no track has scores in both evaluations" in capsys.readouterr().out


def test_a_difference_between_two_rates_is_marked_as_unfair(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mixture = ["ckpt=reference:mixture", "data.test.num_channels=1"]
    for rate in (RATE, 16_000):
        more = [f"data.test.sample_rate={rate}", f"output=at_{rate}", f"against=at_{RATE}"]
        more = more[: 2 if rate == RATE else 3]
        run(workplace, *mixture, *more, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert "this one is at 16000 Hz, 1 channel(s), that one at 8000 Hz, 1 channel(s)" in printed
    run(workplace, *mixture, *more[:2], "against=at_16000", monkeypatch=monkeypatch)
    assert "no fair one" not in capsys.readouterr().out


class Parts(nn.Module):
    """Gives stem number s of four the mixture times (s + 1) / 10."""

    def __init__(self, *stems: str) -> None:
        super().__init__()
        self.stems = stems
        self.sample_rate = RATE
        self.num_channels = 2
        self.chunk_samples = 2000

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([mixture * (stem + 1) / 10 for stem in range(4)], dim=1)


def used(separator: Parts) -> Pipeline:
    return Pipeline([separator], SeparationOptions(), execution=Execution(device="cpu"))


def listed(workplace: Path) -> ListedMixtures:
    return ListedMixtures(
        workplace / "list.json",
        root=workplace / "corpora",
        cache_dir=workplace / "cache",
        sample_rate=RATE,
        num_channels=2,
    )


def test_the_instrumental_of_four_stems_is_the_sum_of_three(workplace: Path) -> None:
    pipeline = used(Parts("drums", "bass", "other", "vocals"))
    found: list[tuple[Tensor, Tensor]] = []
    mixtures = listed(workplace)
    evaluation = evaluate(
        pipeline,
        mixtures,
        resamples=1000,
        on_track=lambda _, mixture, estimates: found.append((mixture.stems, estimates)),
    )
    assert [score.stem for score in evaluation.scores[:2]] == list(STEMS)
    stems, (vocals, instrumental) = found[0]
    whole = stems.sum(dim=0)
    assert torch.allclose(vocals + instrumental, whole, atol=1e-5)
    assert torch.allclose(vocals, 0.4 * whole, atol=1e-5)


def test_a_checkpoint_without_vocals_is_refused(workplace: Path) -> None:
    pipeline = used(Parts("drums", "bass", "other", "piano"))
    with pytest.raises(ValueError, match=r"separates \['drums', .*'piano'\], and .*list\.json has"):
        evaluate(pipeline, listed(workplace))


def test_evaluations_of_other_stems_are_refused_before_any_separation(workplace: Path) -> None:
    reference = Reference("reference:mixture")
    folder = workplace / "drums"
    folder.mkdir()
    (folder / "tracks.csv").write_text("track,stem,usdr\nsong,drums,1.0\n")
    with pytest.raises(ValueError, match="has the stems drums, this evaluation"):
        evaluate(reference, listed(workplace), against=read_earlier(folder))
