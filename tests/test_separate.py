import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import soundfile as sf
import torch
from omegaconf import DictConfig

from frametx.audio.io import probe
from frametx.checkpoint import load_separator, save_separator
from frametx.config import conf_dir, quote_path
from frametx.execution import choose_device
from frametx.separate import Estimate, Report, audio_seconds, in_minutes, main, separate
from frametx.songs import Job, Song, plan
from frametx.to_files import FileReport

SEPARATOR = {
    "_target_": "frametx.separator.SpectrogramSeparator",
    "stft": {"_target_": "frametx.audio.stft.Stft", "n_fft": 512, "hop_length": 128},
    "network": {"_target_": "torch.nn.Identity"},  # the mask is the sigmoid of the magnitude
    "stems": ["vocals", "instrumental"],
    "complement": "vocals",
    "sample_rate": 16_000,
    "num_channels": 2,
    "chunk_frames": 65,
    "scale": "chunk_peak",
    "top_bin": "copy",
}


def song(
    path: Path,
    *,
    rate: int = 44_100,
    channels: int = 2,
    subtype: str = "PCM_16",
    length: int = 30_000,
    level: float = 0.1,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(length).standard_normal((length, channels)) * level
    sf.write(path, noise.clip(-1, 1), rate, subtype=subtype)
    return path


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ckpt") / "tiny.ckpt"
    save_separator(path, hydra.utils.instantiate(SEPARATOR), SEPARATOR, model="identity")
    return path


def compose(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("separate", overrides=list(overrides))


def config(**values: object) -> DictConfig:
    return compose(*(f"{key}={value}" for key, value in values.items()))


def test_the_exit_code_follows_the_files() -> None:
    report = Report(
        ckpt=["x"],
        models=["x"],
        num_parameters=0,
        stems=("vocals",),
        remainder=None,
        sample_rates=[1],
        device="cpu",
        precision="fp32",
        num_passes=1,
        options={},
    )
    report.files = [FileReport(input="a", status="done"), FileReport(input="b", status="skipped")]
    assert report.exit_code == 0
    report.files.append(FileReport(input="c", status="failed"))
    assert report.exit_code == 1
    report.stopped_by = signal.SIGTERM
    assert report.exit_code == 143


def test_a_checkpoint_separates_a_folder_and_reports(tmp_path: Path, ckpt: Path) -> None:
    song(tmp_path / "songs" / "a.wav", rate=22_050)
    song(tmp_path / "songs" / "live" / "b.flac")
    out = tmp_path / "songs" / "stems"
    report = separate(config(ckpt=ckpt, input=tmp_path / "songs", output=out, batch_size=3))
    assert report.exit_code == 0
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert names == [
        "a/instrumental.wav",
        "a/vocals.wav",
        "live/b/instrumental.flac",
        "live/b/vocals.flac",
        "report.json",
    ]
    written = json.loads((out / "report.json").read_text())
    assert [Path(file["input"]).name for file in written["files"]] == ["a.wav", "b.flac"]
    assert all(file["status"] == "done" and file["seconds"] > 0 for file in written["files"])
    assert (written["models"], written["device"]) == (["Identity"], "cpu")
    assert written["options"]["overlap"] == 0.25


def test_the_command_gives_what_the_separator_gives(tmp_path: Path, ckpt: Path) -> None:
    chunk = load_separator(ckpt).chunk_samples
    source = song(tmp_path / "x.wav", rate=16_000, subtype="FLOAT", length=chunk)
    separate(config(ckpt=ckpt, input=source, output=tmp_path / "out"))
    mixture = torch.from_numpy(sf.read(source, dtype="float32")[0].T)
    vocals = sf.read(tmp_path / "out" / "x" / "vocals.wav", dtype="float32")[0].T
    with torch.no_grad():
        expected = load_separator(ckpt)(mixture[None])[0, 0]
    torch.testing.assert_close(torch.from_numpy(vocals), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ckpt": "nowhere.ckpt"}, "nowhere.ckpt: no such checkpoint"),
        ({"input": "nowhere"}, "names no audio file"),
        ({"stems": "[drums]"}, r"stems=\['drums'\]: this model separates \['vocals', 'instr"),
        ({"batch_size": 0}, "batch_size"),
        ({"overlap": 1.0}, "overlap"),
        ({"chunk_seconds": 0}, "at least 1 sample"),
        ({"device": "tpu"}, "device=tpu must be auto, cpu"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    tmp_path: Path, ckpt: Path, wrong: dict[str, object], message: str
) -> None:
    source, out = song(tmp_path / "x.wav"), tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        separate(config(**{"ckpt": ckpt, "input": source, "output": out} | wrong))
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("auto").type in ("cpu", "mps")
    with pytest.raises(ValueError, match="device=cuda:1 is not there: use device=auto"):
        choose_device("cuda:1")


def test_a_mistake_on_the_command_line_is_one_line_and_code_two(
    tmp_path: Path,
    ckpt: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test's own process keeps its own
    monkeypatch.setattr(sys, "argv", ["separate", f"ckpt={ckpt}", "input=nowhere.wav"])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capfd.readouterr().err.strip().splitlines()
    assert caught.value.code == 2
    assert len(said) == 1
    assert said[0].startswith("error: input=nowhere.wav names no audio file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "plain.wav",
        "My Song (live) [2020].flac",
        "a=b, c.wav",
        "a,b.wav",
        "50% off & more's.wav",
        "it's {here}.mp3",
        "null",
        "[x].wav",
        "Zürich: 1.ogg",
    ],
)
def test_a_path_is_understood_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for path in (tmp_path / name, tmp_path / "missing, (but meant)" / name):
        cfg = compose(quote_path(f"input={path}"))
        assert cfg.input == str(path)


@pytest.mark.parametrize("argument", ["input='a b.wav'", "input=songs/*.wav", "overlap=0.5", "-m"])
def test_what_hydra_understands_is_left_alone(argument: str) -> None:
    assert quote_path(argument) == argument


def test_bad_files_do_not_stop_the_good_ones(tmp_path: Path, ckpt: Path) -> None:
    good = song(tmp_path / "songs" / "good.wav", rate=48_000, channels=1, subtype="PCM_24")
    contents = good.read_bytes()
    bad = {
        "empty.wav": (b"", "is empty"),
        "text.wav": (b"la la la\n" * 100, "is not audio"),
        "cut.wav": (contents[: len(contents) // 2], "cut short"),
        "no_channels.wav": (contents[:22] + struct.pack("<H", 0) + contents[24:], "hannel"),
        "tape.m4a": (b"\0\0\0\x20ftypM4A " + bytes(100), "is not audio"),
    }
    for name, (stuff, _) in bad.items():
        (good.parent / name).write_bytes(stuff)
    sf.write(good.parent / "silent.wav", np.zeros((0, 2)), 44_100)
    hole = np.zeros((9_000, 2))
    hole[5_000, 1] = np.nan
    sf.write(good.parent / "hole.wav", hole, 44_100, subtype="FLOAT")
    song(good.parent / "zz" / "last.flac")
    reasons = {name: reason for name, (_, reason) in bad.items()}
    reasons |= {"silent.wav": "holds no samples", "hole.wav": "sample 5000 .* of channel 1 is nan"}

    command = [sys.executable, "-X", "importtime", "-m", "frametx.separate", f"ckpt={ckpt}"]
    done = subprocess.run(
        [*command, "input=songs", "output=out", "device=cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2_000:]
    assert "Traceback" not in done.stderr
    assert "lightning" not in done.stderr  # separating needs no trainer
    report = json.loads((tmp_path / "out/report.json").read_text())
    files = {Path(file["input"]).name: file for file in report["files"]}
    assert {n for n, file in files.items() if file["status"] == "done"} == {"good.wav", "last.flac"}
    assert set(files) == set(reasons) | {"good.wav", "last.flac"}
    for name, reason in reasons.items():
        assert files[name]["status"] == "failed"
        assert "\n" not in files[name]["reason"]
        assert re.search(reason, files[name]["reason"]), files[name]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good", "report.json", "zz"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "songs"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_stopped_run_keeps_what_is_finished_and_nothing_else(
    tmp_path: Path, ckpt: Path, number: int, code: int
) -> None:
    song(tmp_path / "songs" / "a.wav")
    with sf.SoundFile(tmp_path / "songs" / "b.flac", "w", 16_000, 1) as file:
        for _ in range(600):
            file.write(np.zeros(16_000))
    slow = ["chunk_seconds=0.1", "overlap=0.9", "batch_size=1", "device=cpu"]
    command = [sys.executable, "-m", "frametx.separate", f"ckpt={ckpt}", "input=songs"]
    # A job in the background of a script has SIGINT ignored, and so have its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen([*command, "output=out", *slow], cwd=tmp_path, stdout=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("out/b/.*.part")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(number)
    assert run.wait(timeout=600) == code
    files = json.loads((tmp_path / "out/report.json").read_text())["files"]
    assert [file["status"] for file in files] == ["done", "interrupted"]
    left = sorted(p.relative_to(tmp_path / "out") for p in tmp_path.glob("out/*/*"))
    assert [str(path) for path in left] == ["a/instrumental.wav", "a/vocals.wav"]


def test_what_a_killed_run_left_is_gone_after_the_next(
    tmp_path: Path, ckpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sf.SoundFile(tmp_path / "a.flac", "w", 16_000, 1) as file:
        for _ in range(600):
            file.write(np.zeros(16_000))
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "frametx.separate", f"ckpt={ckpt}", "output=out", "input=-"]
    with (tmp_path / "a.flac").open("rb") as piped:
        run = subprocess.Popen(
            [*command, "chunk_seconds=0.1", "overlap=0.9", "batch_size=1", "device=cpu"],
            cwd=tmp_path,
            stdin=piped,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        )
        while not list(tmp_path.glob("out/stdin/.*.part")):
            assert run.poll() is None
            time.sleep(0.01)
        run.kill()
        run.wait()
    assert list((tmp_path / "tmp").glob("frametx-*"))
    (tmp_path / "out/stdin/.mine.part").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    short = song(tmp_path / "stdin.wav")
    assert separate(config(ckpt=ckpt, input=short, output=tmp_path / "out")).exit_code == 0
    left = {path.name for path in (tmp_path / "out/stdin").iterdir()}
    assert left == {".mine.part", "instrumental.wav", "vocals.wav"}
    assert not list((tmp_path / "tmp").glob("frametx-*"))


@pytest.mark.slow
def test_three_hours_take_the_memory_of_three_minutes(tmp_path: Path, ckpt: Path) -> None:
    rate = 16_000  # the model's own

    def peak_bytes(minutes: int) -> int:
        source = tmp_path / f"{minutes}.flac"
        tone = np.sin(np.arange(rate * 60) * 0.05)[:, None] * [0.3, 0.2]
        with sf.SoundFile(source, "w", rate, 2) as file:
            for _ in range(minutes):
                file.write(tone)
        command = [sys.executable, "-m", "frametx.separate", f"ckpt={ckpt}", f"input={source}"]
        values = [f"output={tmp_path / 'out'}", "device=cpu", "chunk_seconds=10"]
        child = os.posix_spawn(sys.executable, [*command, *values], dict(os.environ))
        _, status, used = os.wait4(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        stem = tmp_path / "out" / str(minutes) / "vocals.flac"
        assert sf.info(stem).frames == minutes * 60 * rate
        return used.ru_maxrss * (1 if sys.platform == "darwin" else 1_024)

    # Three hours of samples, held once, would be 1.4 GB more.
    assert peak_bytes(180) < 1.1 * peak_bytes(3)


def test_the_time_of_all_songs_is_estimated_once_from_what_was_seen(tmp_path: Path) -> None:
    jobs = plan(
        [Song(song(tmp_path / f"{n}.wav", length=441_000), Path(f"{n}.wav")) for n in range(30)],
        tmp_path / "out",
    )
    estimate = Estimate(jobs)
    moments = ((0, 0), (1, 20), (2, 21), (4, 26), (5, 40))
    told = [estimate.once(estimate.pace(*now)) for now in moments]
    # 3 s of audio took 6 s; how long the first second took says nothing
    assert told == [None, None, None, "about 10 min for 5 min of audio in 30 file(s)", None]
    assert (in_minutes(89), in_minutes(5_000), in_minutes(9_000)) == ("89 s", "83 min", "2.5 h")


def test_nothing_is_estimated_before_some_chunks_are_done(tmp_path: Path) -> None:
    jobs = plan([Song(song(tmp_path / "a.wav", length=441_000), Path("a.wav"))], tmp_path / "out")
    estimate = Estimate(jobs, least_s=3.0)
    # A block of 1.5 s of a burst, and one of the next burst a minute later: 900 h for a long song.
    moments = [(0, 0), (1.5, 60), (1.6, 60.1), (3.2, 120), (4.4, 120.1), (4.5, 180)]
    assert [estimate.pace(*now) for now in moments] == [None] * 5 + [40.0]
    assert estimate.pace(0, 0) is None  # the next song starts anew
    assert estimate.pace(4, 9) is None


def test_the_length_in_a_header_that_lies_is_not_believed(tmp_path: Path) -> None:
    lying = song(tmp_path / "a.flac", length=16_000)
    head = bytearray(lying.read_bytes())
    head[21] |= 0x0F  # the upper 4 of 36 bits: how many samples there are
    lying.write_bytes(head)
    honest = song(tmp_path / "b.flac", length=160_000)
    with pytest.raises(ValueError, match="ends at sample 16000 of 64424525440"):
        probe(lying)
    jobs = plan([Song(path, Path(path.name)) for path in (lying, honest)], tmp_path / "out")
    assert audio_seconds(jobs[0]) is None
    assert audio_seconds(jobs[1]) == probe(honest).num_samples / probe(honest).sample_rate
    assert (Estimate(jobs).once(2.0) or "").endswith("of audio in 1 file(s)")
    assert Estimate(jobs[:1]).once(2.0) is None


def test_a_name_cannot_turn_the_terminal(tmp_path: Path, ckpt: Path, capfd: Any) -> None:
    song(tmp_path / "songs/evil\u202efdp\u2066.wav")
    report = separate(config(ckpt=ckpt, input=tmp_path / "songs", output=tmp_path / "out"))
    said = capfd.readouterr().out
    assert report.exit_code == 0
    assert "\u202e" not in said
    assert "\u2066" not in said
    assert r"evil\u202efdp\u2066.wav" in said


def test_of_an_album_only_audio_is_copied(tmp_path: Path, ckpt: Path) -> None:
    song(tmp_path / "a.wav")
    song(tmp_path / "b.wav")
    (tmp_path / "secret.wav").write_text("root:x:0:0")
    (tmp_path / "zip.wav").write_bytes(b"PK\x03\x04" + bytes(99))
    names = {"copy": ["b.wav", "secret.wav", "zip.wav"], "convert": ["a.wav"], "output": "done"}
    (tmp_path / "album.json").write_text(json.dumps(names))
    report = separate(config(ckpt=ckpt, input=tmp_path / "album.json"))
    assert [file.status for file in report.files] == ["done", "copied", "failed", "failed"]
    assert "is an archive: unpack it" in (report.files[3].reason or "")
    assert report.exit_code == 1
    assert not list((tmp_path / "done").rglob("*secret*"))


def test_a_stop_is_no_failure_even_if_cleaning_up_fails_over_it(
    tmp_path: Path, ckpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        song(tmp_path / "songs" / f"{name}.wav")

    def stopped(pipeline: object, job: Job, *_: object) -> FileReport:
        if job.source.stem == "a":
            return FileReport(input=str(job.source), status="done")
        try:
            raise KeyboardInterrupt(signal.SIGTERM)
        finally:
            raise RuntimeError("closed twice")

    monkeypatch.setattr("frametx.separate.separate_song", stopped)
    report = separate(config(ckpt=ckpt, input=tmp_path / "songs", output=tmp_path / "out"))
    assert report.exit_code == 143
    assert [file.status for file in report.files] == ["done", "interrupted", "interrupted"]
