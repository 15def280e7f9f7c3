"""Spectrogram pictures: what is shown, and that it depends on what was heard."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import Tensor

from frametx.audio.picture import (
    FLOOR_DB,
    HOP_LENGTH,
    MOST_COLUMNS,
    in_columns,
    power,
    save_picture,
    spectrogram_figure,
)

RATE = 16_000  # Hz


def tone(frequency_hz: float, seconds: float) -> Tensor:
    """C L, 2 channels."""
    time_s = torch.arange(round(seconds * RATE)) / RATE
    return 0.5 * torch.sin(2 * torch.pi * frequency_hz * time_s).expand(2, -1)


def saved(path: Path, estimates: Tensor, stems: Tensor) -> np.ndarray:
    names = ("vocals", "instrumental")
    save_picture(
        path, estimates=estimates, stems=stems, stem_names=names, sample_rate=RATE, title="a song"
    )
    return matplotlib.image.imread(path)[..., :3]


def test_the_picture_changes_with_the_estimate_and_only_in_its_column(tmp_path: Path) -> None:
    stems = torch.stack([tone(440, 2), tone(3000, 2)])
    right = saved(tmp_path / "right.png", stems, stems)
    swapped = saved(tmp_path / "swapped.png", stems.flip(0), stems)
    assert (tmp_path / "right.png").stat().st_size > 10_000
    assert right.std() > 0.05
    differs = (right != swapped).any(axis=(0, 2)).nonzero()[0] / right.shape[1]
    assert differs.size
    assert differs.min() > 0.3
    assert differs.max() < 0.7


def test_the_axes_are_labelled_in_seconds_and_hertz_and_as_long_as_the_song() -> None:
    stems = torch.stack([tone(440, 3), tone(3000, 3)])
    figure = spectrogram_figure(
        estimates=stems,
        stems=stems,
        stem_names=("vocals", "instrumental"),
        sample_rate=RATE,
        title="a song",
    )
    panels = figure.axes[:6]
    titles = [panel.get_title() for panel in panels[:3]]
    assert titles == ["mixture", "estimate of vocals", "vocals (truth)"]
    assert panels[3].get_xlabel() == "time / s"
    assert panels[3].get_ylabel() == "frequency / Hz"
    assert panels[0].get_yscale() == "symlog"
    assert panels[3].get_xlim()[1] == pytest.approx(3, abs=0.2)
    assert panels[3].get_ylim()[1] == pytest.approx(RATE / 2, rel=0.01)


def test_a_tone_shows_in_its_own_bin() -> None:
    loudest = power(tone(1000, 1))[:, 8].argmax().item()
    assert loudest == 1000 * 2048 // RATE


def test_a_long_song_keeps_its_loud_moments_in_few_columns() -> None:
    level = torch.full((3, 2 * MOST_COLUMNS + 1), FLOOR_DB)
    level[1, 1501] = 0.0
    columns = in_columns(level)
    assert columns.shape == (3, -(-level.shape[-1] // 3))
    assert columns[1, 500] == 0
    assert (columns == FLOOR_DB).sum() == columns.numel() - 1


@pytest.mark.parametrize("num_samples", [1, HOP_LENGTH])
def test_silence_and_a_very_short_song_are_drawn(tmp_path: Path, num_samples: int) -> None:
    silence = torch.zeros(2, 1, num_samples)
    assert saved(tmp_path / "silence.png", silence, silence).size
