"""The STFT of a stream and its way back: what `Stft` gives for the whole, frame by frame.

Frame t of a stream is centred on sample t * hop_length as in `Stft`, whatever the blocks were; so
what is done to single frames does not depend on how a song was read.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from frametx.audio.stft import Stft


class StftStream:
    """Blocks of samples in, the frames that are complete with them out.

    Args:
        stft: window and hop.
    """

    def __init__(self, stft: Stft) -> None:
        self.stft = stft
        self._held: Tensor | None = None  # from the first sample of the next frame on
        self._num_pushed = 0
        self._num_given = 0

    def push(self, block: Float[Tensor, "*c _"]) -> Complex[Tensor, "*c F T"]:
        """The next frames, perhaps none."""
        if self._held is None:
            self._held = block.new_zeros(*block.shape[:-1], self.stft.n_fft // 2)
        self._num_pushed += block.shape[-1]
        self._held = torch.cat([self._held, block], dim=-1)
        return self._frames(max(0, (self._held.shape[-1] - self.stft.n_fft) // self._hop + 1))

    def finish(self) -> Complex[Tensor, "*c F T"]:
        """The frames that zeros after the last sample complete."""
        assert self._held is not None, "nothing was pushed"
        owed = self.stft.num_frames(self._num_pushed) - self._num_given
        wanted = self.stft.n_fft + (owed - 1) * self._hop
        self._held = F.pad(self._held, (0, max(0, wanted - self._held.shape[-1])))
        return self._frames(owed)

    @property
    def _hop(self) -> int:
        return self.stft.hop_length

    def _frames(self, num_frames: int) -> Tensor:
        assert self._held is not None
        leading = self._held.shape[:-1]
        if not num_frames:
            num_bins = self.stft.n_fft // 2 + 1
            return torch.empty(*leading, num_bins, 0, dtype=torch.complex64)
        used = self._held[..., : self.stft.n_fft + (num_frames - 1) * self._hop]
        spectrogram = torch.stft(
            used.reshape(-1, used.shape[-1]),
            self.stft.n_fft,
            self._hop,
            window=self.stft.window_for(used),
            center=False,
            return_complex=True,
        )
        self._held = self._held[..., num_frames * self._hop :]
        self._num_given += num_frames
        return spectrogram.reshape(*leading, *spectrogram.shape[-2:])


class InverseStftStream:
    """Frames in, the samples that no later frame touches out.

    Args:
        stft: window and hop of the frames.
    """

    def __init__(self, stft: Stft) -> None:
        self.stft = stft
        self._sums: Tensor | None = None  # windowed frames added up, from the next sample on
        self._weights = torch.zeros(0)  # squared windows added up
        self._num_cut = stft.n_fft // 2  # zeros that were put before the first sample

    def push(self, frames: Complex[Tensor, "*c F T"]) -> Float[Tensor, "*c L"]:
        """The next samples, perhaps none."""
        leading, num_frames = frames.shape[:-2], frames.shape[-1]
        hop, n_fft, window = self.stft.hop_length, self.stft.n_fft, self.stft.window
        if self._sums is None:
            self._sums = torch.zeros(*leading, 0)
        if not num_frames:
            return self._sums[..., :0]
        waves = torch.fft.irfft(frames.transpose(-1, -2), n=n_fft) * window
        length = n_fft + (num_frames - 1) * hop
        added = _overlap_added(waves.reshape(-1, num_frames, n_fft), hop).reshape(*leading, length)
        weights = _overlap_added(window.square().expand(1, num_frames, n_fft), hop)[0]
        earlier = self._sums.shape[-1]
        added[..., :earlier] += self._sums
        weights[:earlier] += self._weights
        settled = num_frames * hop
        self._sums, self._weights = added[..., settled:], weights[settled:]
        return self._cut(added[..., :settled], weights[:settled])

    def finish(self) -> Float[Tensor, "*c L"]:
        """The samples up to the middle of the last frame."""
        assert self._sums is not None, "nothing was pushed"
        # The last frame is centred on the end: half a window before it is still owed.
        owed = max(0, self.stft.n_fft // 2 - self.stft.hop_length)
        return self._cut(self._sums[..., :owed], self._weights[:owed])

    def _cut(self, sums: Tensor, weights: Tensor) -> Tensor:
        """Divide by the weights, which are only near zero in what is cut off at the start."""
        num_cut = min(self._num_cut, sums.shape[-1])
        self._num_cut -= num_cut
        return sums[..., num_cut:] / weights[num_cut:]


def _overlap_added(waves: Float[Tensor, "N T W"], hop: int) -> Float[Tensor, "N L"]:
    length = waves.shape[2] + (waves.shape[1] - 1) * hop
    return F.fold(
        waves.transpose(1, 2), output_size=(1, length), kernel_size=(1, waves.shape[2]), stride=hop
    )[:, 0, 0]
