"""From a separator and tracks to scores, pictures and audio; and the command that does it."""

import csv
import dataclasses
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from frametx.config import conf_dir
from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.library import Library
from frametx.data.synthetic import write_synthetic_libraries
from frametx.data.tracks import Mixture
from frametx.evaluate import (
    Evaluation,
    Keep,
    beside,
    evaluate,
    evaluation_set,
    file_name,
    how_many,
    main,
    report,
)
from frametx.execution import Execution, choose_device
from frametx.metrics.summary import Summary
from frametx.pipeline import Pipeline
from frametx.printable import printable
from frametx.separation_options import SeparationOptions

RATE = 8000  # Hz
STEMS = ("vocals", "instrumental")


class Halves(nn.Module):
    """Gives every stem half of the mixture."""

    def __init__(self, *, stems: tuple[str, ...] = STEMS, sample_rate: int = RATE) -> None:
        super().__init__()
        self.stems = stems
        self.sample_rate = sample_rate
        self.num_channels = 2
        self.chunk_samples = 2000

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([0.5 * mixture] * len(self.stems), dim=1)


class BelowAndAbove(Halves):
    """What is above 1 kHz is voice, what is below is not: right for `tones`."""

    def forward(self, mixture: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(mixture)
        frequencies_hz = torch.fft.rfftfreq(mixture.shape[-1], 1 / self.sample_rate)
        above = torch.fft.irfft(spectrum * (frequencies_hz > 1000), n=mixture.shape[-1])
        return torch.stack([above, mixture - above], dim=1)


class Broken(Halves):
    """Answers with NaN, as weights do that have diverged."""

    def forward(self, mixture: Tensor) -> Tensor:
        return super().forward(mixture) * torch.nan


def used(separator: Halves, **options: Any) -> Pipeline:
    execution = Execution(device="cpu", batch_size=3)
    return Pipeline([separator], SeparationOptions(**options), execution=execution)


def tones(number: int, *, sample_rate: int = RATE, seconds: float = 2.0) -> Mixture:
    """A voice of 2 kHz and music of 300 Hz, equally loud, in stereo."""
    time_s = torch.arange(round(seconds * sample_rate)) / sample_rate
    waves = [torch.sin(2 * torch.pi * f * time_s + number) for f in (2000, 300)]
    stems = 0.3 * torch.stack(waves).unsqueeze(1).expand(-1, 2, -1)
    return Mixture(name=f"album/song {number}", stems=stems, sample_rate=sample_rate)


def value(evaluation: Evaluation, stem: str, metric: str) -> Summary:
    (found,) = [s for s in evaluation.summaries if (s.stem, s.metric) == (stem, metric)]
    return found


def test_half_the_mixture_gains_3_db_of_level_and_nothing_else() -> None:
    evaluation = evaluate(used(Halves()), [tones(0), tones(1), tones(2)])
    for stem in STEMS:
        usdr = value(evaluation, stem, "usdr")
        assert usdr.mixture == pytest.approx(0, abs=0.01)
        assert usdr.improvement.mean == pytest.approx(10 * math.log10(2), abs=0.01)
        assert value(evaluation, stem, "csdr").improvement.mean == pytest.approx(3.01, abs=0.01)
        assert value(evaluation, stem, "si_sdr").improvement.mean == pytest.approx(0, abs=0.01)
    assert evaluation.audio_seconds == pytest.approx(6)


def test_a_separator_that_is_right_scores_high() -> None:
    evaluation = evaluate(used(BelowAndAbove(), overlap=0.5), [tones(0), tones(1)])
    for stem in STEMS:
        assert value(evaluation, stem, "si_sdr").improvement.mean > 20


def test_tracks_are_scored_at_their_own_rate() -> None:
    evaluation = evaluate(
        used(BelowAndAbove(), overlap=0.5), [tones(0, sample_rate=11_025), tones(1)]
    )
    assert [score.seconds for score in evaluation.scores] == pytest.approx([2, 2, 2, 2], abs=1e-3)
    assert value(evaluation, "instrumental", "si_sdr").improvement.low > 15


def test_the_interval_depends_on_the_seed_and_is_repeated_by_it() -> None:
    tracks = [tones(number, seconds=0.3 + 0.1 * number) for number in range(6)]
    first, again, other = (evaluate(used(BelowAndAbove()), tracks, seed=s) for s in (0, 0, 1))
    assert first.summaries == again.summaries
    assert first.summaries != other.summaries


def test_data_without_tracks_is_refused() -> None:
    with pytest.raises(ValueError, match="no track to evaluate on"):
        evaluate(used(Halves()), [])


def test_a_track_with_other_stems_than_the_checkpoint_is_refused() -> None:
    four = ("vocals", "drums", "bass", "other")
    with pytest.raises(ValueError, match=r"album/song 0 has 2 stems.*drums"):
        evaluate(used(Halves(stems=four)), [tones(0)])


def test_a_single_stem_whose_mixture_would_be_itself_is_refused() -> None:
    track = dataclasses.replace(tones(0), stems=tones(0).stems[:1])
    with pytest.raises(ValueError, match="separates vocals alone"):
        evaluate(used(Halves(stems=("vocals",))), [track])


def test_a_separator_that_answers_nan_is_an_error_and_no_silence() -> None:
    with pytest.raises(ValueError, match="estimates of album/song 0 hold NaN"):
        evaluate(used(Broken()), [tones(0)])


def test_report_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = evaluate(used(Halves()), [tones(0), tones(1)])
    report(evaluation, tmp_path / "new" / "folder", facts={"ckpt": "a [very] good.ckpt"})
    printed = capsys.readouterr().out
    assert "a [very] good.ckpt" in printed
    assert "2 track(s), 4.0 s of audio" in printed
    stored = json.loads((tmp_path / "new/folder/summary.json").read_text())
    assert (stored["ckpt"], stored["num_tracks"]) == ("a [very] good.ckpt", 2)
    for row in stored["summary"]:
        assert f"{row['estimate']['mean']:z.2f}" in printed
    with (tmp_path / "new/folder/tracks.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["track"] for line in lines] == ["album/song 0"] * 2 + ["album/song 1"] * 2


def test_pictures_and_audio_of_the_first_tracks_are_kept(tmp_path: Path) -> None:
    keep = Keep(output=tmp_path, stem_names=STEMS, pictures=1, wavs=2)
    tracks = [tones(0), tones(1), tones(2)]
    evaluate(used(Halves()), tracks, on_track=keep)
    assert [p.name for p in tmp_path.glob("pictures/*")] == ["001_album_song_0.png"]
    folders = sorted((tmp_path / "audio").iterdir())
    assert [folder.name for folder in folders] == ["001_album_song_0", "002_album_song_1"]
    parts = ("mixture", "vocals", "instrumental", "vocals.truth", "instrumental.truth")
    assert {path.stem for path in folders[1].iterdir()} == set(parts)
    read = {part: torch.from_numpy(sf.read(folders[1] / f"{part}.wav")[0].T) for part in parts}
    assert torch.equal(read["vocals.truth"].float(), tracks[1].stems[0])
    assert torch.allclose(read["vocals"] + read["instrumental"], read["mixture"], atol=1e-6)


def test_the_kept_picture_shows_the_estimate(tmp_path: Path) -> None:
    for folder, separator in (("halves", Halves()), ("right", BelowAndAbove())):
        keep = Keep(output=tmp_path / folder, stem_names=STEMS, pictures=1, wavs=0)
        evaluate(used(separator), [tones(0)], on_track=keep)
    first, second = (path.read_bytes() for path in sorted(tmp_path.glob("*/pictures/*.png")))
    assert first != second


@pytest.mark.parametrize(
    "name", ["A$AP - $x_{", "caf\udce9", "a\nb", "\x1b[31m\u202e", "\U0001f3a4" * 300, "/"]
)
def test_a_track_of_any_name_has_scores_a_picture_and_audio(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = Keep(output=tmp_path, stem_names=STEMS, pictures=1, wavs=1)
    track = dataclasses.replace(tones(0), name=name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        evaluation = evaluate(used(Halves()), [track], on_track=keep)
    report(evaluation, tmp_path)
    assert keep.failures == []
    assert len([*tmp_path.glob("pictures/*.png")]) == 1
    with (tmp_path / "tracks.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["track"] for row in rows] == [printable(name)] * 2
    assert "\x1b" not in capsys.readouterr().out


def test_what_cannot_be_kept_costs_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no\nfont")

    monkeypatch.setattr("frametx.evaluate.save_picture", fail)
    (tmp_path / "audio").write_text("a file where the folder should be")
    keep = Keep(output=tmp_path, stem_names=STEMS, pictures=2, wavs=1)
    evaluation = evaluate(used(Halves()), [tones(0), tones(1)], on_track=keep)
    assert len(evaluation.scores) == 4
    first, audio, second = keep.failures
    assert first == "no picture of album/song 0: no font"
    assert audio.startswith("no audio of album/song 0: ")
    assert second.startswith("no picture of album/song 1")


class Damaged:
    """Tracks of which one cannot be read."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int, /) -> Mixture:
        if index in self.bad:
            raise ValueError(f"song {index}/vocals.wav: sample 3 is nan")
        return tones(index)


def test_a_track_that_cannot_be_read_costs_only_its_own_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = evaluate(used(Halves()), Damaged(0))
    assert {score.track for score in evaluation.scores} == {"album/song 1"}
    assert evaluation.facts["num_tracks"] == 1
    report(evaluation, tmp_path)
    assert "left out, cannot be read: song 0/vocals.wav: sample 3 is nan" in capsys.readouterr().out
    assert "song 0/vocals.wav" in (tmp_path / "summary.json").read_text()
    with pytest.raises(ValueError, match="song 0"):
        evaluate(used(Halves()), Damaged(0, 1))


def test_a_stem_that_a_track_lacks_has_no_score() -> None:
    lacking = tones(0)
    lacking.stems[0] = 0
    lacking = dataclasses.replace(lacking, missing=frozenset({0}))
    evaluation = evaluate(used(Halves()), [lacking, tones(1)])
    assert [(score.track, score.stem) for score in evaluation.scores] == [
        ("album/song 0", "instrumental"),
        ("album/song 1", "vocals"),
        ("album/song 1", "instrumental"),
    ]
    assert {one.num_left_out for one in evaluation.summaries if one.stem == "vocals"} == {0}


def test_file_names_are_safe_and_unlike() -> None:
    assert file_name(0, "a/b: c?") == "001_a_b_c_"
    assert file_name(1, "a\\b* c<") == "002_a_b_c_"
    assert len(file_name(2, "Ä" * 500)) < 100
    assert file_name(0, "../../x") == "001_.._.._x"
    assert len(file_name(0, "\U00020000" * 500).encode()) < 220  # four bytes a letter
    file_name(0, "caf\udce9").encode()


def test_results_lie_beside_the_checkpoint_but_not_in_a_folder_named_like_weights() -> None:
    assert beside("~/runs/x/best.ckpt") == Path("~/runs/x/evaluation")
    for name in ("demucs:htdemucs", "demucs:/my/files/htdemucs", "openunmix:/my/files"):
        assert beside(name) == Path("evaluation")


@pytest.mark.parametrize("value", [-1, 1.5, True, "some", None])
def test_a_number_of_tracks_is_a_number_or_all(value: object) -> None:
    with pytest.raises(ValueError, match=f"pictures={value} must be a number of tracks"):
        how_many("pictures", value)
    assert how_many("pictures", "all") > 10**9


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="device=cuda is not there"):
        choose_device("cuda")
    with pytest.raises(ValueError, match="device=gpu must be"):
        choose_device("gpu")
    assert choose_device("cpu").type == "cpu"


def test_two_libraries_are_evaluated_on_the_files_that_training_holds_out(tmp_path: Path) -> None:
    vocals, instrumental = write_synthetic_libraries(
        tmp_path, seconds=1, num_files=4, sample_rate=RATE, seed=0
    )
    overrides = ["ckpt=any.ckpt", "data=folders", f"paths.cache_dir={tmp_path / 'cache'}"]
    overrides += [f"data.vocals={vocals}", f"data.instrumental={instrumental}"]
    overrides += ["data.held_out=0.25", "data.held_out_mixtures=3", "data.held_out_seconds=0.5"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("evaluate", overrides)
    tracks = evaluation_set(cfg, Halves())
    assert isinstance(tracks, DrawnMixtures)
    assert len(tracks) == 3
    assert tracks[0].stems.shape == (2, 2, RATE // 2)
    for library, crops in zip((vocals, instrumental), tracks.crops, strict=True):
        _, held_out = Library.open(library, role="any", cache_dir=tmp_path / "other").split(0.25)
        assert crops.reader.library.fingerprint == held_out.fingerprint


def saved_tracks(root: Path) -> Path:
    for number in range(2):
        mixture = tones(number)
        (root / f"song {number}").mkdir(parents=True)
        for stem, waveform in zip(STEMS, mixture.stems, strict=True):
            path = root / f"song {number}" / f"{stem}.wav"
            sf.write(path, waveform.T.numpy(), mixture.sample_rate, subtype="FLOAT")
    return root


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "frametx.evaluate", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_command_evaluates_a_folder_of_tracks(
    tmp_path: Path, save_louder_is_more: Callable[[Path], Path]
) -> None:
    ckpt = save_louder_is_more(tmp_path / "a.ckpt")
    tracks = saved_tracks(tmp_path / "tracks")
    done = run(tmp_path, f"ckpt={ckpt}", f"data={tracks}", "device=cpu", "wavs=1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "2 track(s), 4.0 s of audio" in done.stdout
    output = tmp_path / "evaluation"
    summary = json.loads((output / "summary.json").read_text())["summary"]
    assert {row["stem"] for row in summary} == set(STEMS)
    written = {path.relative_to(output).as_posix() for path in output.rglob("*.*")}
    assert {"tracks.csv", "pictures/001_song_0.png", "audio/001_song_0/vocals.wav"} <= written
    # Nothing else appears where the user stands: no log, no outputs folder.
    assert {path.name for path in tmp_path.iterdir()} == {"a.ckpt", "tracks", "evaluation"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "ckpt must be given"),
        (("ckpt=nowhere.ckpt",), "nowhere.ckpt: no such checkpoint"),
        (("ckpt=nowhere.ckpt", "pictures=-2"), "pictures=-2 must be a number of tracks"),
        (("ckpt=a.ckpt", "device=gpu"), "device=gpu must be"),
        (("ckpt=a.ckpt", "stems=[drums]"), "stems=['drums'] must be the checkpoint's"),
        (("ckpt=a.ckpt", "resamples=10"), "resamples=10 must be at least 1000"),
        (("ckpt=a.ckpt", "picture=2"), "picture is no key"),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    save_louder_is_more: Callable[[Path], Path],
) -> None:
    save_louder_is_more(tmp_path / "a.ckpt")
    tracks = saved_tracks(tmp_path / "tracks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate", f"data={tracks}", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_failed_picture_is_a_note_and_exit_code_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    save_louder_is_more: Callable[[Path], Path],
) -> None:
    save_louder_is_more(tmp_path / "a.ckpt")
    tracks = saved_tracks(tmp_path / "tracks")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pictures").write_text("a file where the folder should be")
    monkeypatch.chdir(tmp_path)
    arguments = [f"data={tracks}", "ckpt=a.ckpt", "device=cpu", "output=out"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert (tmp_path / "out" / "summary.json").is_file()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("note: no picture of ")
