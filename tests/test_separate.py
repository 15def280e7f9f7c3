import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hydra
import numpy as np
import pytest
import soundfile as sf
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from frametx.audio.io import AudioInfo
from frametx.checkpoint import load_separator, save_separator
from frametx.config import conf_dir, quote_path
from frametx.execution import choose_device
from frametx.separate import (
    FileReport,
    Options,
    Report,
    choose_format,
    main,
    on_steps,
    separate,
    separate_file,
    try_to_separate,
)
from frametx.songs import Job

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


class Gain(nn.Module):
    """A stereo separator whose vocals are the mixture times a gain."""

    def __init__(self, gain: float, rate: int = 44_100) -> None:
        super().__init__()
        self.gain = gain
        self.stems: tuple[str, ...] = ("vocals", "instrumental")
        self.sample_rate = rate
        self.num_channels = 2
        self.chunk_samples = 4_096

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([self.gain * mixture, (1 - self.gain) * mixture], dim=1)


def ignore(done_s: float, total_s: float, spent_s: float) -> None:
    pass


def options(stems: Sequence[str] = ("vocals", "instrumental"), *, skip: bool = False) -> Options:
    return Options(
        stems=tuple(stems),
        overlap=0.25,
        batch_size=2,
        chunk_samples=4_096,
        device=torch.device("cpu"),
        skip_existing=skip,
    )


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


@pytest.mark.parametrize("rate_inside", [44_100, 16_000])
@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("x.wav", 48_000, 1, "PCM_24"),
        ("x.wav", 44_100, 2, "PCM_16"),
        ("x.wav", 44_100, 2, "PCM_U8"),
        ("x.wav", 22_050, 2, "FLOAT"),
        ("x.wav", 96_000, 6, "PCM_24"),
        ("x.flac", 48_000, 3, "PCM_24"),
        ("x.ogg", 44_100, 2, "VORBIS"),
        ("x.mp3", 44_100, 1, "MPEG_LAYER_III"),
    ],
)
def test_rate_channels_bits_and_length_are_the_songs(
    tmp_path: Path, name: str, rate: int, channels: int, subtype: str, rate_inside: int
) -> None:
    source = song(tmp_path / name, rate=rate, channels=channels, subtype=subtype)
    job = Job(source, tmp_path / "out")
    file = separate_file(Gain(0.7, rate_inside), job, options(), ignore)
    assert file.status == "done"
    expected = sf.info(source)
    for stem in ("vocals", "instrumental"):
        info = sf.info(file.outputs[stem])
        assert (info.samplerate, info.channels, info.subtype) == (rate, channels, subtype)
        assert (info.format, info.frames) == (expected.format, expected.frames)
    if subtype not in ("VORBIS", "MPEG_LAYER_III"):
        mixture, vocals, instrumental = (
            sf.read(path, dtype="float64")[0] for path in (source, *file.outputs.values())
        )
        tolerance = 1e-7 if subtype == "FLOAT" else 0  # integers add up to the very sample
        assert np.abs(vocals + instrumental - mixture).max() <= tolerance


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24)])
def test_four_stems_on_the_steps_of_a_format_add_up_to_the_mixture(subtype: str, bits: int) -> None:
    scale = 2 ** (bits - 1)
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randint(-scale, scale, (2, 5_000), generator=generator).double()
    stems = (torch.rand(4, 2, 5_000, generator=generator).softmax(dim=0) * mixture / scale).float()
    stems[2] = (mixture / scale - stems[[0, 1, 3]].double().sum(dim=0)).float()
    steps = on_steps(stems, 2, subtype) * scale
    assert torch.equal(steps, steps.round())
    assert torch.equal(steps.sum(dim=0), mixture)


