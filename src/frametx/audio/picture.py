"""Spectrograms as a picture: what a separator was given, what it made of it, what was right.

mixture    estimate of vocals          vocals
mixture    estimate of instrumental    instrumental
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from frametx.audio.stft import Stft

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_FFT, HOP_LENGTH = 2048, 1024  # samples
MOST_COLUMNS = 1000  # more frames than this are not to be seen in a panel
FLOOR_DB = -80.0


def save_picture(
    path: Path,
    *,
    estimates: Float[Tensor, "S C L"],
    stems: Float[Tensor, "S C L"],
    stem_names: Sequence[str],
    sample_rate: int,
    title: str,
) -> None:
    """Write `spectrogram_figure` as a PNG."""
    figure = spectrogram_figure(
        estimates=estimates,
        stems=stems,
        stem_names=stem_names,
        sample_rate=sample_rate,
        title=title,
    )
    figure.savefig(path, dpi=100)


def spectrogram_figure(
    *,
    estimates: Float[Tensor, "S C L"],
    stems: Float[Tensor, "S C L"],
    stem_names: Sequence[str],
    sample_rate: int,
    title: str,
) -> "Figure":
    """A row for each stem: mixture, estimate, truth; time in s, log frequency in Hz, level in dB.

    All panels share one colour scale, 0 dB being the loudest bin of the mixture. The figure is
    bound to the Agg canvas, so no display is needed and a notebook's backend is left alone.

    Args:
        estimates: separated stems.
        stems: the truth; their sum is the mixture.
        stem_names: S names.
        sample_rate: Hz.
        title: above the picture.
    """
    # Imported here: together they take seconds, and only pictures need them.
    import librosa.display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    mixture = power(stems.sum(dim=0))
    loudest = mixture.amax().clamp_min(torch.finfo(mixture.dtype).tiny)
    figure = Figure(figsize=(15, 3.2 * len(stem_names) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(stem_names), 3, squeeze=False, sharex=True, sharey=True)
    levels = ScalarMappable(norm=Normalize(vmin=FLOOR_DB, vmax=0), cmap="magma")
    for row, stem in enumerate(stem_names):
        panels = {
            "mixture": mixture,
            f"estimate of {stem}": power(estimates[row]),
            f"{stem} (truth)": power(stems[row]),
        }
        for axis, (heading, panel) in zip(axes[row], panels.items(), strict=True):
            librosa.display.specshow(
                in_columns(10 * torch.log10(panel / loudest).clamp_min(FLOOR_DB)).numpy(),
                sr=sample_rate,
                n_fft=N_FFT,
                hop_length=HOP_LENGTH * frames_per_column(panel.shape[-1]),
                x_axis="s",
                y_axis="log",
                norm=levels.norm,
                cmap=levels.cmap,
                ax=axis,
            )
            axis.set_title(heading, parse_math=False)
            axis.set_xlabel("time / s")
            axis.set_ylabel("frequency / Hz")
            axis.label_outer()
    figure.colorbar(levels, ax=axes, label="level / dB re the loudest bin of the mixture")
    figure.suptitle(title, parse_math=False)  # a title may hold dollars
    return figure


def power(waveform: Float[Tensor, "C L"]) -> Float[Tensor, "F T"]:
    """The squared magnitude of each bin, averaged over the channels."""
    stft = Stft(n_fft=N_FFT, hop_length=HOP_LENGTH)
    return stft(waveform.cpu().float()).abs().square().mean(dim=0)


def frames_per_column(num_frames: int) -> int:
    """How many frames share one column of a panel."""
    return -(-num_frames // MOST_COLUMNS)


def in_columns(level: Float[Tensor, "F T"]) -> Float[Tensor, "F columns"]:
    """The loudest of the frames that share a column, so that no note falls between two."""
    size = frames_per_column(level.shape[-1])
    padded = F.pad(level, (0, -level.shape[-1] % size), value=FLOOR_DB)
    return rearrange(padded, "f (columns size) -> f columns size", size=size).amax(dim=-1)
