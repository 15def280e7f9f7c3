"""Distance between magnitudes summed into bands as wide as the ear's."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from frametx.audio.stft import Stft
from frametx.losses.spectral import magnitude


class MelL1(nn.Module):
    """Mean absolute difference of the stems' magnitudes in mel bands.

    A band is a triangle of height 1 over the bins, on the mel scale of HTK, from 0 Hz to half the
    sample rate; high bands are wide and weigh more bins. As in `MagnitudeL1` the magnitude is
    divided by the square root of n_fft. Low bands that are so narrow that they hold no bin of this
    STFT are left out.

    Args:
        sample_rate: Hz.
        n_fft: window length, samples; the hop is a quarter of it.
        num_bands: before those without a bin are left out.
        weight: factor of the result.

    Raises:
        ValueError: if there is no band.

    Source: specs/training.md section 4 (V6 and V7, added to the L1 of the magnitudes). The bands
    are torchaudio's `MelScale`; the original spread them over bins without the Nyquist bin.
    """

    bands: Tensor

    def __init__(self, *, sample_rate: int, n_fft: int, num_bands: int, weight: float) -> None:
        super().__init__()
        if num_bands < 1:
            raise ValueError(f"loss.num_bands={num_bands} must be at least 1")
        self.stft = Stft(n_fft=n_fft, hop_length=n_fft // 4)
        self.weight = weight
        with warnings.catch_warnings():  # of bands without a bin, which leave here
            warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero")
            bands = melscale_fbanks(
                n_freqs=n_fft // 2 + 1,
                f_min=0.0,
                f_max=sample_rate / 2,
                n_mels=num_bands,
                sample_rate=sample_rate,
                norm=None,
                mel_scale="htk",
            ).T
        self.register_buffer("bands", bands[bands.amax(dim=1) > 0], persistent=False)

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over stems, channels, bands and frames."""
        difference = magnitude(self.stft, estimates) - magnitude(self.stft, stems)
        with torch.autocast(difference.device.type, enabled=False):
            in_bands = self.bands.to(difference.dtype) @ difference
        return self.weight * in_bands.abs().mean() / self.stft.n_fft**0.5
