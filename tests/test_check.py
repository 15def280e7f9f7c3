"""The command: from any data to a report, a list, pictures and a preview."""

import json
import os
import sys
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from frametx.audio.stft import Stft
from frametx.check import main
from frametx.checkpoint import save_separator
from frametx.config import hydra_main
from frametx.data.synthetic import write_synthetic_libraries, write_synthetic_tracks
from frametx.separator import SpectrogramSeparator

RATE = 16_000
SMALL = [
    "audio=16k_mono",
    "curriculum.stages=[{until_step:null,frames:20,batch_size:2,accumulate:1}]",
]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two roles of four files; one voice has equal channels, and one file is there twice."""
    root = tmp_path / "library"
    write_synthetic_libraries(root, seconds=2, num_files=4, sample_rate=RATE, seed=0)
    waveform, rate = soundfile.read(root / "vocals" / "voice_001.wav")
    soundfile.write(root / "vocals" / "copy.flac", waveform, rate)
    soundfile.write(root / "vocals" / "twice.wav", np.stack([waveform[::-1]] * 2, axis=1), rate)
    (root / "instrumental" / "text.wav").write_text("this is no audio")
    return root


def run(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    folder: Path,
    *arguments: str,
) -> tuple[int, str, str]:
    """The command in this process and in `folder`: exit code, standard output and error."""
    monkeypatch.chdir(folder)
    cache = f"paths.cache_dir={folder / 'cache'}"
    monkeypatch.setattr(sys, "argv", ["frametx.check", cache, *SMALL, *arguments])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        hydra_main("check")(unwrap(main))()  # anew: it adds up the codes of a process
    GlobalHydra.instance().clear()
    torch.set_grad_enabled(True)
    printed = capfd.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


def test_a_library_is_reported_and_its_list_makes_it_clean(
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, printed, error = run(monkeypatch, capfd, tmp_path, f"data={library}", "strict=true")
    assert (code, error) == (1, "")
    assert "train vocals" in printed
    assert "voice_001.wav" in printed
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    by_part = {f"{part['split']} {part['role']}": part for part in report["parts"]}
    vocals = [by_part[f"{split} vocals"] for split in ("train", "validation")]
    assert sum(part["files"] for part in vocals) == 6
    assert sum(part["hours"] for part in vocals) == pytest.approx(6 * 2 / 3600)
    assert by_part["train instrumental"]["sample_rates"] == {
        "16000": by_part["train instrumental"]["files"]
    }
    assert by_part["train instrumental"]["rejected"] == 1
    kinds = {(Path(f["path"]).name, f["kind"]): f["is_fault"] for f in report["findings"]}
    twin = kinds.get(("voice_001.wav", "duplicate")) or kinds.get(("copy.flac", "duplicate"))
    assert twin or kinds.get(("voice_001.wav", "shared")) or kinds.get(("copy.flac", "shared"))
    assert kinds["text.wav", "unreadable"] is True
    assert kinds["twice.wav", "mono"] is False
    assert len(report["files"]) == 10
    # Nothing but the output and the cache appears where the user stands.
    assert {path.name for path in tmp_path.iterdir()} == {"library", "check", "cache"}
    arguments = (f"data={library}", "strict=true", "data.exclude=check/exclude.txt", "output=again")
    code, printed, _ = run(monkeypatch, capfd, tmp_path, *arguments)
    assert code == 0
    assert "0 file(s) with faults" in printed
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert len(again["files"]) == 9


def test_notes_can_be_made_faults(
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(monkeypatch, capfd, tmp_path, f"data={library}")
    listed = (tmp_path / "check" / "exclude.txt").read_text().splitlines()
    assert any(line.startswith("# ") and "twice.wav\tmono" in line for line in listed)
    run(monkeypatch, capfd, tmp_path, f"data={library}", "notes=[abrupt_end]")
    listed = (tmp_path / "check" / "exclude.txt").read_text().splitlines()
    assert any(line.startswith("/") and "twice.wav\tmono" in line for line in listed)


def test_tracks_are_reported_by_stem_with_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for split, seed in (("train", 0), ("test", 1)):
        write_synthetic_tracks(
            tmp_path / "songs" / split, seconds=1, num_tracks=2, sample_rate=RATE, seed=seed
        )
    code, _, _ = run(monkeypatch, capfd, tmp_path, f"data={tmp_path / 'songs'}", "plot=true")
    assert code == 0
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    told = [(part["split"], part["role"], part["files"]) for part in report["parts"]]
    assert told == [
        (split, role, count)
        for split, count in (("train", 1), ("validation", 1), ("test", 2))
        for role in ("vocals", "instrumental")
    ]
    # Whichever track is trained on lies in test/ too: by its name it is one artist's.
    assert sum(f["kind"] == "shared_folder" for f in report["findings"]) == 2
    for picture in ("hours", "spectra", "waveforms"):
        assert (tmp_path / "check" / f"{picture}.png").stat().st_size > 5_000


def saved_checkpoint(path: Path) -> Path:
    """A separator whose mask for the instrumental is 0.73 and more: it hears music everywhere."""
    settings = {
        "stems": ["vocals", "instrumental"],
        "complement": "vocals",
        "sample_rate": RATE,
        "num_channels": 1,
        "chunk_frames": 64,
        "scale": "chunk_peak",
        "top_bin": "copy",
    }
    stft = {"n_fft": 256, "hop_length": 128}
    network = {"_target_": "torch.nn.Threshold", "threshold": 1.0, "value": 1.0}
    separator = SpectrogramSeparator(
        stft=Stft(**stft), network=nn.Threshold(threshold=1.0, value=1.0), **settings
    )
    config = {
        "_target_": "frametx.separator.SpectrogramSeparator",
        "stft": {"_target_": "frametx.audio.stft.Stft", **stft},
        "network": network,
        **settings,
    }
    save_separator(path, separator, config, model="hears_music")
    return path


def test_a_separator_tells_what_does_not_belong(
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ckpt = saved_checkpoint(tmp_path / "a.ckpt")
    arguments = (f"data={library}", f"screen={ckpt}", "device=cpu", "screen_db=-5")
    _, _, error = run(monkeypatch, capfd, tmp_path, *arguments)
    assert error == ""
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    shares = {Path(one["path"]).name: one["unwanted_db"] for one in report["screened"]}
    # The mask is sigmoid(1) = 0.731: energies of 0.731 and 0.269 squared.
    share = 0.731**2 / (0.731**2 + 0.269**2)
    assert shares["voice_000.wav"] == pytest.approx(10 * np.log10(share), abs=0.05)
    assert shares["music_000.wav"] == pytest.approx(10 * np.log10(1 - share), abs=0.1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    unwanted = {Path(f["path"]).name for f in report["findings"] if f["kind"] == "unwanted"}
    assert unwanted == {f"voice_00{n}.wav" for n in range(4)} | {"copy.flac", "twice.wav"}
    monkeypatch.setattr("frametx.check.screen_file", None)  # whoever asks again would fail
    code, _, error = run(monkeypatch, capfd, tmp_path, *arguments)
    assert (code, error) == (0, "")
    assert json.loads((tmp_path / "check" / "report.json").read_text()) == report


@pytest.mark.parametrize("kind", ["folders", "tracks"])
def test_a_preview_is_what_training_makes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    if kind == "folders":
        write_synthetic_libraries(root, seconds=3, num_files=3, sample_rate=RATE, seed=0)
    else:
        for split in ("train", "test"):
            write_synthetic_tracks(
                root / split, seconds=3, num_tracks=2, sample_rate=RATE, seed=len(split)
            )
    code, _, error = run(monkeypatch, capfd, tmp_path, f"data={root}", "preview=9")
    assert (code, error) == (0, "")
    output = tmp_path / "check" / "preview"
    told = json.loads((output / "preview.json").read_text())
    assert [sample["sample"] for sample in told] == list(range(9))
    assert len(list(output.iterdir())) == 10
    for sample in told:
        folder = output / f"sample_{sample['sample']:03d}"
        read = {
            name: soundfile.read(folder / f"{name}.wav", dtype="float32")[0]
            for name in ("mixture", "vocals", "instrumental")
        }
        assert len(read["mixture"]) == 19 * 256
        np.testing.assert_allclose(
            read["vocals"] + read["instrumental"], read["mixture"], atol=1e-6
        )
        assert sample["levels"]["mixture"]["peak"] == pytest.approx(np.abs(read["mixture"]).max())
        assert " at " in sample["files"]
    assert not (tmp_path / "check" / "report.json").exists()
    assert "sample 8: " in told[8]["files"] or kind == "tracks"


def test_libraries_of_any_stems_are_checked_screened_and_previewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stems = ("vocals", "drums", "bass")
    write_synthetic_libraries(
        tmp_path / "data", seconds=2, num_files=3, sample_rate=RATE, seed=0, stems=stems
    )
    ckpt = saved_checkpoint(tmp_path / "a.ckpt")  # gives vocals and instrumental
    given = (f"data={tmp_path / 'data'}", f"stems=[{','.join(stems)}]")
    code, _, error = run(monkeypatch, capfd, tmp_path, *given, f"screen={ckpt}", "device=cpu")
    assert (code, error) == (0, "")
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    parts = [(part["split"], part["role"]) for part in report["parts"]]
    assert parts == [(split, stem) for split in ("train", "validation") for stem in stems]
    shares = {Path(one["path"]).stem: one["unwanted_db"] for one in report["screened"]}
    assert len(shares) == 9
    # Of vocals the instrumental is unwanted, of drums and bass the vocals: a share of 0.27 squared.
    share = 0.269**2 / (0.731**2 + 0.269**2)
    for name, unwanted_db in shares.items():
        expected = 1 - share if name.startswith("voice") else share
        assert unwanted_db == pytest.approx(10 * np.log10(expected), abs=0.1)
    code, _, error = run(monkeypatch, capfd, tmp_path, *given, "preview=2", "output=heard")
    assert (code, error) == (0, "")
    for number in range(2):
        folder = tmp_path / "heard" / "preview" / f"sample_{number:03d}"
        read = {path.stem: soundfile.read(path)[0] for path in folder.iterdir()}
        assert set(read) == {"mixture", *stems}
        np.testing.assert_allclose(sum(read[stem] for stem in stems), read["mixture"], atol=1e-6)


def test_drawn_gains_are_those_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_synthetic_libraries(
        tmp_path / "data", seconds=3, num_files=3, sample_rate=RATE, seed=0
    )[0].parent
    gain = "{_target_:frametx.data.augment.Gain,min_db:-20,max_db:6}"
    common = (f"data={root}", "preview=4", "augment=none")
    run(monkeypatch, capfd, tmp_path, *common, "output=plain")
    run(
        monkeypatch, capfd, tmp_path, *common, f"+augment.transforms.vocals=[{gain}]", "output=loud"
    )
    plain, loud = (
        json.loads((tmp_path / name / "preview" / "preview.json").read_text())
        for name in ("plain", "loud")
    )
    for before, after in zip(plain, loud, strict=True):
        assert before["files"] == after["files"]
        (drawn,) = after["drawn"]["parts"]["vocals"]["transforms"]
        change_db = after["levels"]["vocals"]["rms_db"] - before["levels"]["vocals"]["rms_db"]
        assert drawn["transform"] == "Gain"
        assert drawn["gain_db"] == pytest.approx(change_db, abs=1e-3)
        assert after["levels"]["instrumental"] == before["levels"]["instrumental"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data=folders",), "data.vocals, data.instrumental must be given"),
        (("preview=-1",), "preview=-1 must be a whole number"),
        (("threads=0",), "threads=0 must be at least 1"),
        (("notes=[ugly]",), "ugly is no kind; there is unreadable"),
        (("screen=nowhere.ckpt",), "nowhere.ckpt: no such checkpoint"),
        (("data.exclude=nothing.txt",), "nothing.txt cannot be read as a list"),
        (("sceen=x",), "sceen is no key: did you mean screen?"),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if not arguments[0].startswith("data="):
        arguments = (f"data={library}", *arguments)
    code, _, error = run(monkeypatch, capfd, tmp_path, *arguments)
    assert code == 2
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_what_a_library_leaves_out_is_counted_and_named_whatever_its_name(
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tone = 0.5 * np.sin(np.arange(RATE))
    vocals = os.fsencode(library / "vocals")
    for name in (b"caf\xe9.wav", b"\x1b[31m\xe2\x80\xae.wav", b"A$AP - $x_{.wav"):
        with open(os.path.join(vocals, name), "wb") as file:  # noqa: PTH118, PTH123 - bytes
            soundfile.write(file, tone * 0.1, RATE, format="WAV")
    soundfile.write(library / "vocals" / "loud.wav", 1e20 * tone, RATE, subtype="FLOAT")
    (library / "vocals" / "song.m4a").write_bytes(b"content")
    (library / "vocals" / os.fsdecode(b"j\xfcnk.wav")).write_text("junk")
    arguments = (f"data={library}", "shown=100", "plot=true")
    code, printed, _ = run(monkeypatch, capfd, tmp_path, *arguments)
    assert code == 0
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    kinds = {(Path(one["path"]).name, one["kind"], one["is_fault"]) for one in report["findings"]}
    assert {
        ("loud.wav", "absurd", True),
        ("song.m4a", "not_read", False),
        (os.fsdecode(b"j\xfcnk.wav"), "unreadable", True),
    } <= kinds
    (part,) = (one for one in report["parts"] if one["role"] == "vocals" and one["rejected"])
    assert part["rejected"] == 3
    assert part["findings"].items() >= {"absurd": 1, "not_read": 1, "unreadable": 1}.items()
    assert r"j\xfcnk.wav" in printed
    assert "\x1b" not in printed
    exclude = "data.exclude=check/exclude.txt"
    code, _, _ = run(monkeypatch, capfd, tmp_path, f"data={library}", "strict=true", exclude)
    assert code == 0


def test_all_songs_that_do_not_fit_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "valid", "test"):
        write_synthetic_tracks(
            tmp_path / "songs" / split, seconds=1, num_tracks=4, sample_rate=RATE, seed=len(split)
        )
    songs = tmp_path / "songs" / "train"
    for number, length in ((0, RATE - 3), (1, 2 * RATE)):
        path = songs / f"track_{number:03d}" / "vocals.wav"
        samples, rate = soundfile.read(path)
        soundfile.write(path, np.resize(samples, (length, *samples.shape[1:])), rate)
    (songs / "track_002" / "vocals.wav").unlink()
    (tmp_path / "songs" / "test" / "track_003" / "vocals.wav").write_text("junk")
    arguments = (f"data={tmp_path / 'songs'}", "shown=100")
    code, printed, _ = run(monkeypatch, capfd, tmp_path, *arguments)
    assert code == 0
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    found = {
        ("/".join(Path(one["path"]).parts[-2:]), one["kind"], one["is_fault"])
        for one in report["findings"]
        if one["part"] == "songs"
    }
    assert found == {
        ("train/track_000", "adjusted", False),
        ("train/track_001", "not_aligned", True),
        ("train/track_002", "missing_stem", True),
        ("test/track_003", "unreadable", True),
    }
    assert "data.length_tolerance_seconds=1 " in printed
    accepted = ("data.length_tolerance_seconds=1", "data.missing_stem=silent")
    run(monkeypatch, capfd, tmp_path, *arguments, *accepted)
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    kinds = [one["kind"] for one in report["findings"] if one["part"] == "songs"]
    assert sorted(kinds) == ["adjusted"] * 3 + ["unreadable"]


def test_pictures_that_cannot_be_drawn_cost_no_report(
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "check" / "hours.png").mkdir(parents=True)
    code, printed, error = run(monkeypatch, capfd, tmp_path, f"data={library}", "plot=true")
    assert code == 1
    assert "train vocals" in printed
    assert error.startswith("note: no pictures: ")
    assert (tmp_path / "check" / "report.json").is_file()
