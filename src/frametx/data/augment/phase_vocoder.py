"""Change the duration of sound and not its pitch, each row of a batch by its own rate.

Frames are read at the places where the rate puts them and laid down at even distances. For every
frame a second one is read, one synthesis hop earlier: what the phase does from that one to this one
is what it must do between two frames laid down. So nothing has to be unwrapped, and at rate 1 the
second frame is the one laid down before, all corrections are 0, and the waveform comes back.

The correction is one angle for all channels, which keeps the stereo image, and one angle for all
bins around a peak of the spectrum, which keeps the shape of each partial (phase locking).

Source: Laroche and Dolson, "Improved phase vocoder time-scale modification of audio", IEEE
Transactions on Speech and Audio Processing 1999.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.data.augment.transform import beside

PEAK_REACH = 2
"""A bin is a peak when none of so many on either side is higher: the width of a Hann window."""


def stretched(
    waveform: Float[Tensor, "B C L"],
    rates: Float[Tensor, " B"],
    *,
    num_samples: int,
    stft: Stft,
) -> Float[Tensor, "B C {num_samples}"]:
    """Sample n of the result sounds like the input around sample n * rate.

    Args:
        waveform: what lies behind its end is silence.
        rates: input samples for each output sample; 64-bit, on the CPU.
        num_samples: length of the result.
        stft: window, and distance of the frames laid down.
    """
    n_fft, hop = stft.n_fft, stft.hop_length
    steps = torch.arange(stft.num_frames(num_samples), dtype=torch.float64) * hop
    places = (steps[None] * rates.double()[:, None]).round().long()
    end = int(places.max()) + n_fft // 2
    padded = F.pad(waveform, (n_fft // 2 + hop, max(0, end - waveform.shape[-1])))
    window = stft.window_for(waveform)
    rows = torch.arange(len(waveform), device=waveform.device)[:, None]
    starts = beside(places, waveform)
    windows = padded.unfold(-1, n_fft, 1)  # B C places n_fft, a view

    now = torch.fft.rfft(windows[rows, :, starts + hop] * window)  # B T C F
    before = torch.fft.rfft(windows[rows, :, starts[:, 1:]] * window)
    drift = (now[:, :-1] * before.conj()).sum(dim=2).angle()
    correction = F.pad(drift, (0, 0, 1, 0)).cumsum(dim=1)
    locked = correction.gather(-1, _nearest_peak(now.abs().sum(dim=2)))[:, :, None]
    laid_down = now * torch.polar(torch.ones_like(locked), locked)
    return stft.inverse(laid_down.permute(0, 2, 3, 1), length=num_samples)


def _nearest_peak(magnitude: Float[Tensor, "B T F"]) -> Int[Tensor, "B T F"]:
    """For every bin, the bin of the nearest peak in its frame."""
    highest = F.max_pool1d(magnitude, 2 * PEAK_REACH + 1, stride=1, padding=PEAK_REACH)
    is_peak = magnitude >= highest
    num_bins = magnitude.shape[-1]
    bins = torch.arange(num_bins, dtype=torch.int32, device=magnitude.device)
    below = torch.where(is_peak, bins, -2 * num_bins).cummax(dim=-1).values
    above = torch.where(is_peak, bins, 3 * num_bins).flip(-1).cummin(dim=-1).values.flip(-1)
    return torch.where(bins - below <= above - bins, below, above).long()
