"""Noise in the spectrogram: on magnitudes, and on phases."""

from collections.abc import Sequence
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.data.augment.counted_noise import (
    NUM_KEY_UNIFORMS,
    even_noise,
    noise_keys,
    normal_noise,
)
from frametx.data.augment.transform import (
    Parameters,
    beside,
    between,
    checked_probability,
    checked_range,
)


class MultiplicativeNoise:
    """Multiply every cell of the spectrogram by a normal number around 1; phases stay.

    Args:
        deviation: range of the standard deviation of the factors. What falls below 0 is 0.
        probability: share of the samples.
        n_fft: window of the spectrogram, samples.
    """

    num_uniforms = 1 + NUM_KEY_UNIFORMS

    def __init__(
        self, *, deviation: Sequence[float], probability: float, n_fft: int = 2048
    ) -> None:
        self.deviation = checked_range("deviation", deviation, at_least=0)
        self.probability = checked_probability(probability)
        self.stft = Stft(n_fft=n_fft, hop_length=n_fft // 4)

    def draw(self, uniforms: Float[Tensor, "B 3"]) -> Parameters:
        """`deviation`, and the `key` of the noise."""
        return {
            "deviation": between(uniforms[:, 0], self.deviation),
            "key": noise_keys(uniforms[:, 1:]),
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """Each channel with noise of its own."""
        spectrogram = self.stft(waveform)
        key = beside(parameters["key"], waveform)
        noise = normal_noise(key, spectrogram[0].numel()).view(spectrogram.shape)
        deviation = beside(parameters["deviation"], waveform)[:, None, None, None]
        factor = (1 + deviation * noise).clamp(min=0)
        return self.stft.inverse(spectrogram * factor, length=waveform.shape[-1])


class PhaseNoise:
    """Turn the phase of every cell of the spectrogram by a random angle; magnitudes stay.

    Cells overlap, so the magnitudes of what is heard change a little all the same.

    Args:
        strength: range of the largest angle, in half turns: 1 makes phases fully random.
        probability: share of the samples.
        n_fft: window of the spectrogram, samples.
    """

    num_uniforms = 1 + NUM_KEY_UNIFORMS

    def __init__(self, *, strength: Sequence[float], probability: float, n_fft: int = 2048) -> None:
        self.strength = checked_range("strength", strength, at_least=0, at_most=1)
        self.probability = checked_probability(probability)
        self.stft = Stft(n_fft=n_fft, hop_length=n_fft // 4)

    def draw(self, uniforms: Float[Tensor, "B 3"]) -> Parameters:
        """`strength`, and the `key` of the noise."""
        return {
            "strength": between(uniforms[:, 0], self.strength),
            "key": noise_keys(uniforms[:, 1:]),
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """All channels of a row with the same angles, so that the stereo image stays."""
        spectrogram = self.stft(waveform)
        key = beside(parameters["key"], waveform)
        noise = even_noise(key, spectrogram[0, 0].numel()).view(spectrogram[:, :1].shape)
        angle = pi * beside(parameters["strength"], waveform)[:, None, None, None] * noise
        turned = spectrogram * torch.polar(torch.ones_like(angle), angle)
        return self.stft.inverse(turned, length=waveform.shape[-1])
