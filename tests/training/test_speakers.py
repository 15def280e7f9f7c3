"""Speakers who talk at once: who is drawn, how loud, what is held out, and a whole run."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from frametx.checkpoint import load_separator
from frametx.config import conf_dir
from frametx.data.library import Library
from frametx.data.speakers import (
    AnyOrder,
    DrawnSpeakers,
    SpeakerCrops,
    SpeakerMix,
    speaker_of,
    split_speakers,
)
from frametx.data.synthetic import voice
from frametx.data.tracks import Mixture
from frametx.metrics.sdr import si_sdr
from frametx.train import train
from frametx.training.speakers import SpeakersDataModule
from frametx.training.track_scores import TrackScores
from frametx.waveform_separator import WaveformSeparator

RATE = 8_000
NAMES = ("ann", "bob", "cid", "dee", "eve")


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five speakers with two files each, one of them below a second folder, as corpora have it."""
    root = tmp_path_factory.mktemp("speech") / "library"
    rng = np.random.default_rng(0)
    for name in NAMES:
        for place in ("one.wav", "book/two.wav"):
            path = root / name / place
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, voice(RATE, sample_rate=RATE, rng=rng), RATE)
    return root


@pytest.fixture(scope="session")
def library(speech: Path) -> Library:
    return Library.open(speech, role="speakers", cache_dir=speech.parent / "cache")


@pytest.fixture(scope="session")
def compose_speakers(speech: Path) -> Callable[..., DictConfig]:
    def compose_run(output: Path, *overrides: str) -> DictConfig:
        settings = [
            "model=sepformer_tiny",
            "model.num_features=8",
            "model.hidden_features=12",
            "model.num_heads=2",
            "model.chunk_frames=10",
            "waveform_separator.levels=mixture",
            "waveform_separator.chunk_seconds=0.5",
            "audio=8k_mono",
            "loss=pit_si_snr",
            "data=speakers",
            f"data.speakers={speech}",
            "data.held_out=0.4",
            "data.held_out_mixtures=2",
            "data.held_out_seconds=0.3",
            "data.num_workers=0",
            "trainer.accelerator=cpu",
            "trainer.max_steps=4",
            "trainer.val_check_interval=4",
            "trainer.log_every_n_steps=1",
            "trainer.enable_progress_bar=false",
            "~callbacks.progress",
            "curriculum.stages=[{until_step:null,frames:9,batch_size:2,accumulate:2}]",
            "scheduler.warmup_steps=1",
            "scheduler.total_steps=20",
            "callbacks.ema.start_step=1",
            "test=false",
            "paths.runs_dir=runs",
            f"paths.cache_dir={speech.parent / 'cache'}",
            f"paths.output_dir={output}",
        ]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("train", [*settings, *overrides])

    return compose_run


def crops(library: Library, *, num_speakers: int = 2) -> SpeakerCrops:
    return SpeakerCrops(
        library=library,
        num_speakers=num_speakers,
        seed=0,
        stream="speaker",
        sample_rate=RATE,
        num_channels=1,
        decode_cache_dir=None,
    )


def mix(**changes: Any) -> SpeakerMix:
    settings: dict[str, Any] = {
        "seed": 0,
        "level_db": -25.0,
        "spread_db": (0.0, 5.0),
        "silence_probability": 0.0,
        "max_peak": None,
        "transforms": [],
    }
    return SpeakerMix(**(settings | changes))


def batch(*, batch_size: int = 64, num_speakers: int = 2, level: float = 0.3) -> dict[str, Tensor]:
    torch.manual_seed(0)
    loudness = level * torch.rand(batch_size, num_speakers, 1, 1) + 0.01
    stems = loudness * torch.randn(batch_size, num_speakers, 1, 200)
    return {"sample": torch.arange(batch_size), "stems": stems}


def level_db(stems: Tensor) -> Tensor:
    return 10 * stems.square().mean(dim=(2, 3)).log10()


