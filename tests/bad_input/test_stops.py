"""The whole command, stopped at any moment or given what only a process can be given."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import numpy as np
import pytest
import soundfile as sf

from frametx.checkpoint import save_separator

SEPARATOR = {
    "_target_": "frametx.separator.SpectrogramSeparator",
    "stft": {"_target_": "frametx.audio.stft.Stft", "n_fft": 256, "hop_length": 64},
    "network": {"_target_": "torch.nn.Identity"},
    "stems": ["vocals", "instrumental"],
    "complement": "vocals",
    "sample_rate": 8_000,
    "num_channels": 1,
    "chunk_frames": 65,
    "scale": "chunk_peak",
    "top_bin": "copy",
}


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ckpt") / "tiny.ckpt"
    save_separator(path, hydra.utils.instantiate(SEPARATOR), SEPARATOR, model="identity")
    return path


def command(ckpt: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "frametx.separate", f"ckpt={ckpt}", "device=cpu", *arguments]


@pytest.mark.parametrize(
    ("number", "seed"),
    [
        (signal.SIGINT, 0),
        (signal.SIGTERM, 1),
        *(
            pytest.param(number, seed, marks=pytest.mark.slow)
            for number in (signal.SIGINT, signal.SIGTERM)
            for seed in range(2, 8)
        ),
    ],
)
def test_a_run_stopped_at_any_moment_leaves_whole_songs_and_a_report(
    tmp_path: Path, ckpt: Path, number: int, seed: int
) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    noise = np.random.default_rng(seed).standard_normal(40_000) * 0.2
    names = [f"{index:03d}" for index in range(400)]
    sf.write(songs / "000.wav", noise.clip(-1, 1), 8_000)
    for name in names[1:]:
        os.link(songs / "000.wav", songs / f"{name}.wav")
    # A job in the background of a script has SIGINT ignored, and so have its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen(
        command(ckpt, "input=songs", "output=out", "overlap=0.5"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    signal.signal(signal.SIGINT, before)
    with run:
        assert run.stdout is not None
        assert "400 file(s)" in run.stdout.readline()
        time.sleep(random.Random(seed).uniform(0, 0.5))
        run.send_signal(number)
        said = run.stdout.read()
    assert run.returncode == 128 + number, said[-3_000:]
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert [Path(file["input"]).stem for file in report["files"]] == names
    done = [Path(f["input"]).stem for f in report["files"] if f["status"] == "done"]
    assert report["stopped_by"] == number
    assert {file["status"] for file in report["files"]} <= {"done", "interrupted"}
    found = {path.name for path in (tmp_path / "out").iterdir()} - {"report.json"}
    # The song at hand may have been finished while the run was ending.
    assert set(done) <= found <= {*done, names[min(len(done), 399)]}
    for name in found:
        stems = sorted((tmp_path / "out" / name).iterdir())
        assert [path.name for path in stems] == ["instrumental.wav", "vocals.wav"]
        assert [sf.info(path).frames for path in stems] == [40_000, 40_000]


def test_the_command_says_one_line_for_each_bad_file_in_any_language(
    tmp_path: Path, ckpt: Path
) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    for name in ("🎤.wav", "line\nbreak.wav", "bad\udcff.wav", "-x.wav"):
        (songs / name).write_text("la la la")
    sf.write(songs / "zz.wav", np.zeros(100), 8_000)
    done = subprocess.run(
        command(ckpt, "input=songs", "output=out"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert sum(line.startswith("failed: ") for line in lines) == 4
    assert sum(line.startswith("done: ") for line in lines) == 1
    assert "1 done, 4 failed" in lines


@pytest.mark.parametrize(("piped", "code"), [(b"", 2), (b"la la la" * 100, 1)])
def test_what_is_piped_into_the_command_is_no_song(
    tmp_path: Path, ckpt: Path, piped: bytes, code: int
) -> None:
    done = subprocess.run(
        command(ckpt, "input=-", "output=out"),
        cwd=tmp_path,
        input=piped,
        capture_output=True,
        check=False,
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stderr + done.stdout
    assert (tmp_path / "out").exists() == (code == 1)
