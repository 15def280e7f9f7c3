import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import nn

from frametx import app_studio
from frametx.app import NO_REQUESTS, choose_port, main, url
from frametx.app_addresses import is_loopback
from frametx.app_picture import LOWEST_HZ, NUM_ROWS, Spectrogram, in_rows, save_spectrograms
from frametx.app_sessions import (
    Sessions,
    described,
    done_html,
    error_html,
    in_words,
    progress_html,
    results_html,
    separated,
    stems_of,
)
from frametx.app_studio import (
    Choice,
    Progress,
    Separated,
    StoppedError,
    Studio,
    Waiting,
    find_checkpoints,
    made_for,
    message,
)
from frametx.audio.picture import MOST_COLUMNS, N_FFT
from frametx.checkpoint import build, save_separator
from frametx.separation_options import Absent, SeparationOptions

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
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
DRUMS = SEPARATOR | {"stems": ["drums", "other"], "complement": "other"}
CONVOLVED = SEPARATOR | {
    "network": {
        "_target_": "torch.nn.Conv2d",
        "in_channels": 2,
        "out_channels": 2,
        "kernel_size": 1,
    }
}
CONTROLS: dict[str, Any] = {
    "rule": "mean",
    "weights": "",
    "quality": "fast",
    "format": "same",
    "stems": ["vocals", "instrumental"],
    "aggressiveness": 1.0,
    "aggressiveness_stem": "instrumental",
    "wiener": 0,
    "absent_stem": "",
    "augmentation": "as the quality says",
}


def write_checkpoint(path: Path, config: dict[str, Any], *, fill: float | None = None) -> Path:
    separator = build(config)
    for weight in separator.parameters():
        if fill is not None:
            nn.init.constant_(weight, fill)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_separator(path, separator, config, model="tiny")
    return path


def write_song(path: Path, *, seconds: float = 1.0, rate: int = 16_000, **kind: Any) -> Path:
    noise = np.random.default_rng(0).standard_normal((round(seconds * rate), 2)) * 0.1
    sf.write(path, noise.clip(-1, 1), rate, **kind)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "a" / "last.ckpt", SEPARATOR)
    write_checkpoint(folder / "b" / "last.safetensors", CONVOLVED, fill=0.5)
    write_checkpoint(folder / "drums.ckpt", DRUMS)
    write_checkpoint(folder / "broken.ckpt", CONVOLVED, fill=float("nan"))
    return folder


@pytest.fixture
def studio(models: Path, tmp_path: Path) -> Studio:
    return Studio(
        sources=[models],
        device=torch.device("cpu"),
        output=tmp_path / "stems",
    )


def run(studio: Studio, choice: Choice) -> tuple[list[Progress], Separated]:
    *steps, last = studio.separate(choice, threading.Event())
    assert isinstance(last, Separated)
    assert all(isinstance(step, Progress) for step in steps)
    return [step for step in steps if isinstance(step, Progress)], last


def test_the_stems_of_a_song_add_up_to_it_and_progress_goes_up_to_one(
    studio: Studio, tmp_path: Path
) -> None:
    song = write_song(tmp_path / "Song.no. 1.flac", seconds=6, rate=44_100, subtype="PCM_16")
    steps, done = run(studio, Choice(song=song, names=["a/last.ckpt"]))
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert any(0 < fraction < 1 for fraction in fractions)
    assert steps[0].left_s is None
    assert steps[-1].left_s == 0
    assert [path.name for path in done.stems.values()] == [
        "Song.no. 1 - vocals.flac",
        "Song.no. 1 - instrumental.flac",
    ]
    stems = [sf.read(path, dtype="int16")[0].astype(int) for path in done.stems.values()]
    assert np.array_equal(sum(stems), sf.read(song, dtype="int16")[0])
    assert all(stem.any() for stem in stems)
    assert done.played == done.stems
    assert done.picture.read_bytes().startswith(b"\x89PNG")
    for said in ("a/last.ckpt", "Identity", "cpu", "fp32", "6.0 s of music", "real-time factor"):
        assert said in done.summary