@pytest.mark.parametrize("num_speakers", [2, 3, 5])
def test_a_mixture_has_different_speakers_all_of_whom_take_part_and_in_any_place(
    library: Library, num_speakers: int
) -> None:
    drawn = crops(library, num_speakers=num_speakers)
    heard: list[set[str]] = [set() for _ in range(num_speakers)]
    for sample in range(60):
        names = [part.split("/")[0] for part in drawn.describe(sample, 400).split(" + ")]
        assert len(set(names)) == num_speakers
        for place, name in zip(heard, names, strict=True):
            place.add(name)
    assert all(place == set(NAMES) for place in heard)


def test_a_sample_is_the_same_whenever_it_is_asked_and_what_is_described(library: Library) -> None:
    drawn = crops(library)
    one, again, other = drawn[(3, 500)], drawn[(3, 500)], drawn[(4, 500)]
    assert one["stems"].shape == (2, 1, 500)
    assert torch.equal(one["stems"], again["stems"])
    assert not torch.equal(one["stems"], other["stems"])
    by_name = {file.name: file for file in library.files}
    for stem, place in zip(one["stems"], drawn.describe(3, 500).split(" + "), strict=True):
        name, start_s = place.removesuffix(" s").split(" at ")
        near = round(float(start_s) * RATE)  # told in milliseconds
        samples = torch.from_numpy(soundfile.read(by_name[name].path, dtype="float32")[0])
        starts = range(max(0, near - 4), near + 5)
        assert any(torch.equal(stem[0], samples[start : start + 500]) for start in starts)