def test_what_one_stem_loses_by_clipping_stays_in_the_remainder(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav", level=0.2)
    file = separate_file(Gain(1.5), Job(source, tmp_path / "out"), options(), ignore)
    mixture, vocals, instrumental = (
        sf.read(path, dtype="int16")[0].astype(int) for path in (source, *file.outputs.values())
    )
    # Each clipped sample of the vocals is one that 1.5 pushes over the edge.
    assert file.clipped_samples == {"vocals": int((np.abs(mixture * 1.5 + 0.25) > 32_767.5).sum())}
    assert file.clipped_samples["vocals"] > 0
    assert np.array_equal(vocals + instrumental, mixture)


def test_tags_follow_the_song(tmp_path: Path) -> None:
    source = tmp_path / "x.flac"
    with sf.SoundFile(source, "w", 44_100, 2) as file:
        file.title, file.artist = "Lüül", "Someone"
        file.write(np.zeros((5_000, 2)))
    report = separate_file(Gain(0.5), Job(source, tmp_path / "out"), options(), ignore)
    with sf.SoundFile(report.outputs["vocals"]) as file:
        assert (file.title, file.artist) == ("Lüül", "Someone")


def test_a_song_that_is_there_is_skipped_only_if_all_of_it_is(tmp_path: Path) -> None:
    job = Job(song(tmp_path / "x.wav"), tmp_path / "out")
    assert separate_file(Gain(0.5), job, options(skip=True), ignore).status == "done"
    before = (tmp_path / "out" / "vocals.wav").stat().st_mtime_ns
    assert separate_file(Gain(0.5), job, options(skip=True), ignore).status == "skipped"
    assert (tmp_path / "out" / "vocals.wav").stat().st_mtime_ns == before
    (tmp_path / "out" / "instrumental.wav").unlink()
    assert separate_file(Gain(0.5), job, options(skip=True), ignore).status == "done"
    assert separate_file(Gain(0.5), job, options(), ignore).status == "done"


def test_only_the_stems_asked_for_are_written(tmp_path: Path) -> None:
    job = Job(song(tmp_path / "x.wav"), tmp_path / "out")
    file = separate_file(Gain(0.5), job, options(["instrumental"]), ignore)
    assert [path.name for path in job.folder.iterdir()] == ["instrumental.wav"]
    assert list(file.outputs) == ["instrumental"]


@pytest.mark.parametrize("gain", [float("nan"), float("inf")])
def test_a_model_that_returns_no_numbers_fails_and_leaves_nothing(
    tmp_path: Path, gain: float
) -> None:
    job = Job(song(tmp_path / "x.wav"), tmp_path / "out")
    file = try_to_separate(Gain(gain), job, options(), ignore)
    assert file.status == "failed"
    assert "not finite" in str(file.reason)
    assert not job.folder.exists()


def test_a_defect_costs_one_song(tmp_path: Path) -> None:
    class Broken(Gain):
        def forward(self, mixture: Tensor) -> Tensor:
            raise RuntimeError("shapes\ndiffer")

    file = try_to_separate(
        Broken(0.5), Job(song(tmp_path / "x.wav"), tmp_path / "out"), options(), ignore
    )
    assert (file.status, file.reason) == ("failed", "RuntimeError: shapes differ")


def test_running_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    class Greedy(Gain):
        def forward(self, mixture: Tensor) -> Tensor:
            raise torch.OutOfMemoryError

    file = try_to_separate(
        Greedy(0.5), Job(song(tmp_path / "x.wav"), tmp_path / "out"), options(), ignore
    )
    assert file.reason == "out of memory on cpu: lower batch_size (2) or chunk_seconds"


@pytest.mark.parametrize(("hours", "container"), [(1, "WAV"), (4, "RF64")])
def test_a_format_that_cannot_be_written_becomes_float_wav_and_says_so(
    hours: int, container: str
) -> None:
    info = AudioInfo(Path("x.mp2"), hours * 3_600 * 44_100, 44_100, 2, "MP3", "MPEG_LAYER_II")
    format, subtype, suffix, notes = choose_format(info)
    assert (format, subtype, suffix) == (container, "FLOAT", ".wav")
    assert notes == [f"MP3/MPEG_LAYER_II cannot be written here: the stems are {container}/FLOAT"]


def test_the_exit_code_follows_the_files() -> None:
    report = Report(
        ckpt="x",
        model="x",
        num_parameters=0,
        stems=("vocals",),
        sample_rate=1,
        num_channels=1,
        device="cpu",
        overlap=0,
        chunk_seconds=1,
        batch_size=1,
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
    assert (written["model"], written["device"], written["batch_size"]) == ("Identity", "cpu", 3)


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
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/b/.*.part")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(number)
    assert run.wait(timeout=60) == code
    files = json.loads((tmp_path / "out/report.json").read_text())["files"]
    assert [file["status"] for file in files] == ["done", "interrupted"]
    left = sorted(p.relative_to(tmp_path / "out") for p in tmp_path.glob("out/*/*"))
    assert [str(path) for path in left] == ["a/instrumental.wav", "a/vocals.wav"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path: Path, ckpt: Path) -> None:
    def peak_bytes(minutes: int) -> int:
        source = tmp_path / f"{minutes}.flac"
        tone = np.sin(np.arange(44_100 * 60) * 0.05)[:, None] * [0.3, 0.2]
        with sf.SoundFile(source, "w", 44_100, 2) as file:
            for _ in range(minutes):
                file.write(tone)
        command = [sys.executable, "-m", "frametx.separate", f"ckpt={ckpt}", f"input={source}"]
        values = [f"output={tmp_path / 'out'}", "device=cpu", "chunk_seconds=10"]
        child = os.posix_spawn(sys.executable, [*command, *values], dict(os.environ))
        _, status, used = os.wait4(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert (
            sf.info(tmp_path / "out" / str(minutes) / "vocals.flac").frames == minutes * 60 * 44_100
        )
        return used.ru_maxrss * (1 if sys.platform == "darwin" else 1_024)

    short, long = peak_bytes(5), peak_bytes(60)
    assert long < 1.5e9
    assert long < short + 1e8  # 55 minutes of samples, held once, would be twelve times as much