def test_an_ensemble_is_combined_by_its_rule_and_says_so(studio: Studio, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav", subtype="FLOAT")
    names = ["a/last.ckpt", "b/last.safetensors"]
    vocals: dict[str, np.ndarray] = {}
    for rule in ("min", "max"):
        options = SeparationOptions(quality="fast", ensemble=rule)
        _, done = run(studio, Choice(song=song, names=names, options=options))
        assert f"Identity + Conv2d ({rule})" in done.summary
        vocals[rule] = sf.read(done.stems["vocals"])[0]
    assert np.square(vocals["min"]).sum() < 0.99 * np.square(vocals["max"]).sum()


def test_stems_of_a_format_that_no_browser_plays_are_heard_as_wav(
    studio: Studio, tmp_path: Path
) -> None:
    song = write_song(tmp_path / "song.aiff", subtype="PCM_24")
    _, done = run(studio, Choice(song=song, names=["a/last.ckpt"]))
    for stem, path in done.stems.items():
        heard = sf.info(done.played[stem])
        assert (path.suffix, sf.info(path).subtype) == (".aiff", "PCM_24")
        assert (heard.format, heard.subtype, heard.frames) == ("WAV", "PCM_16", 16_000)
        difference = sf.read(path)[0] - sf.read(done.played[stem])[0]
        assert np.abs(difference).max() <= 0.5 / 2**15 + 1e-9


@pytest.mark.parametrize("after", [0, 1, 3])
def test_stop_ends_the_work_at_the_next_block_and_leaves_nothing(
    studio: Studio, tmp_path: Path, after: int
) -> None:
    song = write_song(tmp_path / "song.wav", seconds=20)
    stop = threading.Event()
    steps = studio.separate(Choice(song=song, names=["a/last.ckpt"]), stop)
    for _ in range(after):
        step = next(steps)
        assert isinstance(step, Progress)
        assert step.fraction < 1
    stop.set()
    with pytest.raises(StoppedError):
        list(steps)
    assert not list(studio.output.rglob("*"))
    again = studio.separate(Choice(song=song, names=["a/last.ckpt"]), threading.Event())
    assert isinstance(next(again), Progress)  # nothing is left locked


def test_work_that_nobody_asks_for_any_more_is_cleaned_up(studio: Studio, tmp_path: Path) -> None:
    steps = studio.separate(
        Choice(song=write_song(tmp_path / "song.wav", seconds=20), names=["a/last.ckpt"]),
        threading.Event(),
    )
    next(steps)
    next(steps)
    assert list(studio.output.rglob("*.part"))
    steps.close()
    assert not list(studio.output.rglob("*"))
    began = time.monotonic()
    studio.close(timeout_s=600)
    assert time.monotonic() - began < 300


def test_songs_take_turns_and_one_that_waits_can_be_stopped(studio: Studio, tmp_path: Path) -> None:
    choice = Choice(song=write_song(tmp_path / "song.wav", seconds=20), names=["a/last.ckpt"])
    stops = [threading.Event() for _ in range(3)]
    first, second, third = (studio.separate(choice, stop) for stop in stops)
    assert isinstance(next(first), Progress)
    assert next(second) == Waiting(num_before=1)
    assert next(third) == Waiting(num_before=2)
    stops[1].set()
    with pytest.raises(StoppedError):
        next(second)
    assert next(third) == Waiting(num_before=1)
    first.close()
    assert isinstance(next(third), Progress)
    stops[2].set()
    with pytest.raises(StoppedError):
        next(third)
    studio.close(timeout_s=0)
    assert not list(studio.output.rglob("*"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.mp3", b"this is no music\n" * 100, "notes.mp3: is not audio that can be read"),
        ("empty.wav", b"", "empty.wav: is empty"),
    ],
)
def test_a_file_that_is_no_audio_is_a_message_with_its_name(
    studio: Studio, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is not audio|is empty") as caught:
        run(studio, Choice(song=tmp_path / name, names=["a/last.ckpt"]))
    assert message(caught.value, tmp_path / name).startswith(said)
    assert not list(studio.output.rglob("*"))


def test_samples_that_are_not_finite_are_a_message(studio: Studio, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav", subtype="FLOAT")
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        run(studio, Choice(song=song, names=["broken.ckpt"]))
    samples, rate = sf.read(song)
    samples[5_000, 1] = np.nan
    sf.write(song, samples, rate, subtype="FLOAT")
    with pytest.raises(ValueError, match="sample 5000") as caught:
        run(studio, Choice(song=song, names=["a/last.ckpt"]))
    assert message(caught.value, song).startswith("song.wav: sample 5000")
    assert not list(studio.output.rglob("*"))


def test_silence_is_separated_into_silence(studio: Studio, tmp_path: Path) -> None:
    song = tmp_path / "silence.wav"
    sf.write(song, np.zeros((16_000, 2)), 16_000)
    _, done = run(studio, Choice(song=song, names=["a/last.ckpt"]))
    assert all(not sf.read(path)[0].any() for path in done.stems.values())
    assert done.picture.is_file()


def test_models_are_described_and_those_that_do_not_fit_are_told_before(studio: Studio) -> None:
    assert "Pick one model" in described(studio, [])
    fitting = described(studio, ["a/last.ckpt", "b/last.safetensors"])
    assert "a/last.ckpt: vocals, instrumental at 16000 Hz, stereo" in fitting
    assert "alert" not in fitting
    other = described(studio, ["a/last.ckpt", "drums.ckpt"])
    assert "drums.ckpt: drums, other at 16000 Hz" in other
    assert "an ensemble needs members with the same stems" in other
    assert 'role="alert"' in other
    assert "load the page again" in described(studio, ["../../secret.ckpt"])


def test_the_stems_to_choose_from_are_those_of_the_models(studio: Studio) -> None:
    assert stems_of(studio, ["drums.ckpt"]) == ("drums", "other")
    together = ["a/last.ckpt", "b/last.safetensors"]
    assert stems_of(studio, together) == ("vocals", "instrumental")
    for nothing in ([], ["a/last.ckpt", "drums.ckpt"], ["../../secret.ckpt"]):
        assert stems_of(studio, nothing) == ()


def test_only_the_stems_that_are_picked_are_kept_and_shown(studio: Studio, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav")
    choice = Choice(song=song, names=["drums.ckpt"], stems=["drums"])
    _, done = run(studio, choice)
    assert list(done.stems) == ["drums"]
    kept = sorted(path.name for path in done.picture.parent.iterdir())
    assert kept == ["song - drums.wav", "spectrograms.png"]
    assert "Spectrograms of the mixture, drums:" in results_html(done)


def test_models_are_kept_until_others_are_used_or_their_file_changes(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = app_studio.load_separator

    def counting(path: Path, *, device: torch.device) -> Any:
        loaded.append(path.name)
        return load(path, device=device)

    monkeypatch.setattr(app_studio, "load_separator", counting)
    for number in range(6):
        shutil.copy(models / "drums.ckpt", tmp_path / f"{number}.ckpt")
    studio = Studio(sources=[tmp_path], device=torch.device("cpu"), output=tmp_path)
    studio.describe(["0.ckpt"])
    assert studio.stems(["0.ckpt"]) == ("drums", "other")
    assert loaded == ["0.ckpt"]
    write_checkpoint(tmp_path / "0.ckpt", SEPARATOR)
    os.utime(tmp_path / "0.ckpt", (1, 1))
    assert "vocals" in studio.describe(["0.ckpt"])[0]
    studio.describe(
        [f"{number}.ckpt" for number in range(6)]
    )  # all members of an ensemble are kept
    assert len(loaded) == 7
    studio.describe(["5.ckpt"])
    studio.describe(["1.ckpt"])  # the oldest were given up
    assert loaded[7:] == ["1.ckpt"]


def test_checkpoints_are_named_by_their_path_below_the_folder(models: Path) -> None:
    assert list(find_checkpoints([models])) == [
        *("a/last.ckpt", "b/last.safetensors", "broken.ckpt", "drums.ckpt")
    ]
    assert find_checkpoints([models / "drums.ckpt"]) == {"drums.ckpt": models / "drums.ckpt"}
    both = find_checkpoints([models / "a", models / "a" / "last.ckpt", models / "drums.ckpt"])
    assert set(both) == {"last.ckpt", "drums.ckpt"}
    shutil.copytree(models / "a", models / "c" / "a")
    same = find_checkpoints([models / "a", models / "c" / "a"])
    shutil.rmtree(models / "c")
    assert len(same) == 2
    assert all(name.endswith("a/last.ckpt") for name in same)


def test_checkpoints_that_training_writes_are_found_later(models: Path, tmp_path: Path) -> None:
    shutil.copy(models / "drums.ckpt", tmp_path / "old.ckpt")
    studio = Studio(sources=[tmp_path], device=torch.device("cpu"), output=tmp_path)
    shutil.move(tmp_path / "old.ckpt", tmp_path / "new.ckpt")
    studio.look_again()
    assert "drums" in studio.describe(["new.ckpt"])[0]
    with pytest.raises(ValueError, match=r"old.ckpt is not there any more"):
        studio.describe(["old.ckpt"])
    (tmp_path / "new.ckpt").unlink()
    studio.look_again()
    with pytest.raises(FileNotFoundError, match=r"new.ckpt"):
        studio.describe(["new.ckpt"])


def test_songs_of_one_name_do_not_share_a_folder(tmp_path: Path) -> None:
    assert [made_for(tmp_path / "out", "song").name for _ in range(3)] == [
        *("song", "song (2)", "song (3)")
    ]


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_stems_of_a_page_are_deleted_with_it_unless_they_are_to_be_kept(
    tmp_path: Path, is_kept: bool
) -> None:
    sessions = Sessions(is_kept=is_kept)
    folders = [made_for(tmp_path, "song") for _ in range(3)]
    sessions.begin("page")
    sessions.finished("page", folders[0])
    assert folders[0].is_dir()
    sessions.begin("page")
    stop = sessions.switch("page")
    sessions.finished("page", folders[1])
    assert [folder.is_dir() for folder in folders] == [is_kept, True, True]
    assert not stop.is_set()
    sessions.forget("page")
    assert stop.is_set()
    assert sessions.switch("page").is_set()
    sessions.finished("page", folders[2])  # it was closed while the last block was written
    assert [folder.is_dir() for folder in folders] == [is_kept] * 3


def test_pressing_the_button_again_stops_what_it_started_before() -> None:
    sessions = Sessions(is_kept=False)
    sessions.begin("page")
    before = sessions.switch("page")
    sessions.begin("page")
    assert before.is_set()
    assert not sessions.switch("page").is_set()
    sessions.stop_all()
    assert sessions.switch("page").is_set()


def test_a_page_goes_on_after_an_error(studio: Studio, tmp_path: Path) -> None:
    sessions = Sessions(is_kept=True)
    song = str(write_song(tmp_path / "<b>song.wav", seconds=0.5))

    def press(song: str | None, names: list[str], **changed: Any) -> list[tuple[str, str | None]]:
        sessions.begin("page")
        controls = CONTROLS | changed
        return list(separated(studio, sessions, "page", song, names, **controls))

    both = ["a/last.ckpt", "b/last.safetensors"]
    for wrong, said in [
        (press(None, ["a/last.ckpt"]), "no song is there"),
        (press(song, []), "no model is picked"),
        (press(song, ["a/last.ckpt", "drums.ckpt"]), "members with the same stems"),
        (press(song, ["a/last.ckpt"], format="mp4"), "format=mp4 must be one of"),
        (press(song, ["a/last.ckpt"], stems=[]), "no stem is picked"),
        (press(song, ["a/last.ckpt"], stems=["bass"]), "this model separates"),
        (press(song, ["drums.ckpt"], absent_stem="bass"), "absent.stem=bass must be one of"),
        (press(song, both, rule="weighted", weights="1, x"), "weights=1, x must be numbers"),
        (press(song, both, rule="weighted", weights="1"), "as many as the checkpoints, 2"),
        (press(song, ["drums.ckpt"], absent_stem="drums", augmentation="none"), "KeyError"),
    ]:
        status, results = wrong[-1]
        assert 'role="alert"' in status
        assert said in status
        assert results == ""
    steps = press(
        song,
        ["a/last.ckpt"],
        **{"format": "flac", "aggressiveness": 1.5, "wiener": 1, "absent_stem": "vocals"},
    )
    status, results = steps[-1]
    assert "Done: &lt;b&gt;song.wav" in status
    assert results is not None
    assert results.count("<audio") == 2
    assert "<b>" not in results
    assert ".flac" in results
    assert steps[-2][1] is None  # results stay while progress is told


def test_what_is_picked_reaches_the_separation(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Choice] = []

    def remember(choice: Choice, stop: threading.Event) -> Iterator[Progress | Separated]:
        seen.append(choice)
        raise StoppedError

    monkeypatch.setattr(studio, "separate", remember)
    sessions = Sessions(is_kept=True)
    picked = {
        "rule": "weighted",
        "weights": "1, 2.5",
        "quality": "best",
        "format": "ogg",
        "stems": ["vocals"],
        "aggressiveness": 2.0,
        "aggressiveness_stem": "vocals",
        "wiener": 2.0,
        "absent_stem": "vocals",
        "augmentation": "off",
    }
    for names in (["a/last.ckpt"], ["a/last.ckpt", "b/last.safetensors"]):
        list(separated(studio, sessions, "page", "song.wav", names, **picked))
    alone, together = (choice.options for choice in seen)
    assert (alone.ensemble, together.ensemble) == (None, "weighted")
    assert (alone.weights, together.weights) == (None, [1.0, 2.5])
    assert (together.quality, together.aggressiveness, together.wiener) == ("best", 2.0, 2)
    assert together.aggressiveness_stem == "vocals"
    assert together.absent == Absent(stem="vocals")
    assert (together.tta.swap, together.tta.polarity, together.tta.shifts) == (False, False, 0)
    assert (seen[0].format, seen[0].stems) == ("ogg", ["vocals"])


def test_progress_is_told_in_seconds_done_in_all_and_left() -> None:
    said = progress_html(Progress(done_s=30, total_s=120, spent_s=50))
    assert 'value="25.0"' in said
    assert "25 %: 30 s of 120 s, about 2 min left" in said
    assert "left" not in progress_html(Progress(done_s=0, total_s=120, spent_s=0))
    early = Progress(done_s=30, total_s=120, spent_s=50, least_s=33)
    assert "left" not in progress_html(early)
    beyond = Progress(done_s=130, total_s=120, spent_s=50)
    assert (beyond.fraction, beyond.left_s) == (1, 0)
    assert [in_words(seconds) for seconds in (5, 300, 9000)] == ["5 s", "5 min", "2.5 h"]


def test_names_cannot_bring_their_own_markup(tmp_path: Path) -> None:
    path = tmp_path / "a & 'b' <i>.wav"
    path.touch()
    song = Separated(
        song=path.name,
        stems={"<vocals>": path},
        played={"<vocals>": path},
        picture=path,
        summary="<summary>",
        notes=["<note>"],
    )
    shown = done_html(song) + results_html(song) + error_html("<error>")
    for name in ("<i>", "<vocals>", "<summary>", "<note>", "<error>"):
        assert name not in shown
    assert "a%20%26%20%27b%27%20%3Ci%3E.wav" in shown


def test_a_tone_is_bright_in_its_row_and_in_its_time(tmp_path: Path) -> None:
    rate, tone_hz = 16_000, 1_000
    time_s = torch.arange(4 * rate) / rate
    tone = torch.sin(2 * torch.pi * tone_hz * time_s) * (time_s > 2)
    spectrogram = Spectrogram(sample_rate=rate, num_samples=len(tone))
    for block in tone[None].split(1_000, dim=1):
        spectrogram.push(block)
    power = spectrogram.finish()
    rows = in_rows(power.sqrt().numpy(), rate)
    brightest = rows[:, -5].argmax()
    edges_hz = np.geomspace(LOWEST_HZ, rate / 2, NUM_ROWS + 1)
    assert abs(edges_hz[brightest] - tone_hz) < rate / N_FFT + 0.03 * tone_hz
    middle = round(2 / spectrogram.column_seconds)
    assert rows[brightest, : middle - 1].max() < 1e-3 * rows[brightest, middle + 2 :].min()
    save_spectrograms(tmp_path / "x.png", {"tone": spectrogram_of(tone[None], rate)})
    assert (tmp_path / "x.png").stat().st_size > 5_000


def spectrogram_of(waveform: torch.Tensor, rate: int) -> Spectrogram:
    spectrogram = Spectrogram(sample_rate=rate, num_samples=waveform.shape[1])
    spectrogram.push(waveform)
    return spectrogram


def test_a_long_song_has_no_more_columns_than_a_picture_shows() -> None:
    noise = torch.randn(1, 3_000_000, generator=torch.Generator().manual_seed(0))
    whole = spectrogram_of(noise, 8_000)
    in_blocks = Spectrogram(sample_rate=8_000, num_samples=noise.shape[1])
    for block in noise.split(70_001, dim=1):
        in_blocks.push(block)
    power = whole.finish()
    assert MOST_COLUMNS / 2 < power.shape[1] <= MOST_COLUMNS
    assert torch.allclose(power, in_blocks.finish(), rtol=1e-4)
    assert whole.seconds == 375
    underestimated = Spectrogram(sample_rate=8_000, num_samples=noise.shape[1] // 3)
    underestimated.push(noise)
    assert underestimated.finish().shape[1] > MOST_COLUMNS
    assert power.shape[1] * whole.column_seconds == pytest.approx(375, abs=whole.column_seconds)


def test_a_port_that_is_taken_is_refused_and_null_takes_the_next() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ValueError, match=f"port={port} at 127.0.0.1 cannot be used"):
            choose_port("127.0.0.1", port)
    assert choose_port("127.0.0.1", port) == port
    assert choose_port("127.0.0.1", None) >= 7860
    with pytest.raises(ValueError, match="from 1 to 65535"):
        choose_port("127.0.0.1", 70_000)
    with pytest.raises(ValueError, match="host=not a host is no address"):
        choose_port("not a host", 7_860)


def test_which_addresses_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.2", "::", "example.org")))
    assert url("::1", 80) == "http://[::1]:80"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ckpts=nowhere", "port=null"], "error: nowhere: no such file or folder"),
        (["ckpts=.", "port=null"], "error: ckpts=.: there is no .ckpt, .safetensors, .pth"),
        (["ckpts={models}", "device=quantum"], "error: device=quantum must be auto"),
        (["ckpts={models}", "port={taken}"], "error: port={taken} at 127.0.0.1 cannot be used"),
        (["ckpts={models}", "port=null"], "error: the page needs the package gradio: pip install"),
        (["checkpoints={models}"], "error: checkpoints is no key: did you mean ckpts?"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(
    tmp_path: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*NO_REQUESTS, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it was not installed
    monkeypatch.delitem(sys.modules, "frametx.app_page", raising=False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        words = {"models": str(models), "taken": str(listener.getsockname()[1])}
        filled = [argument.format(**words) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["app", *filled])
        with pytest.raises(SystemExit) as caught:
            main()
    lines = capfd.readouterr().err.strip().splitlines()
    assert caught.value.code == 2
    assert len(lines) == 1
    assert lines[0].startswith(said.format(**words))
    assert not list(tmp_path.iterdir())


SPY = """
import os, sys

def spy(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        asked = str(args[1][0])
    elif event == "socket.getaddrinfo":
        asked = str(args[0])
    else:
        return
    if asked not in ("127.0.0.1", "::1", "localhost", "None", ""):
        with open(os.environ["SPIED"], "a") as file:
            file.write(asked + "\\n")

sys.addaudithook(spy)
"""


@pytest.fixture
def server(tmp_path: Path, models: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """The command, its address, and the file that names whom it tried to reach."""
    if find_spec("gradio") is None:
        pytest.skip("gradio is not installed")
    if find_spec("playwright") is None or not Path(CHROMIUM).is_file():
        pytest.skip("there is no chromium, or no playwright to steer it")
    shutil.copytree(models, tmp_path / "models")
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "spy"),
        "SPIED": str(tmp_path / "spied"),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    port = choose_port("127.0.0.1", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "frametx.app", "ckpts=models", f"port={port}", "device=cpu"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert f"4 model(s), on cpu: http://127.0.0.1:{port}" in said
        yield process, f"http://127.0.0.1:{port}/", tmp_path / "spied"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_person_takes_a_song_apart_in_a_browser(
    server: tuple[subprocess.Popen[str], str, Path], tmp_path: Path
) -> None:
    from playwright.sync_api import sync_playwright

    process, address, spied = server
    song = write_song(tmp_path / "My song.wav", seconds=2, rate=44_100, subtype="PCM_16")
    long = write_song(tmp_path / "long.flac", seconds=120, rate=44_100, subtype="PCM_16")
    (tmp_path / "notes.mp3").write_text("this is no music\n" * 100)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        asked: list[str] = []
        broken: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(address)
        picked = page.get_by_role("combobox", name="Models", exact=True)
        separate, stop = (page.get_by_role("button", name=name) for name in ("Separate", "Stop"))
        status = page.locator("#status")
        page.get_by_text("Pick one model").wait_for()
        assert stop.is_disabled()

        def upload(path: Path) -> None:
            if page.get_by_label("Clear").count():
                page.get_by_label("Clear").first.click()
            page.locator("#song input[type=file]").set_input_files(path)
            page.locator("#song").get_by_text(re.compile(r"\d B|[kKM]B")).first.wait_for()

        # What training has written since is there when the page is loaded again.
        shutil.copy(tmp_path / "models/a/last.ckpt", tmp_path / "models/epoch=7.ckpt")
        page.reload()
        page.get_by_text("Pick one model").wait_for()
        picked.click()
        page.get_by_role("option", name="epoch=7.ckpt").click()
        page.locator("#about").get_by_text("epoch=7.ckpt: vocals").wait_for()
        picked.press("Backspace")
        page.get_by_text("Pick one model").wait_for()
        page.get_by_role("option", name="a/last.ckpt").click()
        page.get_by_role("option", name="drums.ckpt").click()
        page.locator("#about").get_by_role("alert").wait_for()
        picked.press("Backspace")
        page.locator("#about").get_by_role("alert").wait_for(state="detached")
        assert not page.get_by_label("How the models are combined").is_visible()
        picked.press_sequentially("b/last")
        picked.press("Enter")
        combined = page.get_by_label("How the models are combined")
        combined.wait_for()
        page.keyboard.press("Escape")
        weights = page.get_by_label("Weights of the models, in their order")
        assert not weights.is_visible()
        combined.click()
        page.get_by_role("option", name="minimum of vocals").wait_for()
        page.get_by_role("option", name="weighted mean").click()
        weights.wait_for()
        weights.fill("1, 3")
        unlabelled = page.evaluate(
            """() => [...document.querySelectorAll('input:not([type=file]), audio, textarea')]
                .filter(control => !control.labels?.length && !control.ariaLabel).length"""
        )
        assert unlabelled == 0

        upload(song)
        separate.press("Enter")
        page.locator("#results img").wait_for()
        assert page.locator("#results audio").count() == 2
        page.wait_for_function(
            """() => [...document.querySelectorAll('audio')]
                .every(audio => Math.abs(audio.duration - 2) < 0.1)
                && document.querySelector('#results img').naturalWidth > 600"""
        )
        page.wait_for_function("() => document.querySelector('#separate').disabled === false")
        page.screenshot(path=tmp_path / "done.png", full_page=True)
        said = status.inner_text()
        for words in (
            "Done: My song.wav",
            "Identity + Conv2d (weighted)",
            "cpu",
            "real-time factor",
        ):
            assert words in said
        total = 0
        for link in page.get_by_role("link", name="Download My song").all():
            with page.expect_download() as download:
                link.click()
            kept = tmp_path / "kept" / download.value.suggested_filename
            download.value.save_as(kept)
            total = total + sf.read(kept, dtype="int16")[0].astype(int)
        names = {path.name for path in (tmp_path / "kept").iterdir()}
        assert names == {"My song - vocals.wav", "My song - instrumental.wav"}
        assert np.array_equal(total, sf.read(song, dtype="int16")[0])

        upload(tmp_path / "notes.mp3")
        separate.click()
        alert = status.get_by_role("alert")
        alert.wait_for()
        assert "notes.mp3: is not audio that can be read" in alert.inner_text()
        assert "Traceback" not in page.content()
        page.screenshot(path=tmp_path / "bad.png", full_page=True)

        upload(long)
        page.get_by_label("best").check()
        separate.click()
        page.wait_for_function("() => document.querySelector('progress')?.value > 0")
        status.get_by_text(re.compile(r"\d+ %: \d+ s of 120 s, about .* left")).wait_for()
        page.screenshot(path=tmp_path / "progress.png", full_page=True)
        began = time.monotonic()
        stop.click()
        status.get_by_text("stopped").wait_for()
        assert time.monotonic() - began < 300
        page.wait_for_function("() => document.querySelector('#separate').disabled === false")

        upload(song)
        page.get_by_label("fast").check()
        page.get_by_label("mp3").check()
        page.locator("#stems").get_by_label("instrumental").uncheck()
        separate.click()
        page.get_by_role("link", name="vocals.mp3").wait_for()
        assert page.locator("#results audio").count() == 1
        folders = list((tmp_path / "temporary").glob("frametx-*/stems/*"))
        assert [folder.name for folder in folders] == ["My song"]
        page.close()
        for _ in range(100):
            if not folders[0].exists():
                break
            time.sleep(0.1)
        assert not folders[0].exists()  # closing the page deletes its stems
        browser.close()
    assert broken == []
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert not list((tmp_path / "temporary").glob("frametx-*"))
    assert not spied.exists(), spied.read_text()
