"""Distances between spectrograms: what the family was trained with, and at several resolutions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.losses.precision import full_precision


class MagnitudeL1(nn.Module):
    """Mean absolute difference of the stems' magnitudes at one resolution or several.

    Every magnitude is divided by the square root of n_fft, which keeps the value about independent
    of the resolution and near the waveform's own scale.

    Args:
        n_ffts: window lengths, samples; each with a hop of a quarter of it.
        weight: factor of the result.

    Source: specs/training.md section 4 (L1 on magnitudes, every released model); several
    resolutions after Yamamoto et al., "Parallel WaveGAN", 2020.
    """

    def __init__(self, *, n_ffts: Sequence[int], weight: float) -> None:
        super().__init__()
        if not n_ffts:
            raise ValueError("loss.n_ffts is empty: give at least one window length")
        self.stfts = nn.ModuleList(Stft(n_fft=n, hop_length=n // 4) for n in n_ffts)
        self.weight = weight

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over resolutions, stems, channels, bins and frames."""
        total = estimates.new_zeros(())
        for stft in self.stfts:
            assert isinstance(stft, Stft)
            difference = magnitude(stft, estimates) - magnitude(stft, stems)
            total = total + difference.abs().mean() / stft.n_fft**0.5
        return self.weight * total / len(self.stfts)


class ComplexL1(nn.Module):
    """Mean absolute difference of the real and imaginary parts of the stems' spectrograms.

    It sees the phase, which a distance of magnitudes does not. Scaled as `MagnitudeL1`.

    Args:
        n_ffts: window lengths, samples; each with a hop of a quarter of it.
        weight: factor of the result.

    Raises:
        ValueError: if there is no resolution.

    Source: Lu et al., "Music Source Separation with Band-Split RoPE Transformer", 2023, whose hop
    is 147 samples at every resolution.
    """

    def __init__(self, *, n_ffts: Sequence[int], weight: float) -> None:
        super().__init__()
        if not n_ffts:
            raise ValueError("loss.n_ffts is empty: give at least one window length")
        self.stfts = nn.ModuleList(Stft(n_fft=n, hop_length=n // 4) for n in n_ffts)
        self.weight = weight

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over resolutions, stems, channels, bins, frames and both parts."""
        error = full_precision(estimates) - full_precision(stems)
        total = estimates.new_zeros(())
        for stft in self.stfts:
            assert isinstance(stft, Stft)
            total = total + torch.view_as_real(stft(error)).abs().mean() / stft.n_fft**0.5
        return self.weight * total / len(self.stfts)


def magnitude(stft: Stft, waveform: Float[Tensor, "*batch L"]) -> Float[Tensor, "*batch F T"]:
    """Magnitude whose gradient is finite where the spectrogram is zero."""
    return floored_magnitude(stft, waveform, floor=1e-6)


def floored_magnitude(
    stft: Stft, waveform: Float[Tensor, "*batch L"], *, floor: float
) -> Float[Tensor, "*batch F T"]:
    """Magnitude that is at least `floor`, and smooth there, for logarithms."""
    spectrogram = stft(waveform)
    return (spectrogram.real.square() + spectrogram.imag.square() + floor**2).sqrt()
