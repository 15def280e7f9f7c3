"""MUSDB18 at the command line: trained on four stems, tested with others, and what is no test."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from frametx import evaluate
from frametx.checkpoint import heard_by, save_separator
from frametx.config import conf_dir
from frametx.data.synthetic import write_synthetic_tracks
from frametx.train import main as train_main

RATE = 16_000
FOUR = ("vocals", "drums", "bass", "other")
TRAINED = ("AvaLuna - Waterduct", "BigTroubles - Phantom")
VALIDATED = ("James May - On The Line", "Leaf - Summerghost")
TESTED = ("Al James - Schoolboy Facination", "Zeno - Signs")
ROWS = {"usdr", "csdr", "si_sdr"}

Command = Callable[..., tuple[int, str, str]]


def write_songs(folder: Path, *names: str, seed: int) -> None:
    made = folder / "made"
    write_synthetic_tracks(
        made, seconds=2.4, num_tracks=len(names), sample_rate=RATE, seed=seed, stems=FOUR
    )
    for number, name in enumerate(names):
        (made / f"track_{number:03d}").rename(folder / name)
    made.rmdir()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("musdb18hq")
    write_songs(folder / "train", *TRAINED, *VALIDATED, seed=1)
    write_songs(folder / "test", *TESTED, seed=2)
    return folder


def trained_with(root: Path, *overrides: str) -> list[str]:
    return [
        *("audio=16k_mono", "audio.n_fft=64", "audio.hop_length=32", "audio.chunk_frames=512"),
        *("data=musdb18", f"data.root={root}", "data.num_workers=0"),
        *("model=jansson_unet_tiny", "model.num_bins=32", "model.widths=[2,2]"),
        *("model.num_dropout_levels=0", "stems=[vocals,drums,bass,other]"),
        *("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "~callbacks.progress"),
        *("trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.log_every_n_steps=1"),
        "curriculum.stages=[{until_step:null,frames:16,batch_size:2,accumulate:1}]",
        *overrides,
    ]


def command_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    main = {"train": train_main, "evaluate": evaluate.main}[name]

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        return int(str(ended.value.code)), printed.out, printed.err

    return run


@pytest.fixture
def run_train(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line("train", monkeypatch, capfd)


@pytest.fixture
def run_evaluate(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line("evaluate", monkeypatch, capfd)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of this module are run, and what they leave is kept."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def ckpt(root: Path, work: Path, run_train: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of two steps; trained once for all tests."""
    best = work / "run" / "checkpoints" / "best.ckpt"
    monkeypatch.chdir(work)
    if not best.is_file():
        given = [f"paths.output_dir={work / 'run'}", f"paths.cache_dir={work / 'cache'}"]
        code, printed, error = run_train(*trained_with(root, *given, "complement=other"))
        assert code == 0, error
        (work / "printed.txt").write_text(printed)
    return best


def lines_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "tracks.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_four_stems_are_trained_validated_and_reported_each(ckpt: Path, work: Path) -> None:
    printed = (work / "printed.txt").read_text()
    assert "tracks: 2 to train on, 2 to validate on, 2 to test with" in printed
    for told in ("2 of the 86 training", "2 of the 14 validation", "2 of the 50 test"):
        assert f"MUSDB18: {told} tracks are there" in printed
    summary = json.loads((work / "run" / "evaluation" / "summary.json").read_text())
    told = [(row["stem"], row["metric"]) for row in summary["summary"]]
    assert set(told) == {(stem, metric) for stem in FOUR for metric in ROWS}
    assert summary["trained_on"] == {}
    found = [(line["track"], line["stem"]) for line in lines_of(work / "run" / "evaluation")]
    assert found == [(f"test/{name}", stem) for name in TESTED for stem in FOUR]
    for stem in FOUR:
        assert f"│ {stem} " in printed


