"""A song's spectrogram and those of its stems below one another, gathered while it streams by.

Of each only as many columns are kept as a picture shows, so an hour takes no more memory than a
minute.
"""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from frametx.audio.picture import (
    FLOOR_DB,
    HOP_LENGTH,
    MOST_COLUMNS,
    N_FFT,
    frames_per_column,
)
from frametx.audio.stft import Stft
from frametx.audio.stft_stream import StftStream

LOWEST_HZ = 40.0
NUM_ROWS = 240
TICKS_KHZ = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40)


class Spectrogram:
    """What a picture shows of one signal: the loudest frame of each column.

    Args:
        sample_rate: Hz.
        num_samples: about how many will come; it decides how many frames share a column.
    """

    def __init__(self, *, sample_rate: int, num_samples: int) -> None:
        self.sample_rate = sample_rate
        self._frames_per_column = frames_per_column(num_samples // HOP_LENGTH + 1)
        self._stream = StftStream(Stft(n_fft=N_FFT, hop_length=HOP_LENGTH))
        # One buffer from the beginning: small pieces among the blocks' own would split the memory.
        self._columns = torch.zeros(N_FFT // 2 + 1, MOST_COLUMNS)
        self._num_columns = 0
        self._pending = torch.zeros(N_FFT // 2 + 1, 0)
        self._num_samples = 0

    def push(self, block: Float[Tensor, "C L"]) -> None:
        """Take in the next samples."""
        self._num_samples += block.shape[-1]
        self._gather(self._stream.push(block))

    def finish(self) -> Float[Tensor, "F columns"]:
        """The power of each bin, averaged over the channels."""
        self._gather(self._stream.finish())
        if self._pending.shape[1]:
            self._keep(self._pending.amax(dim=1, keepdim=True))
        return self._columns[:, : self._num_columns]

    @property
    def seconds(self) -> float:
        """How much came in."""
        return self._num_samples / self.sample_rate

    @property
    def column_seconds(self) -> float:
        """From the middle of one column to that of the next."""
        return self._frames_per_column * HOP_LENGTH / self.sample_rate

    def _gather(self, frames: Tensor) -> None:
        power = frames.abs().square().mean(dim=0)
        self._pending = torch.cat([self._pending, power], dim=1)
        size = self._frames_per_column
        num_whole = self._pending.shape[1] // size * size
        if num_whole:
            whole = rearrange(self._pending[:, :num_whole], "f (t size) -> f t size", size=size)
            self._keep(whole.amax(dim=-1))
            self._pending = self._pending[:, num_whole:].clone()

    def _keep(self, columns: Tensor) -> None:
        end = self._num_columns + columns.shape[1]
        if end > self._columns.shape[1]:  # the song is longer than it said
            self._columns = F.pad(self._columns, (0, end))
        self._columns[:, self._num_columns : end] = columns
        self._num_columns = end


def save_spectrograms(path: Path, spectrograms: Mapping[str, Spectrogram]) -> None:
    """Write a PNG with a panel for each signal: time in s, frequency in kHz, level in dB.

    All panels share one colour scale, whose 0 dB is the loudest bin of the first signal. Frequency
    is logarithmic, as hearing is.

    Args:
        path: of the PNG.
        spectrograms: by the name above each panel; all of one song.
    """
    # Imported here: it takes a second, and only pictures need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    powers = {name: spectrogram.finish() for name, spectrogram in spectrograms.items()}
    first = next(iter(spectrograms.values()))
    smallest = torch.finfo(torch.float32).tiny  # silence has no loudest bin
    loudest = next(iter(powers.values())).amax().clamp_min(smallest)
    nyquist_hz = first.sample_rate / 2
    figure = Figure(figsize=(10, 0.5 + 2.0 * len(powers)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(powers), 1, squeeze=False, sharex=True)[:, 0]
    image = None
    for axis, (name, power) in zip(axes, powers.items(), strict=True):
        level = (10 * torch.log10(power.clamp_min(smallest) / loudest)).clamp(FLOOR_DB, 0)
        half = first.column_seconds / 2
        image = axis.imshow(
            in_rows(level.numpy(), first.sample_rate),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(
                -half,
                power.shape[1] * first.column_seconds - half,
                math.log10(LOWEST_HZ / 1000),
                math.log10(nyquist_hz / 1000),
            ),
            vmin=FLOOR_DB,
            vmax=0,
            cmap="magma",
        )
        ticks = [khz for khz in TICKS_KHZ if 1000 * khz <= nyquist_hz]
        axis.set_yticks([math.log10(khz) for khz in ticks], [f"{khz:g}" for khz in ticks])
        axis.set_xlim(0, first.seconds)
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_ylabel("frequency / kHz")
    axes[-1].set_xlabel("time / s")
    assert image is not None
    figure.colorbar(
        image, ax=list(axes), label="level / dB re the loudest of the mixture", pad=0.01
    )
    figure.savefig(path, dpi=110)


def in_rows(
    level: Float[np.ndarray, "F columns"], sample_rate: int
) -> Float[np.ndarray, "rows columns"]:
    """Bins in rows of equal ratio from LOWEST_HZ to half the sample rate, the loudest of each."""
    edges_hz = np.geomspace(LOWEST_HZ, sample_rate / 2, NUM_ROWS + 1)
    edges = np.rint(edges_hz / sample_rate * N_FFT).astype(int)  # below 1 kHz rows share a bin
    return np.stack(
        [level[low : max(low + 1, high)].max(axis=0) for low, high in itertools.pairwise(edges)]
    )
