"""The check of speakers: who is there, what is rejected, and who is on both sides of the split."""

import json
import sys
from inspect import unwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hydra.core.global_hydra import GlobalHydra

from frametx.check import main
from frametx.config import hydra_main
from frametx.data.synthetic import voice

RATE = 8_000


def said(seed: int) -> np.ndarray:
    return voice(RATE, sample_rate=RATE, rng=np.random.default_rng(seed))


def write(path: Path, waveform: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, RATE)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """The command in this process and in `tmp_path`: exit code, report, output, error."""

    def check(*arguments: str) -> tuple[int, dict[str, Any], str, str]:
        monkeypatch.chdir(tmp_path)
        given = ["audio=8k_mono", "data=speakers", "paths.cache_dir=cache", *arguments]
        monkeypatch.setattr(sys, "argv", ["frametx.check", *given])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            hydra_main("check")(unwrap(main))()
        GlobalHydra.instance().clear()
        torch.set_grad_enabled(True)
        printed = capfd.readouterr()
        path = tmp_path / "check" / "report.json"
        report = json.loads(path.read_text()) if path.exists() else {}
        return int(stopped.value.code or 0), report, printed.out, printed.err

    return check


def found(report: dict[str, Any]) -> set[tuple[str, str, bool]]:
    return {(Path(f["path"]).name, f["kind"], f["is_fault"]) for f in report["findings"]}


def test_speakers_are_counted_and_rejects_are_told(tmp_path: Path, run: Any) -> None:
    for number, name in enumerate(("ann", "bob", "cid", "dee", "eve")):
        write(tmp_path / "speech" / name / "one.wav", said(2 * number))
        write(tmp_path / "speech" / name / "book" / "two.wav", said(2 * number + 1))
    write(tmp_path / "speech" / "alone.wav", said(90))
    (tmp_path / "speech" / "ann" / "text.wav").write_text("this is no audio")
    code, report, printed, error = run("data.speakers=speech", "data.held_out=0.4", "strict=true")
    assert (code, error) == (1, "")
    by_split = {part["split"]: part for part in report["parts"]}
    assert {part["role"] for part in report["parts"]} == {"speakers"}
    assert sum(part["speakers_or_artists"] for part in report["parts"]) == 6
    assert by_split["validation"]["speakers_or_artists"] >= 2
    assert sum(part["files"] for part in report["parts"]) == 11
    assert sum(part["hours"] for part in report["parts"]) == pytest.approx(11 / 3600)
    assert by_split["train"]["rejected"] == 1
    assert ("text.wav", "unreadable", True) in found(report)
    assert not any(f["kind"] == "shared_speaker" for f in report["findings"])
    assert "speakers" in printed.splitlines()[1]


def test_a_speaker_on_both_sides_of_the_split_is_a_fault(tmp_path: Path, run: Any) -> None:
    """Folders of one name in two libraries are one person, whom the split cannot know."""
    names = ("a/ann", "b/Ann", "a/bob", "b/bob", "a/cid", "b/cid", "a/dee", "b/eve")
    for number, place in enumerate(names):
        write(tmp_path / place / "x.wav", said(number))
    _, report, printed, _ = run("data.speakers=[a,b]", "data.held_out=0.5")
    parts: dict[str, list[str]] = {"train": [], "validation": []}
    for file in report["files"]:
        parts[file["part"].split()[0]].append(Path(file["path"]).parent.name.lower())
    shared = {name for name in parts["train"] if name in parts["validation"]}
    assert shared
    assert shared != set(parts["train"])
    told = [f for f in report["findings"] if f["kind"] == "shared_speaker"]
    assert {Path(f["path"]).parent.name.lower() for f in told} == shared
    assert all(f["is_fault"] and "also in validation speakers" in f["reason"] for f in told)
    assert "fault shared_speaker" in printed
    exclude = (tmp_path / "check" / "exclude.txt").read_text()
    assert exclude.count("shared_speaker") == len(told)


def test_mixtures_to_test_on_may_repeat_a_voice_but_not_one_that_is_trained_on(
    tmp_path: Path, run: Any
) -> None:
    for number, name in enumerate(("ann", "bob", "cid", "dee")):
        write(tmp_path / "speech" / name / "one.wav", said(number))
    # One voice in two mixtures, in different places, is how such sets are made.
    for mixture, voices in {"m1": (50, 51), "m2": (51, 52), "m3": (50, 0)}.items():
        for place, seed in enumerate(voices, start=1):
            write(tmp_path / "mixed" / mixture / f"speaker_{place}.wav", said(seed))
    test = (
        "{_target_: frametx.data.speakers.AnyOrder, "
        "tracks: {_target_: frametx.data.tracks.Tracks, root: mixed, stems: ${stems}}}"
    )
    _, report, _, error = run(
        "data.speakers=speech", f"data.validation={test}", "notes=[abrupt_end,band_limited]"
    )
    assert error == ""
    tested = next(part for part in report["parts"] if part["split"] == "validation")
    assert (tested["files"], tested["speakers_or_artists"]) == (6, 0)
    faults = [f for f in report["findings"] if f["is_fault"]]
    assert [(Path(f["path"]).parent.name, f["kind"]) for f in faults] == [("ann", "shared")]
    assert "m3/speaker_2.wav (validation speakers)" in faults[0]["reason"]


def test_a_preview_is_what_training_hears(tmp_path: Path, run: Any) -> None:
    for number, name in enumerate(("ann", "bob", "cid", "dee")):
        write(tmp_path / "speech" / name / "one.wav", said(number))
    stages = "curriculum.stages=[{until_step:null,frames:20,batch_size:2,accumulate:1}]"
    code, _, printed, error = run("data.speakers=speech", "preview=2", stages, "num_speakers=2")
    assert (code, error) == (0, "")
    folder = tmp_path / "check" / "preview"
    told = json.loads((folder / "preview.json").read_text())
    assert len(told) == 2
    for number, sample in enumerate(told):
        assert sample["files"] in printed
        stems = [
            soundfile.read(folder / f"sample_{number:03d}" / f"{name}.wav")[0]
            for name in ("speaker_1", "speaker_2", "mixture")
        ]
        np.testing.assert_allclose(stems[0] + stems[1], stems[2], atol=1e-6)
        for place, stem in enumerate(stems[:2], start=1):
            drawn = sample["drawn"][f"speaker_{place}"]["level_db"]
            assert 10 * np.log10(np.square(stem).mean()) == pytest.approx(drawn, abs=0.01)
