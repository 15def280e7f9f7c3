"""cSDR: agreement with museval, and the rule about silence."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from frametx.metrics.decibels import LIMIT_DB
from frametx.metrics.sdr import usdr
from frametx.metrics.windowed_sdr import csdr, windowed_sdr

RATE = 4000  # Hz


def museval_metrics() -> ModuleType:
    """museval's own figures, without the readers of videos beside them, which want ffmpeg."""
    package = importlib.util.find_spec("museval")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).with_name("metrics.py")
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def voice_and_band(seconds: float) -> Tensor:
    """A gliding harmonic voice with pauses, and chords with noise: S C L, panned apart."""
    generator = torch.Generator().manual_seed(0)
    num_samples = round(seconds * RATE)
    time_s = torch.arange(num_samples) / RATE
    phase = torch.cumsum(2 * torch.pi * (180 + 40 * torch.sin(3 * time_s)) / RATE, dim=0)
    voice = sum(torch.sin(k * phase) / k for k in range(1, 6)) * torch.sin(2.1 * time_s).clamp_min(
        0
    )
    chord = sum(torch.sin(2 * torch.pi * f * time_s + f) for f in (110.0, 220.5, 331.0, 441.0))
    hiss = torch.randn(num_samples, generator=generator)
    stems = torch.stack([0.2 * torch.as_tensor(voice), 0.1 * torch.as_tensor(chord) + 0.02 * hiss])
    pan = torch.tensor([[[1.0], [0.8]], [[0.6], [1.0]]])
    return stems.unsqueeze(1) * pan


def imperfect(stems: Tensor) -> Tensor:
    """Estimates with leakage, a filter and noise: every kind of error that BSSEval tells apart."""
    generator = torch.Generator().manual_seed(1)
    leaking = 0.8 * stems + 0.15 * stems.flip(0)
    smoothed = 0.9 * leaking + 0.1 * leaking.roll(3, dims=-1)
    return smoothed + 0.005 * torch.randn(stems.shape, generator=generator)


def by_museval(estimates: Tensor, stems: Tensor) -> np.ndarray:
    """SDR of every window: S W."""
    references, estimated = (x.double().mT.numpy() for x in (stems, estimates))
    bss_eval = museval_metrics().bss_eval  # as `museval.evaluate` calls it for BSSEval v4
    return bss_eval(
        references,
        estimated,
        compute_permutation=False,
        window=RATE,
        hop=RATE,
        framewise_filters=False,
        bsseval_sources_version=False,
    )[0]


def test_every_window_equals_musevals() -> None:
    stems = voice_and_band(6.7)
    estimates = imperfect(stems)
    ours = windowed_sdr(estimates, stems, sample_rate=RATE)
    reference = by_museval(estimates, stems)
    assert ours.shape == reference.shape == (2, 6)
    np.testing.assert_allclose(ours.numpy(), reference, atol=0.01)
    medians = csdr(estimates, stems, sample_rate=RATE).numpy()
    np.testing.assert_allclose(medians, np.nanmedian(reference, axis=1), atol=0.01)


def test_silent_windows_are_left_out_as_museval_does() -> None:
    stems = voice_and_band(6.0)
    estimates = imperfect(stems)
    stems[0, :, RATE : 3 * RATE] = 0  # the voice rests for two windows
    estimates[1, :, 4 * RATE : 5 * RATE] = 0  # an estimate is empty for one
    ours = windowed_sdr(estimates, stems, sample_rate=RATE)
    reference = by_museval(estimates, stems)
    assert np.isnan(reference).sum() == 6
    np.testing.assert_allclose(ours.numpy(), reference, atol=0.01)
    medians = csdr(estimates, stems, sample_rate=RATE).numpy()
    np.testing.assert_allclose(medians, np.nanmedian(reference, axis=1), atol=0.01)


def test_the_median_of_an_even_number_of_windows_lies_between_the_middle_two() -> None:
    stems = torch.ones(1, 1, 2 * RATE)
    estimates = stems.clone()
    estimates[..., :RATE] *= 1.1  # 20 dB
    estimates[..., RATE:] *= 1.01  # 40 dB
    assert csdr(estimates, stems, sample_rate=RATE).item() == pytest.approx(30, abs=1e-3)


def test_a_track_shorter_than_a_window_is_one_window() -> None:
    stems = voice_and_band(0.5)
    estimates = imperfect(stems)
    short = csdr(estimates, stems, sample_rate=RATE)
    assert torch.allclose(short, usdr(estimates, stems))


def test_what_is_left_after_the_last_whole_window_does_not_count() -> None:
    stems = voice_and_band(2.5)
    estimates = imperfect(stems)
    spoilt = estimates.clone()
    spoilt[..., 2 * RATE :] += 1
    assert torch.equal(
        csdr(spoilt, stems, sample_rate=RATE), csdr(estimates, stems, sample_rate=RATE)
    )


def test_a_track_with_a_stem_that_never_sounds_has_no_value() -> None:
    stems = voice_and_band(2.0)
    stems[0] = 0
    assert csdr(imperfect(stems), stems, sample_rate=RATE).isnan().all()


def test_identical_is_the_limit_not_infinity() -> None:
    stems = voice_and_band(2.0)
    assert (csdr(stems, stems, sample_rate=RATE) == LIMIT_DB).all()
