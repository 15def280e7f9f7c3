from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.data.findings import Part
from frametx.data.library import Library
from frametx.data.survey_picture import (
    NO_FOLDER,
    envelope,
    hours_by_folder,
    save_hours,
    save_spectra,
    save_waveforms,
)

RATE = 8_000


@pytest.fixture
def library(tmp_path: Path) -> Library:
    ramp = np.linspace(0, 1, 3 * RATE)
    for name, sign in (("up.wav", 1), ("Ann/down.wav", -1), ("Ann/deep/down.wav", -1)):
        path = tmp_path / "songs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sign * ramp, RATE, subtype="FLOAT")
    return Library.open(tmp_path / "songs", role="any", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("columns", [1, 7, 100, 10**6])
def test_an_envelope_holds_every_peak(library: Library, columns: int) -> None:
    (up,) = [file for file in library.files if file.name == "up.wav"]
    lowest, highest = envelope(up, columns)
    assert len(lowest) == len(highest) <= columns
    assert highest.max() == pytest.approx(1)
    assert lowest[0] == 0
    assert (np.diff(highest) >= 0).all()
    assert (lowest <= highest).all()


def test_hours_are_counted_by_first_folder(library: Library) -> None:
    hours = hours_by_folder(Part("train", "any", library.files))
    assert hours == pytest.approx({"Ann": 6 / 3600, NO_FOLDER: 3 / 3600})


def test_empty_parts_have_empty_pictures(library: Library, tmp_path: Path) -> None:
    save_hours(tmp_path / "p" / "hours.png", {"train": {}, "test": {str(n): n for n in range(50)}})
    save_spectra(tmp_path / "p" / "spectra.png", {"train": []})
    save_waveforms(tmp_path / "p" / "none.png", [])
    save_waveforms(tmp_path / "p" / "some.png", [(file, "$x_1") for file in library.files] * 5)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "p").iterdir()}
    assert set(sizes) == {"hours.png", "spectra.png", "none.png", "some.png"}
    assert sizes["some.png"] > 2 * sizes["none.png"]
