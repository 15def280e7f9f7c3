"""Stems that have no order and no remainder, from training to files, as two speakers are."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from frametx.data.synthetic import voice
from frametx.execution import Execution
from frametx.pipeline import Pipeline
from frametx.separation_options import Augmentation, SeparationOptions

RATE = 8_000


class Voices(nn.Module):
    """Low and high tones of a mixture, each too quiet, in an order drawn for every chunk."""

    sums_to_mixture = False
    sample_rate = RATE
    chunk_samples = 2_000

    def __init__(
        self, *, swaps: bool, num_channels: int = 1, stems: tuple[str, str] = ("one", "two")
    ) -> None:
        super().__init__()
        self.ordered_stems = not swaps
        self.num_channels = num_channels
        self.stems: tuple[str, ...] = stems
        self.generator = torch.Generator().manual_seed(2)

    def forward(self, mixture: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(mixture)
        hz = torch.fft.rfftfreq(mixture.shape[-1], 1 / RATE)
        low = torch.fft.irfft(spectrum * (hz < 1_000), n=mixture.shape[-1])
        high = torch.fft.irfft(spectrum * (hz > 1_000), n=mixture.shape[-1])
        estimates = 0.5 * torch.stack([low, high], dim=1)
        if self.ordered_stems:
            return estimates
        is_swapped = torch.rand(len(mixture), generator=self.generator) < 0.5
        return torch.where(is_swapped[:, None, None, None], estimates.flip(1), estimates)


def noise(channels: int, length: int) -> Tensor:
    return 0.2 * torch.randn(channels, length, generator=torch.Generator().manual_seed(length))


def pipeline(*members: nn.Module, **options: Any) -> Pipeline:
    chosen = replace(SeparationOptions(), **options)
    return Pipeline(members, chosen, execution=Execution(device="cpu", batch_size=2))  # pyright: ignore[reportArgumentType]


def separated(found: Pipeline, mixture: Tensor, block: int = 1_000) -> Tensor:
    return found.estimates(lambda: mixture.split(block, dim=1), RATE)


def turned_to(found: Tensor, expected: Tensor) -> Tensor:
    """As a whole the other way round, if that is nearer: where a stream begins is chance."""
    near, far = ((x - expected).square().sum() for x in (found, found.flip(0)))
    return found if near < far else found.flip(0)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"quality": "best"},
    {"tta": Augmentation(swap=True, polarity=True, shifts=2), "wiener": 1, "fill_band": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_views_of_stems_that_change_places_are_averaged_stem_by_stem(
    num_channels: int, options: dict[str, Any]
) -> None:
    mixture = noise(2, 11_000)
    expected, found = (
        separated(pipeline(Voices(swaps=swaps, num_channels=num_channels), **options), mixture)
        for swaps in (False, True)
    )
    torch.testing.assert_close(turned_to(found, expected), expected, atol=1e-5, rtol=1e-4)
    assert expected.abs().mean() > 1e-3


@pytest.mark.parametrize("options", [{}, {"domain": "waveform", "ensemble": "median"}])
def test_members_of_an_ensemble_may_give_their_stems_in_any_order(options: dict[str, Any]) -> None:
    mixture = noise(1, 11_000)
    expected, found = (
        separated(pipeline(*(Voices(swaps=swaps) for _ in range(3)), **options), mixture)
        for swaps in (False, True)
    )
    torch.testing.assert_close(turned_to(found, expected), expected, atol=1e-5, rtol=1e-4)
    whole = Voices(swaps=False)(mixture[None])[0]
    for near, far, stem in zip(found, found.flip(0), turned_to(whole, found), strict=True):
        assert (near - stem).square().sum() < 0.1 * (far - stem).square().sum()


@pytest.mark.parametrize("block", [137, 11_000])
def test_what_comes_out_does_not_depend_on_how_a_recording_is_cut(block: int) -> None:
    mixture, options = noise(2, 11_000), {"tta": Augmentation(shifts=1), "overlap": 0.3}
    expected = separated(pipeline(Voices(swaps=True), **options), mixture)
    found = separated(pipeline(Voices(swaps=True), **options), mixture, block)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_without_a_remainder_each_stem_is_the_models_and_with_one_they_add_up() -> None:
    mixture, voices = noise(1, 6_000), Voices(swaps=False)
    free = pipeline(voices)
    assert (free.rest, free.remainder) == (None, None)
    stems = separated(free, mixture)
    torch.testing.assert_close(stems.sum(dim=0), 0.5 * mixture, atol=0.02, rtol=0)
    asked = pipeline(voices, remainder="two")
    assert asked.remainder == "two"
    with_rest = separated(asked, mixture)
    torch.testing.assert_close(with_rest.sum(dim=0), mixture, atol=1e-6, rtol=0)
    assert torch.equal(with_rest[0], stems[0])
    voices.sums_to_mixture = True
    assert pipeline(voices).remainder == "two"
    assert pipeline(voices, remainder="none").remainder is None


def test_what_a_model_does_not_hear_is_in_no_stem_unless_the_band_is_filled() -> None:
    mixture = noise(1, 40_000)
    high = torch.fft.rfftfreq(40_000, 1 / 40_000) > 4_100
    loudness: list[Tensor] = []
    for fill_band in (False, True):
        found = pipeline(Voices(swaps=True), fill_band=fill_band)
        stems = found.estimates(lambda: [mixture], 40_000)
        loudness.append((torch.fft.rfft(stems).abs() * high).mean(dim=(1, 2)))
    of_mixture = (torch.fft.rfft(mixture).abs() * high).mean()
    assert loudness[0].max() < 1e-3 * of_mixture
    assert loudness[1].max() > 0.1 * of_mixture


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quality": "fast"}, r"overlap=0: the stems .* have no order"),
        ({"overlap": 0.0}, r"take overlap=0.25"),
        ({"aggressiveness": 1.5}, "aggressiveness=1.5"),
        ({"remainder": "three"}, r"remainder=three must be one of the stems .* or none"),
    ],
)
def test_what_needs_an_order_or_a_remainder_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        pipeline(Voices(swaps=True), **options)
    assert "\n" not in str(refused.value)


def command(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"frametx.{name}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_two_steps_on_speakers_then_a_talk_of_several_chunks_then_an_evaluation(
    tmp_path: Path,
) -> None:
    """The three commands as they are typed."""
    rng = np.random.default_rng(0)
    for name in ("ann", "bob", "cid", "dee"):
        (tmp_path / "speech" / name).mkdir(parents=True)
        said = voice(2 * RATE, sample_rate=RATE, rng=rng)
        soundfile.write(tmp_path / "speech" / name / "one.wav", said, RATE)
    one, other = (voice(3 * RATE, sample_rate=RATE, rng=rng) for _ in range(2))
    talk = 0.5 * (one + other)
    soundfile.write(tmp_path / "talk.wav", talk, RATE, subtype="PCM_16")
    data = ["data=speakers", "data.speakers=speech", "data.held_out=0.5"]
    data += ["data.held_out_mixtures=2", "data.held_out_seconds=1.2", "paths.cache_dir=cache"]
    done = command(
        tmp_path,
        "train",
        "model=sepformer_tiny",
        "audio=8k_mono",
        "loss=pit_si_snr",
        "waveform_separator.levels=mixture",
        "waveform_separator.chunk_seconds=0.7",
        "curriculum.stages=[{until_step:null,frames:9,batch_size:2,accumulate:1}]",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "trainer.enable_progress_bar=false",
        "~callbacks.progress",
        "data.num_workers=0",
        "test=false",
        "name=talk",
        *data,
    )
    assert done.returncode == 0, done.stderr
    ckpt = "ckpt=runs/talk/checkpoints/best.ckpt"
    assert (tmp_path / ckpt.removeprefix("ckpt=")).is_file()

    done = command(tmp_path, "separate", ckpt, "input=talk.wav", "device=cpu", "quality=best")
    assert done.returncode == 0, done.stderr
    assert "do not add up" in done.stdout
    report = json.loads((tmp_path / "separated" / "report.json").read_text())
    assert report["remainder"] is None
    assert report["stems"] == ["speaker_1", "speaker_2"]
    assert any("do not add up" in note for note in report["notes"])
    stems = [
        soundfile.read(tmp_path / "separated" / "talk" / f"{stem}.wav", dtype="float32")[0]
        for stem in report["stems"]
    ]
    assert [len(stem) for stem in stems] == [3 * RATE] * 2
    assert all(np.abs(stem).max() > 0 for stem in stems)
    assert np.abs(sum(stems) - talk).max() > 2 / 2**15  # the second is no remainder

    settings = ["device=cpu", "resamples=1000", "output=scores"]
    done = command(tmp_path, "evaluate", ckpt, *settings, *data)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["remainder"] is None
    assert summary["num_tracks"] == 2
