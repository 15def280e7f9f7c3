import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from frametx.config import (
    conf_dir,
    each_sweep_value_once,
    flags_first,
    folder_as_data,
    overrides_in,
    quote_path,
    stems_of,
)
from frametx.data.synthetic import write_synthetic_libraries
from frametx.train import main

EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
OTHER_STEMS = {
    **{name: ["speaker_1", "speaker_2"] for name in ("sepformer_wsj0", "demo_speakers")},
    **{name: ["speech", "rest"] for name in ("speech_denoising", "demo_denoising")},
}
LOSSES = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))
MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


def run_in_place(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """The command in this process: exit code and standard error. A fresh one costs ten seconds."""
    monkeypatch.setattr(sys, "argv", ["frametx.train", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    GlobalHydra.instance().clear()
    return int(stopped.value.code or 0), capfd.readouterr().err


def test_every_sweep_value_is_composed_once() -> None:
    overrides = OverridesParser.create().parse_overrides(["model=a,b,c", "optimizer.lr=1,2", "x=9"])
    assert each_sweep_value_once(overrides) == [
        ["model=a", "optimizer.lr=1", "x=9"],
        ["model=b", "optimizer.lr=2", "x=9"],
        ["model=c", "optimizer.lr=2", "x=9"],
    ]


def test_a_folder_as_data_becomes_the_file_that_reads_it(tmp_path: Path) -> None:
    pair = tmp_path / "pair"
    for role in ("vocals", "instrumental"):
        (pair / role).mkdir(parents=True)
    corpus = tmp_path / "corpus"
    (corpus / "train" / "vocals").mkdir(parents=True)
    songs = tmp_path / "songs"
    (songs / "one").mkdir(parents=True)
    assert folder_as_data([f"data={pair}"]) == ["data=stems", f"data.root='{pair}'"]
    (corpus / "train" / "instrumental").mkdir()
    where = f"paths.corpora_dir='{corpus}'"
    assert folder_as_data([f"data={corpus}"]) == ["data=divided", where]
    (corpus / "development").mkdir()  # as make data builds it
    assert folder_as_data([f"data={corpus}"]) == ["data=corpora", where]
    assert folder_as_data([f"data={songs}", "a=1"]) == [
        "data=tracks",
        f"data.root='{songs}'",
        "a=1",
    ]
    voices = tmp_path / "voices"
    for stem in ("voice", "noise"):
        (voices / stem).mkdir(parents=True)
    assert folder_as_data([f"data={voices}"], ("noise", "voice"))[0] == "data=stems"
    assert folder_as_data([f"data={voices}"])[0] == "data=tracks"
    assert folder_as_data(["data=demo"]) == ["data=demo"]
    assert folder_as_data(["data=no_such_thing"]) == ["data=no_such_thing"]
    long = f"bench.field.networks=[{'x' * 5000}]"  # no path can be so long
    assert folder_as_data([long]) == [long]


def test_a_folder_of_other_stems_is_refused_and_one_of_tracks_is_not(tmp_path: Path) -> None:
    for stem in ("bass", "drums", "vocals"):
        (tmp_path / stem).mkdir()
        (tmp_path / stem / "song.wav").touch()
    says = r"holds bass, drums, vocals, and every one of stems=\[vocals,instrumental\] must have"
    with pytest.raises(ValueError, match=says):
        folder_as_data([f"data={tmp_path}"])
    (tmp_path / "train").mkdir()
    (tmp_path / "drums" / "song.wav").rename(tmp_path / "drums" / "vocals.wav")
    assert folder_as_data([f"data={tmp_path}"])[0] == "data=tracks"


def test_a_folder_of_other_stems_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for stem in ("voice", "noise"):
        (tmp_path / stem).mkdir()
        (tmp_path / stem / "one.wav").touch()
    code, error = run_in_place(monkeypatch, capfd, f"data={tmp_path}")
    assert code == 2
    assert error.startswith(f"error: data={tmp_path} holds noise, voice, and every one of stems=[")
    assert error.count("\n") == 1


def test_stems_are_those_of_the_command_line_or_its_experiment() -> None:
    four = ["data=x", "stems=[vocals,drums,bass,other]"]
    assert stems_of(four, "train") == ("vocals", "drums", "bass", "other")
    assert stems_of(["data=x", "experiment=demo_speakers"], "train") == ("speaker_1", "speaker_2")
    assert stems_of(["data=x", "experiment=nothing"], "train") == ("vocals", "instrumental")
    for mistake in ("stems=3", "stems=drums", "stems=["):
        assert stems_of(["data=x", mistake], "train") == ("vocals", "instrumental")
    assert stems_of(["data=x"], "evaluate") == ("vocals", "instrumental")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str, tmp_path: Path) -> None:
    overrides = [f"experiment={experiment}", f"paths.output_dir={tmp_path}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    assert cfg.separator.stems == cfg.stems
    assert cfg.stems == OTHER_STEMS.get(experiment, ["vocals", "instrumental"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=asym_unet"], "model=asym_unet is unknown: did you mean model=asym_unet_mct"),
        (
            ["optimizer.lrr=1"],
            "optimizer.lrr is no key: did you mean optimizer.lr?",
        ),
        (["-m", "model=asym_unet_mct,nothing"], "model=nothing is unknown"),
        (
            ["data=tracks", "data.root=a", "data.held_out_mixtures=3"],
            "data.held_out_mixtures is no key with data=tracks: did you mean data.held_out?",
        ),
        (
            ["optimizer=sgd", "optimizer.betas=[0.9,0.99]"],
            "optimizer.betas is no key with optimizer=sgd: ",
        ),
        (["-m", "scheduler=halving,constant", "scheduler.power=2"], "with scheduler=halving: "),
        (["trainer.devices=64"], "trainer.devices=64"),
        (
            ["data=folders", "data.vocals=a", "data.instrumental=a"],
            "vocals: a does not exist",
        ),
        (
            ["data=folders"],
            "data.vocals, data.instrumental must be given: add data.vocals=/my/vocals",
        ),
        (
            ["data=folders", "stems=[voice,noise]", "complement=noise", "data.vocals=a"],
            "data.voice, data.noise must be given: add +data.voice=/my/voice; data.vocals must be "
            "one of the stems: take it out (stems=['voice', 'noise'])",
        ),
        (["data=stems", "data.root=nowhere"], "data.root=nowhere does not exist; give a folder"),
        (["data=stems", "data.root=a", "stems=[vocals,seed]"], "seed cannot be a stem here"),
        (
            ["augment.level_db={drums:[0,3]}", "data=folders", "data.vocals=a"],
            "level_db: drums must be among the stems ['vocals', 'instrumental']",
        ),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = run_in_place(monkeypatch, capfd, *arguments)
    assert code == 2, error
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")
    assert says in lines[0]


def test_the_users_own_folder_is_searched_too_by_the_real_command(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "short.yaml").write_text(
        "# @package _global_\ntrainer: {max_steps: 7}\n"
    )
    arguments = ["--config-dir", "mine", "--cfg", "job", "experiment=short"]
    command = [sys.executable, "-m", "frametx.train", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "max_steps: 7" in done.stdout


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("ckpt=a.ckpt", "ckpt=a.ckpt"),
        ("init_from=a (1) [x].ckpt", "init_from='a (1) [x].ckpt'"),
        ("data.vocals=it's, mine", r"data.vocals='it\'s, mine'"),
        ("optimizer.lr=1,2", "optimizer.lr=1,2"),
    ],
)
def test_paths_may_hold_what_hydra_would_read_as_syntax(typed: str, read: str) -> None:
    assert quote_path(typed) == read


def test_the_library_of_any_stem_is_a_path() -> None:
    typed = "+data.drums=my (drums), 2"
    assert quote_path(typed) == typed
    assert quote_path(typed, ("drums", "bass")) == "+data.drums='my (drums), 2'"


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        (["a=1", "-m"], ["-m", "a=1"]),
        (["a=1", "--multirun", "b=2,3"], ["--multirun", "a=1", "b=2,3"]),
        (["a=1", "--cfg", "job", "b=2"], ["--cfg", "job", "a=1", "b=2"]),
        (["a=1", "-cd", "mine", "~b"], ["-cd", "mine", "a=1", "~b"]),
        (["a=1", "--info", "b=2"], ["--info", "a=1", "b=2"]),
        (["a=1", "--config-dir=mine"], ["--config-dir=mine", "a=1"]),
    ],
)
def test_flags_may_stand_behind_overrides(typed: list[str], ordered: list[str]) -> None:
    assert flags_first(typed) == ordered
    assert overrides_in(typed) == [text for text in ordered if text[0] in "ab~"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_demo_takes_any_loss(loss: str, tmp_path: Path) -> None:
    overrides = ["experiment=demo", f"loss={loss}", f"paths.output_dir={tmp_path}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert isinstance(instantiate(compose("train", overrides=overrides).loss), nn.Module)


def test_no_experiment_says_what_only_some_losses_understand() -> None:
    """A file of loss/ does: experiments choose one, and another may be chosen over it."""
    for path in (conf_dir() / "experiment").glob("*.yaml"):
        assert "loss" not in OmegaConf.load(path), path


def test_what_a_class_does_not_take_is_told_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tones = {stem: tmp_path / stem for stem in ("vocals", "instrumental")}
    write_synthetic_libraries(tmp_path, seconds=1.0, num_files=2, sample_rate=16_000, seed=0)
    data = ["data=folders", *(f"data.{stem}={path}" for stem, path in tones.items())]
    data += [f"paths.cache_dir={tmp_path}", "data.num_workers=0"]
    for override, key, option in (
        ("+loss.terms=1", "loss: ", "'terms'"),
        ("+scheduler.no=1", "scheduler: ", "'no'"),
        ("+optimizer.momentum=1", "optimizer: ", "'momentum'"),
    ):
        small = ["model=asym_unet_mct_tiny", "audio=16k_mono", "test=false"]
        code, error = run_in_place(monkeypatch, capfd, *data, *small, override)
        assert code == 2, error
        (line,) = error.strip().splitlines()
        assert line.startswith("error: ")
        assert key in line
        assert f"unexpected keyword argument {option}: take that key out" in line
