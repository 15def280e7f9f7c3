"""Waveform to spectrogram and back, with the exact length restored, never below 32 bits."""

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from frametx.audio.transfer import on_device


class Stft(nn.Module):
    """Short-time Fourier transform with a periodic Hann window, and its inverse.

    Runs in at least 32-bit floats under any autocast: cuFFT has no bfloat16, and a phase rounded to
    8 bits is noise. The waveform is padded with zeros by half a window on each side (frame t is
    centred on sample t * hop_length) and at the end up to a whole frame, so that every sample is
    covered by full overlap and the inverse returns any length >= 1 exactly.

    Args:
        n_fft: window length and transform size, samples.
        hop_length: distance between frames, samples; at most half of `n_fft`.

    Raises:
        ValueError: if `hop_length` is larger than half the window, or `n_fft` is odd.
    """

    window: Tensor

    def __init__(self, *, n_fft: int, hop_length: int) -> None:
        super().__init__()
        if n_fft % 2 or n_fft < 4:
            raise ValueError(f"n_fft={n_fft} must be an even number of at least 4")
        if not 1 <= hop_length <= n_fft // 2:
            raise ValueError(
                f"hop_length={hop_length} must be between 1 and n_fft // 2 = {n_fft // 2}: "
                "frames that overlap by less than half cannot be resynthesised cleanly"
            )
        self.n_fft = n_fft
        self.hop_length = hop_length
        # Not persistent: it follows from n_fft and must not clutter checkpoints.
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform of `num_samples`: one on every started hop, and one more."""
        return -(-num_samples // self.hop_length) + 1

    def num_samples(self, num_frames: int) -> int:
        """The longest waveform that has `num_frames` frames."""
        return (num_frames - 1) * self.hop_length

    def forward(self, waveform: Float[Tensor, "*batch L"]) -> Complex[Tensor, "*batch F T"]:
        """The complex spectrogram; T = ceil(L / hop_length) + 1, F = n_fft / 2 + 1.

        Raises:
            ValueError: if the waveform is empty.
        """
        length = waveform.shape[-1]
        if length == 0:
            raise ValueError("an empty waveform has no spectrogram: give at least one sample")
        with torch.autocast(waveform.device.type, enabled=False):
            flat = waveform.reshape(-1, length)
            flat = flat if flat.dtype == torch.float64 else flat.float()
            tail = self.num_samples(self.num_frames(length)) - length
            padded = F.pad(flat, (self.n_fft // 2, self.n_fft // 2 + tail))
            spectrogram = torch.stft(
                padded,
                self.n_fft,
                self.hop_length,
                window=self.window_for(flat),
                center=False,
                return_complex=True,
            )
        return spectrogram.reshape(*waveform.shape[:-1], *spectrogram.shape[-2:])

    def inverse(
        self, spectrogram: Complex[Tensor, "*batch F T"], *, length: int
    ) -> Float[Tensor, "*batch L"]:
        """The waveform of `length` samples whose spectrogram is nearest to the one given.

        Weighted overlap-add: each frame is windowed again and the sum divided by the summed squared
        windows, which `center=True` keeps away from zero over the samples that are returned.
        """
        with torch.autocast(spectrogram.device.type, enabled=False):
            flat = spectrogram.reshape(-1, *spectrogram.shape[-2:])
            waveform = torch.istft(
                flat,
                self.n_fft,
                self.hop_length,
                window=self.window_for(flat.real),
                center=True,
                length=self.num_samples(flat.shape[-1]),
            )
        return waveform[..., :length].reshape(*spectrogram.shape[:-2], length)

    def window_for(self, samples: Float[Tensor, "*any"]) -> Float[Tensor, " n_fft"]:
        """The window in the precision of `samples` and on their device.

        A transform that is part of a module is moved with it; one that a plain object holds, as an
        augmentation does, stays on the CPU and is used with waveforms of any device.
        """
        return on_device(self.window, samples.device).to(samples.dtype)
