"""Loud against quiet: compressor, noise gate, and the originals' change of dynamic range."""

from collections.abc import Sequence
from math import log

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.data.augment.transform import (
    Parameters,
    beside,
    between,
    checked_probability,
    checked_range,
    log_between,
)

CONTROL_HOP = 32
"""Samples between two values of the gain (0.7 ms at 44.1 kHz), which is straight in between."""
SILENCE = 1e-6
"""-120 dBFS: no level below is told from it."""


class Compressor:
    """Turn down what is louder than a threshold: `ratio` dB more come in for 1 dB more out.

    The level is the peak of all channels, which falls with the release time; the gain follows it
    with the attack time. Both channels get one gain, so the stereo image stays.

    Args:
        sample_rate: Hz.
        threshold_db: range of the threshold, dBFS.
        ratio: range of the ratio.
        attack_ms: range of the attack time, to 63 % of a change; drawn evenly in octaves.
        release_ms: range of the release time, to 63 % of a change; drawn evenly in octaves.
        probability: share of the samples.

    Source: Giannoulis, Massberg, Reiss, "Digital dynamic range compressor design", JAES 2012 (the
    decoupled peak detector, feed-forward, hard knee, no make-up gain).
    """

    num_uniforms = 4

    def __init__(
        self,
        *,
        sample_rate: int,
        threshold_db: Sequence[float],
        ratio: Sequence[float],
        probability: float,
        attack_ms: Sequence[float] = (1.0, 50.0),
        release_ms: Sequence[float] = (50.0, 500.0),
    ) -> None:
        self.sample_rate = sample_rate
        self.threshold_db = checked_range("threshold_db", threshold_db, at_most=0)
        self.ratio = checked_range("ratio", ratio, at_least=1)
        self.attack_ms = checked_range("attack_ms", attack_ms, at_least=0.1)
        self.release_ms = checked_range("release_ms", release_ms, at_least=1)
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 4"]) -> Parameters:
        """`threshold_db`, `ratio`, `attack_ms`, `release_ms`."""
        return {
            "threshold_db": between(uniforms[:, 0], self.threshold_db),
            "ratio": between(uniforms[:, 1], self.ratio),
            "attack_ms": log_between(uniforms[:, 2], self.attack_ms),
            "release_ms": log_between(uniforms[:, 3], self.release_ms),
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Multiplied with one gain for all channels, never above 1."""
        drawn = {name: beside(values, waveform)[:, None] for name, values in parameters.items()}
        control_rate = self.sample_rate / CONTROL_HOP
        level_db = _level_db(waveform, drawn["release_ms"] * (control_rate / 1000))
        excess_db = (level_db - drawn["threshold_db"]).clamp(min=0)
        gain_db = excess_db * (1 / drawn["ratio"] - 1)
        gain_db = _follow(gain_db, drawn["attack_ms"] * (control_rate / 1000))
        return _with_gain(waveform, gain_db)


class NoiseGate:
    """Turn down what is quieter than a threshold: 1 dB less in is `ratio` dB less out.

    Args:
        sample_rate: Hz.
        threshold_db: range of the threshold, dBFS.
        ratio: range of the ratio.
        probability: share of the samples.
        attack_ms: time in which it opens, to 63 % of a change in dB.
        release_ms: time in which the level it goes by falls to 37 %.
    """

    num_uniforms = 2

    def __init__(
        self,
        *,
        sample_rate: int,
        threshold_db: Sequence[float],
        ratio: Sequence[float],
        probability: float,
        attack_ms: float = 1.0,
        release_ms: float = 100.0,
    ) -> None:
        self.sample_rate = sample_rate
        self.threshold_db = checked_range("threshold_db", threshold_db, at_most=0)
        self.ratio = checked_range("ratio", ratio, at_least=1)
        self.attack_ms = checked_range("attack_ms", (attack_ms, attack_ms), at_least=0.1)[0]
        self.release_ms = checked_range("release_ms", (release_ms, release_ms), at_least=1)[0]
        self.probability = checked_probability(probability)

    def draw(self, uniforms: Float[Tensor, "B 2"]) -> Parameters:
        """`threshold_db`, `ratio`."""
        return {
            "threshold_db": between(uniforms[:, 0], self.threshold_db),
            "ratio": between(uniforms[:, 1], self.ratio),
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Multiplied with one gain for all channels, never above 1."""
        drawn = {name: beside(values, waveform)[:, None] for name, values in parameters.items()}
        control_rate = self.sample_rate / CONTROL_HOP / 1000
        steps = torch.ones_like(drawn["ratio"]) * control_rate
        level_db = _level_db(waveform, steps * self.release_ms)
        lack_db = (drawn["threshold_db"] - level_db).clamp(min=0)
        gain_db = _follow(lack_db * (1 - drawn["ratio"]), steps * self.attack_ms)
        return _with_gain(waveform, gain_db)


class DynamicRange:
    """Make the loud or the quiet cells of the spectrogram louder or softer, one of the four.

    Args:
        threshold: range of what counts as loud, as a share of the crop's highest magnitude.
        gain: range of how much is added to, or taken off, the amplitude: 0.25 is a quarter.
        probability: share of the samples.
        n_fft: window of the spectrogram, samples.
    """

    num_uniforms = 3

    def __init__(
        self,
        *,
        threshold: Sequence[float],
        gain: Sequence[float],
        probability: float,
        n_fft: int = 2048,
    ) -> None:
        self.threshold = checked_range("threshold", threshold, at_least=0, at_most=1)
        self.gain = checked_range("gain", gain, at_least=0, at_most=1)
        self.probability = checked_probability(probability)
        self.stft = Stft(n_fft=n_fft, hop_length=n_fft // 4)

    def draw(self, uniforms: Float[Tensor, "B 3"]) -> Parameters:
        """`threshold`, `gain`, and `mode`.

        Of the mode, 0 is louder and 1 is softer for loud cells, 2 and 3 the same for quiet ones.
        """
        return {
            "threshold": between(uniforms[:, 0], self.threshold),
            "gain": between(uniforms[:, 1], self.gain),
            "mode": (4 * uniforms[:, 2]).long(),
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """The cells that are meant by 1 + gain or 1 - gain, phases as they are."""
        drawn = {
            name: beside(values, waveform)[:, None, None, None]
            for name, values in parameters.items()
        }
        spectrogram = self.stft(waveform)
        magnitude = spectrogram.abs()
        is_loud = magnitude > drawn["threshold"] * magnitude.amax(dim=(1, 2, 3), keepdim=True)
        is_meant = is_loud == (drawn["mode"] < 2)
        sign = 1 - 2 * (drawn["mode"] % 2)
        factor = 1 + is_meant * (sign * drawn["gain"])
        return self.stft.inverse(spectrogram * factor, length=waveform.shape[-1])


def _level_db(
    waveform: Float[Tensor, "B C L"], release_steps: Float[Tensor, "B 1"]
) -> Float[Tensor, "B steps"]:
    """Peaks that fall exponentially, dBFS, one value for every `CONTROL_HOP` samples.

    y[n] = max(x[n], y[n - 1] exp(-1 / release)) is, with its logarithm plus n / release, a running
    maximum: so it needs no loop over time.
    """
    padded = F.pad(waveform, (0, -waveform.shape[-1] % CONTROL_HOP))
    peaks = reduce(padded.abs(), "b c (steps hop) -> b steps", "max", hop=CONTROL_HOP)
    time = torch.arange(peaks.shape[1], device=waveform.device)[None] / release_steps
    level = (peaks.clamp(min=SILENCE).log() + time).cummax(dim=1).values - time
    return (20 / log(10)) * level


def _follow(
    gain_db: Float[Tensor, "B steps"], attack_steps: Float[Tensor, "B 1"]
) -> Float[Tensor, "B steps"]:
    """A one-pole low-pass, settled at the first value: y[n] = a y[n - 1] + (1 - a) x[n]."""
    num_steps = gain_db.shape[1]
    first = gain_db[:, :1]
    time = torch.arange(num_steps, device=gain_db.device)[None]
    decay = torch.exp(-1 / attack_steps)
    ringing = (1 - decay) * torch.exp(-time / attack_steps)
    size = 2 * num_steps
    spectrum = torch.fft.rfft(gain_db - first, n=size) * torch.fft.rfft(ringing, n=size)
    return first + torch.fft.irfft(spectrum, n=size)[:, :num_steps]


def _with_gain(
    waveform: Float[Tensor, "B C L"], gain_db: Float[Tensor, "B steps"]
) -> Float[Tensor, "B C L"]:
    """Gains lie at the middles of their steps, and are straight in between."""
    gain = 10 ** (gain_db.clamp(max=0) / 20)
    fine = F.interpolate(gain[:, None], scale_factor=CONTROL_HOP, mode="linear")
    return waveform * fine[..., : waveform.shape[-1]]
