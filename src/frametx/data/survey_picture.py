"""What a survey found, as pictures: hours of each folder, long-term spectra, waveforms at a glance.

Bound to the Agg canvas: no display is needed, and a notebook's backend is left alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from frametx.data.findings import Part
from frametx.data.index import AudioFile
from frametx.data.survey import BAND_HZ, Facts, blocks_of
from frametx.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_FOLDERS = 30
MOST_WAVEFORMS = 12
NUM_COLUMNS = 800
FLOOR_DB = -140.0
NO_FOLDER = "(no folder)"


def save_hours(path: Path, hours: Mapping[str, Mapping[str, float]]) -> None:
    """A bar for each folder, longest first, one panel for each part.

    Args:
        path: of the PNG.
        hours: by part, by folder.
    """
    axes = _Panels(path, len(hours), height=4.0)
    for axis, (name, folders) in zip(axes.panels, hours.items(), strict=True):
        longest = sorted(folders.items(), key=lambda folder: -folder[1])
        shown, rest = longest[:MOST_FOLDERS], longest[MOST_FOLDERS:]
        if rest:
            shown.append((f"{len(rest)} more", sum(value for _, value in rest)))
        labels = [printable(label)[:40] for label, _ in shown]
        axis.bar(np.arange(len(shown)), [value for _, value in shown])
        style = {"rotation": 60, "ha": "right", "fontsize": 7, "parse_math": False}
        axis.set_xticks(np.arange(len(shown)), labels, **style)
        title = f"{name}: {sum(folders.values()):.2f} h in {len(folders)} folder(s)"
        axis.set_title(title, parse_math=False)
        axis.set_ylabel("hours")
    axes.save()


def save_spectra(path: Path, spectra: Mapping[str, Sequence[Facts]]) -> None:
    """Long-term level over frequency: each file as a faint line, the median of a part as a strong.

    Args:
        path: of the PNG.
        spectra: by part, the facts of its files.
    """
    axes = _Panels(path, len(spectra), height=3.6)
    for axis, (name, facts) in zip(axes.panels, spectra.items(), strict=True):
        longest = max((len(one.spectrum_db) for one in facts), default=1)
        levels = np.full((len(facts), longest), np.nan, np.float32)
        for row, one in zip(levels, facts, strict=True):
            row[: len(one.spectrum_db)] = np.maximum(one.spectrum_db, FLOOR_DB)
        frequency_khz = (np.arange(longest) + 0.5) * BAND_HZ / 1000
        # A thousand faint lines are a grey area, and take minutes to draw.
        axis.plot(frequency_khz, levels[: 5 * MOST_FOLDERS].T, color="0.6", lw=0.4, alpha=0.5)
        if len(facts):
            median = np.nanmedian(levels, axis=0)
            axis.plot(frequency_khz, median, color="tab:red", lw=1.5, label="median")
            axis.legend(loc="upper right")
        axis.set_ylim(FLOOR_DB, 0)
        axis.set_title(f"{name}: long-term spectrum of {len(facts)} file(s)", parse_math=False)
        axis.set_xlabel("frequency / kHz")
        axis.set_ylabel("level of a bin / dB re full scale")
    axes.save()


def save_waveforms(path: Path, files: Sequence[tuple[AudioFile, str]]) -> None:
    """The course of files over time, the first of them if there are more than fit.

    Args:
        path: of the PNG.
        files: each with what its panel is called.
    """
    shown = files[:MOST_WAVEFORMS]
    axes = _Panels(path, len(shown), height=1.6)
    for axis, (file, title) in zip(axes.panels, shown, strict=True):
        lowest, highest = envelope(file)
        time_s = np.linspace(0, file.seconds, len(lowest))
        axis.fill_between(time_s, lowest, highest, step="mid", linewidth=0)
        axis.set_ylim(-1.05, 1.05)
        axis.set_xlim(0, max(file.seconds, 1e-3))
        axis.set_title(printable(title)[:150], fontsize=8, loc="left", parse_math=False)
    if shown:
        axes.panels[-1].set_xlabel("time / s")
    axes.save()


def envelope(
    file: AudioFile, num_columns: int = NUM_COLUMNS
) -> tuple[Float32[np.ndarray, " columns"], Float32[np.ndarray, " columns"]]:
    """Lowest and highest sample of any channel in each of at most `num_columns` equal stretches.

    Raises:
        ValueError: if the file cannot be decoded.
    """
    size = max(1, -(-file.num_samples // num_columns))
    extremes = [
        (float(part.min()), float(part.max()))
        for block in blocks_of(file, block_samples=size * max(1, (1 << 18) // size))
        for part in block.split(size, dim=1)
    ]
    lowest, highest = np.array(extremes, np.float32).T
    return lowest, highest


def hours_by_folder(part: Part) -> dict[str, float]:
    """Hours of audio below each first folder; `NO_FOLDER` are files that lie in none."""
    hours: dict[str, float] = {}
    for file in part.files:
        folder = file.name.split("/")[0] if "/" in file.name else NO_FOLDER
        hours[folder] = hours.get(folder, 0.0) + file.seconds / 3600
    return hours


class _Panels:
    """A column of panels that is saved as one PNG."""

    def __init__(self, path: Path, count: int, *, height: float) -> None:
        # Imported here: it takes a second, and only pictures need it.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.path = path
        self.figure = Figure(figsize=(12, height * max(count, 1) + 0.4), layout="constrained")
        FigureCanvasAgg(self.figure)
        self.panels: list[Axes] = []
        if count:
            self.panels = list(self.figure.subplots(count, 1, squeeze=False)[:, 0])

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(self.path, dpi=100)
