"""Instrumental tracks out of an unpacked package."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
from jaxtyping import Float32

from frametx.data.corpora.catalogue import Music
from frametx.data.corpora.packages import PackageError
from frametx.data.corpora.voices import PEAK_LIMIT
from frametx.data.corpora.writing import copy_whole, write_whole


def build_music(music: Music, folder: Path, output: Path) -> Iterator[Path]:
    """Write the clean tracks of a package, yielding each as it is done; finished ones are kept.

    Tracks are copied as they are, still compressed. Folders of stems become one record each.

    Raises:
        PackageError: if the package lacks a track.
    """
    for track in music.tracks:
        path = output / music.split / "instrumental" / music.package / track
        if path.suffix:
            if not path.exists():
                copy_whole(_only(folder, track), path)
        else:
            path = path.with_name(f"{track}.flac")
            if not path.exists():
                write_whole(path, *read_record(folder, track))
        yield path


def read_record(songs: Path, title: str) -> tuple[Float32[np.ndarray, "L 2"], int]:
    """A whole song and its rate: the guitar stem plus the rest, peaking at 0.855 of full scale."""
    guitar_path = _only(songs, f"{title}/guitar.ogg")
    guitar, sample_rate = sf.read(guitar_path, dtype="float32", always_2d=True)
    rest, rest_rate = sf.read(guitar_path.with_name("song.ogg"), dtype="float32", always_2d=True)
    assert guitar.shape == rest.shape, f"{title}: {guitar.shape} and {rest.shape}"
    assert sample_rate == rest_rate, f"{title}: {sample_rate} and {rest_rate} Hz"
    record = guitar + rest
    # Vorbis may overshoot the peak it is given, hence the margin below the limit.
    return record * np.float32(0.9 * PEAK_LIMIT / np.abs(record).max()), sample_rate


def _only(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if len(found) != 1:
        raise PackageError(
            f"{folder.name}: {len(found)} files called {name}, one was expected; "
            "the tracks were listed from the packages of Debian 12"
        )
    return found[0]