def test_a_file_that_vanished_is_replaced_by_another_speaker_than_the_one_it_talks_over(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(1)
    for name in ("ann.wav", "bob.wav", "cid.wav"):
        soundfile.write(tmp_path / name, voice(RATE, sample_rate=RATE, rng=rng), RATE)
    drawn = crops(Library.open(tmp_path, role="speakers", cache_dir=tmp_path / "cache"))
    (tmp_path / "bob.wav").unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for sample in range(20):
            stems = drawn[(sample, 400)]["stems"]
            assert not torch.equal(stems[0], stems[1])
            assert "bob" not in drawn.describe(sample, 400)
    assert drawn.reader.num_lost == 1
    assert any("cannot be read any more" in str(one.message) for one in caught)
    three = crops(drawn.reader.library, num_speakers=3)
    with pytest.warns(UserWarning, match="bob.wav has vanished"):
        three.reader.lose(1, "bob.wav has vanished")
    with pytest.raises(ValueError, match="no speaker number 3 for a mixture of 3"):
        three[(0, 400)]


def test_more_speakers_than_the_library_has_are_refused(library: Library) -> None:
    with pytest.raises(ValueError, match=r"num_speakers=6 .* at most the 5"):
        crops(library, num_speakers=6)


@pytest.mark.parametrize("held_out", [0.01, 0.4, 0.99])
def test_no_speaker_is_on_both_sides_and_both_have_enough(
    library: Library, held_out: float
) -> None:
    kept, held = split_speakers(library, held_out, num_speakers=2)
    sides = [{speaker_of(file)[1] for file in part.files} for part in (kept, held)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(NAMES)
    assert min(map(len, sides)) >= 2
    assert len(kept.files) + len(held.files) == 10


def test_too_few_speakers_to_hold_some_out_are_refused(library: Library) -> None:
    with pytest.raises(ValueError, match=r"5 speaker\(s\) cannot be divided into 3"):
        split_speakers(library, 0.5, num_speakers=3)


def test_a_file_without_a_folder_is_a_speaker_of_its_own(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.full(800, 0.1), RATE)
    found = Library.open(tmp_path, role="speakers", cache_dir=tmp_path / "cache")
    assert [speaker_of(file)[1] for file in found.files] == ["a.wav", "b.wav"]


def test_levels_are_spread_evenly_around_the_one_asked_for() -> None:
    given = batch(num_speakers=3)
    levels = level_db(mix()(given))
    spread = levels[:, 0] - levels[:, 2]
    assert 0 <= spread.min() < 0.5
    assert 4.5 < spread.max() <= 5
    torch.testing.assert_close(levels.mean(dim=1), torch.full((64,), -25.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(levels[:, 1], torch.full((64,), -25.0), atol=1e-3, rtol=0)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    given = batch()
    whole = mix(silence_probability=0.3, max_peak=0.1)(given)
    part = {name: value[5:9] for name, value in given.items()}
    torch.testing.assert_close(mix(silence_probability=0.3, max_peak=0.1)(part), whole[5:9])


def test_one_speaker_at_most_is_silent_as_often_as_asked() -> None:
    stems = mix(silence_probability=0.5)(batch(batch_size=400))
    is_silent = ~stems.flatten(2).any(dim=2)
    assert is_silent.sum(dim=1).max() == 1
    assert is_silent.any(dim=1).float().mean() == pytest.approx(0.5, abs=0.08)
    assert (is_silent.float().mean(dim=0) > 0.15).all()


def test_what_is_silent_gets_no_level_and_what_is_too_loud_is_turned_down_as_one() -> None:
    given = batch()
    given["stems"][0, 0] = 1e-6
    assert mix()(given)[0, 0].abs().max() == pytest.approx(1e-6)
    loud = mix(level_db=0.0, max_peak=0.5)(given)
    free = mix(level_db=0.0)(given)
    assert loud.sum(dim=1).abs().max() <= 0.5 + 1e-6
    ratio = (loud / free)[1:].flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    with pytest.raises(ValueError, match="max_peak"):
        mix(max_peak=0.0)


def test_mixtures_to_validate_on_are_fixed_and_have_no_order(library: Library) -> None:
    tracks = DrawnSpeakers(crops(library), mix(), count=3, seconds=0.1)
    assert len(tracks) == 3
    for index in range(3):
        track = tracks[index]
        assert track.stems.shape == (2, 1, 800)
        assert torch.equal(track.stems, tracks[index].stems)
        assert not track.has_order
    with pytest.raises(IndexError, match="mixture 3 of 3"):
        tracks[3]
    assert not AnyOrder(tracks=[Mixture("a", torch.ones(2, 1, 5), RATE)])[0].has_order


class Bands(nn.Module):
    """The second of two tones first: right but for the order."""

    stems: tuple[str, ...] = ("speaker_1", "speaker_2")
    sample_rate = RATE
    num_channels = 1
    chunk_samples = 4_000

    def forward(self, mixture: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(mixture)
        hz = torch.fft.rfftfreq(mixture.shape[-1], 1 / RATE)
        high = torch.fft.irfft(spectrum * (hz > 1_000), n=mixture.shape[-1])
        return torch.stack([high, mixture - high], dim=1)


@pytest.mark.parametrize("has_order", [True, False])
def test_speakers_are_scored_under_their_best_order_and_stems_under_their_own(
    has_order: bool,
) -> None:
    time_s = torch.arange(4_000) / RATE
    stems = torch.stack([torch.sin(2 * torch.pi * hz * time_s)[None] for hz in (500, 2_000)])
    track = Mixture("tones", stems, RATE, has_order=has_order)
    scores = TrackScores(overlap=0.25)
    scores.add(Bands(), track, torch.device("cpu"))
    means = scores.means(Bands(), torch.device("cpu"), lambda sums: sums)
    assert means["val/si_sdr"] == pytest.approx(100 if not has_order else -100, abs=60)
    assert (means["val/si_sdr/speaker_1"] > 30) == (not has_order)


class SwappingBands(Bands):
    """The same, the other way round in every second chunk."""

    ordered_stems = False
    sums_to_mixture = False
    chunk_samples = 1_000

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def forward(self, mixture: Tensor) -> Tensor:
        self.num_calls += 1
        estimates = super().forward(mixture)
        return estimates.flip(1) if self.num_calls % 2 else estimates


def test_speakers_who_change_places_from_chunk_to_chunk_are_validated_as_they_are_separated() -> (
    None
):
    time_s = torch.arange(4_000) / RATE
    stems = torch.stack([torch.sin(2 * torch.pi * hz * time_s)[None] for hz in (500, 2_000)])
    track = Mixture("tones", stems, RATE, has_order=False)
    found: list[float] = []
    for ordered in (False, True):
        separator, scores = SwappingBands(), TrackScores(overlap=0.25)
        separator.ordered_stems = ordered
        scores.add(separator, track, torch.device("cpu"))
        assert separator.num_calls > 3
        means = scores.means(separator, torch.device("cpu"), lambda sums: sums)
        found.append(means["val/si_sdr"])
    assert found[0] > 20
    assert found[1] < 5  # what a separator would score that says its order is fixed


def test_a_loss_that_takes_any_order_needs_a_separator_that_says_so(
    tmp_path: Path, compose_speakers: Callable[..., DictConfig]
) -> None:
    cfg = compose_speakers(tmp_path, "data.speakers=nowhere")
    assert cfg.separator.ordered_stems is False
    with pytest.raises(ValueError, match=r"loss=pit_si_snr .* add ordered_stems=false") as refused:
        train(compose_speakers(tmp_path, "ordered_stems=true"))
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"module.overlap=0 with ordered_stems=false"):
        train(compose_speakers(tmp_path, "module.overlap=0"))


def test_every_model_of_samples_hears_that_speakers_have_no_order() -> None:
    files = sorted((conf_dir() / "model").glob("*.yaml"))
    names = [file.stem for file in files if "\nseparator: ${waveform_sep" in file.read_text()]
    assert "sepformer" in names
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for name in ("v7_tiny", *names):  # and one of spectrograms, whose separator is train.yaml's
            cfg = compose("train", [f"model={name}", "data=speakers", "data.speakers=x"])
            assert cfg.separator.ordered_stems is False, name


def test_a_run_trains_validates_resumes_exactly_and_its_checkpoint_separates(
    tmp_path: Path, compose_speakers: Callable[..., DictConfig]
) -> None:
    train(compose_speakers(tmp_path / "whole"))
    train(
        compose_speakers(tmp_path / "half", "trainer.max_steps=2", "trainer.val_check_interval=2")
    )
    half = tmp_path / "half" / "checkpoints" / "last.ckpt"
    train(compose_speakers(tmp_path / "rest", f"ckpt_path={half}"))
    stored = [
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)
        for run in ("whole", "rest", "half")
    ]
    for key in ("state_dict", "optimizer_states", "current_model_state"):
        torch.testing.assert_close(stored[0][key], stored[1][key], atol=0, rtol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(stored[0]["state_dict"], stored[2]["state_dict"], atol=0, rtol=0)
    metrics = (tmp_path / "whole" / "metrics.csv").read_text()
    assert "val/si_sdr/speaker_2" in metrics
    separator = load_separator(tmp_path / "whole" / "checkpoints" / "best.ckpt")
    assert isinstance(separator, WaveformSeparator)
    assert separator.stems == ("speaker_1", "speaker_2")
    assert separator.levels == "mixture"


def test_the_number_of_speakers_reaches_stems_network_and_data(
    tmp_path: Path, compose_speakers: Callable[..., DictConfig]
) -> None:
    cfg = compose_speakers(tmp_path, "num_speakers=3", "data.speakers=nowhere")
    separator, data = instantiate(cfg.separator), instantiate(cfg.data)
    assert separator.stems == ("speaker_1", "speaker_2", "speaker_3")
    assert separator.network.num_stems == 3
    assert isinstance(data, SpeakersDataModule)
    assert data.num_speakers == 3


def test_the_wrong_order_is_worse_by_the_same_metric() -> None:
    """What the best order is worth, so that the tests above could fail."""
    stems = torch.randn(2, 1, 500)
    assert si_sdr(stems.flip(0), stems).max() < si_sdr(stems, stems).min()
