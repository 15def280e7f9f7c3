"""The STFT as two convolutions of real numbers, for programs that know neither FFT nor complex.

A frame's spectrum is a product of its samples with cosines and sines under the window; made for
every hop, that is a strided convolution, and the way back is its transpose:

    waveform  --conv1d, stride hop-->  [real; imaginary]  --conv_transpose1d-->  sum of frames

The same kernel serves both directions. It has `2 F n_fft` numbers, 17 MB at `n_fft` 2048, and costs
far more products than an FFT; a host with an FFT of its own does better without it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.stft import Stft


class RealStft(nn.Module):
    """What `Stft` computes, with real and imaginary parts as tensors of their own.

    Args:
        stft: whose window, hop, padding and lengths are taken over.
    """

    kernel: Tensor
    squared_window: Tensor
    gain: Tensor

    def __init__(self, *, stft: Stft) -> None:
        super().__init__()
        self.n_fft = stft.n_fft
        self.hop_length = stft.hop_length
        self.num_bins = stft.n_fft // 2 + 1
        window = torch.hann_window(stft.n_fft, dtype=torch.float64)
        # the product of bin and sample is reduced as an integer: angles keep all their digits
        steps = torch.arange(self.num_bins)[:, None] * torch.arange(stft.n_fft) % stft.n_fft
        angles = 2 * torch.pi / stft.n_fft * steps.double()
        kernel = torch.cat([angles.cos(), -angles.sin()]) * window
        # every bin but the first and the last stands for its mirror image too
        gain = torch.full((self.num_bins,), 2.0 / stft.n_fft)
        gain[0] = gain[-1] = 1.0 / stft.n_fft
        # not persistent: they follow from n_fft
        self.register_buffer("kernel", kernel.float().unsqueeze(1), persistent=False)
        self.register_buffer("gain", gain.repeat(2).unsqueeze(-1), persistent=False)
        self.register_buffer(
            "squared_window", window.square().float()[None, None], persistent=False
        )

    def forward(
        self, waveform: Float[Tensor, "B C L"]
    ) -> tuple[Float[Tensor, "B C F T"], Float[Tensor, "B C F T"]]:
        """Real and imaginary part of the spectrogram; zeros around the waveform as in `Stft`."""
        batch, channels, length = waveform.shape
        tail = -length % self.hop_length
        padded = F.pad(
            waveform.reshape(batch * channels, 1, length), (self.n_fft // 2, self.n_fft // 2 + tail)
        )
        parts = F.conv1d(padded, self.kernel, stride=self.hop_length)
        real, imaginary = parts.unflatten(0, (batch, channels)).split(self.num_bins, dim=2)
        return real, imaginary

    def inverse(
        self,
        real: Float[Tensor, "*batch F T"],
        imaginary: Float[Tensor, "*batch F T"],
        *,
        length: int,
    ) -> Float[Tensor, "*batch L"]:
        """The waveform of `length` samples whose spectrogram is nearest to the one given."""
        parts = torch.cat([real, imaginary], -2).flatten(0, -3) * self.gain
        frames_sum = F.conv_transpose1d(parts, self.kernel, stride=self.hop_length)
        ones = torch.ones_like(parts[:1, :1])
        weight = F.conv_transpose1d(ones, self.squared_window, stride=self.hop_length)
        inner = slice(self.n_fft // 2, self.n_fft // 2 + length)
        return (frames_sum[:, 0, inner] / weight[:, 0, inner]).unflatten(0, real.shape[:-2])