def test_the_best_checkpoint_is_that_of_the_mean_over_stems(ckpt: Path, work: Path) -> None:
    with (work / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/si_sdr"]]
    assert len(rows) == 2
    for row in rows:
        of_stems = [float(row[f"val/si_sdr/{stem}"]) for stem in FOUR]
        assert float(row["val/si_sdr"]) == pytest.approx(sum(of_stems) / 4, abs=1e-3)
    states = torch.load(ckpt, weights_only=True)["callbacks"].values()
    (best,) = [float(s["best_model_score"]) for s in states if "best_model_score" in s]
    assert best == pytest.approx(max(float(row["val/si_sdr"]) for row in rows), abs=1e-4)


def test_tracks_that_were_trained_on_are_told_and_do_not_count(
    ckpt: Path, root: Path, work: Path, tmp_path: Path, run_evaluate: Command
) -> None:
    songs = tmp_path / "songs"
    for name in TESTED:
        shutil.copytree(root / "test" / name, songs / name)
    shutil.copytree(root / "train" / TRAINED[0], songs / "something else")
    write_songs(songs, VALIDATED[0], seed=5)  # of another edition: only the name is known
    given = [f"ckpt={ckpt}", "device=cpu", "pictures=0", f"paths.cache_dir={work / 'cache'}"]
    code, printed, _ = run_evaluate(*given, f"data={songs}", f"output={tmp_path / 'some'}")
    assert code == 0
    assert "1 of 4 tracks were trained on: something else" in printed
    assert f"1 of 4 tracks are of the training part of MUSDB18: {VALIDATED[0]}" in printed
    assert "mean of all 4" in printed
    shutil.rmtree(songs / "something else")
    shutil.rmtree(songs / VALIDATED[0])
    _, untouched, _ = run_evaluate(*given, f"data={songs}", f"output={tmp_path / 'none'}")
    assert "trained on" not in untouched
    some, none = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("some", "none")
    )
    assert some["summary"] == none["summary"]
    assert some["trained_on"] == {"something else": "content", VALIDATED[0]: "MUSDB18"}
    assert {row["num_tracks"] for row in some["summary_with_trained_on"]} == {4}
    assert "summary_with_trained_on" not in none
    assert any("were trained on: something else" in note for note in some["notes"])
    marked = {line["track"]: line["trained_on"] for line in lines_of(tmp_path / "some")}
    assert marked == {**some["trained_on"], TESTED[0]: "", TESTED[1]: ""}


def test_where_all_were_trained_on_their_scores_come_with_a_warning(
    ckpt: Path, root: Path, work: Path, tmp_path: Path, run_evaluate: Command
) -> None:
    code, printed, _ = run_evaluate(
        *(f"ckpt={ckpt}", "device=cpu", f"data={root / 'train'}", f"output={tmp_path / 'all'}"),
        *("pictures=0", f"paths.cache_dir={work / 'cache'}"),
    )
    assert code == 0
    assert f"2 of 4 tracks were trained on: {TRAINED[0]}, {TRAINED[1]}" in printed
    assert "no track is left: these means say nothing" in printed
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert {row["num_tracks"] for row in summary["summary"]} == {4}


def test_a_checkpoint_that_knows_nothing_is_not_tested_with_musdb18s_training_part(
    ckpt: Path, root: Path, work: Path, tmp_path: Path, run_evaluate: Command
) -> None:
    config = torch.load(ckpt, weights_only=True)["frametx"]["separator"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", trained_with(root, "complement=other"))
    other = tmp_path / "converted.ckpt"
    save_separator(other, instantiate(cfg.separator), config, model="jansson_unet")
    assert not heard_by(other).files
    for part in ("train", "test"):
        code, printed, _ = run_evaluate(
            *(f"ckpt={other}", "device=cpu", f"data={root / part}", "pictures=0"),
            *(f"output={tmp_path / part}", f"paths.cache_dir={work / 'cache'}"),
        )
        assert code == 0
        told = "4 of 4 tracks are of the training part of MUSDB18"
        assert (told in printed) == (part == "train")


def test_what_weights_have_heard_stays_known_when_they_are_trained_on(
    ckpt: Path, root: Path, work: Path, tmp_path: Path, run_train: Command
) -> None:
    write_songs(tmp_path / "songs" / "train", "One More Song", "Yet Another Song", seed=7)
    code, _, error = run_train(
        *trained_with(tmp_path / "songs", "complement=other", "test=false", "trainer.max_steps=1"),
        *(f"init_from={ckpt}", f"paths.output_dir={tmp_path / 'run'}"),
        f"paths.cache_dir={work / 'cache'}",
    )
    assert code == 0, error
    first, second = heard_by(ckpt), heard_by(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert len(first.files) == 2 * 4
    assert first.files < second.files
    assert len(second.files) == 3 * 4  # one of the new songs is held out
    assert first.songs < second.songs


def test_a_network_may_give_all_stems_or_the_voice_and_the_rest(root: Path, tmp_path: Path) -> None:
    for stems, complement, shape in (
        ("[vocals,drums,bass,other]", "null", (4, 1)),
        ("[vocals,instrumental]", "vocals", (2, 1)),
    ):
        given = trained_with(root, f"stems={stems}", f"complement={complement}")
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", [*given, f"paths.cache_dir={tmp_path}"])
        data = instantiate(cfg.data)
        stems_of_one = data.source[(0, 480)]["stems"]
        assert stems_of_one.shape == (*shape, 480)
        mixed = data.mix({"sample": torch.tensor([0]), "stems": stems_of_one[None]})
        estimates = instantiate(cfg.separator)(mixed.sum(dim=1))
        assert estimates.shape == mixed.shape
