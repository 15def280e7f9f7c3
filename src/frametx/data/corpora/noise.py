"""Noises of a package become files of about ten minutes: one recording after the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from jaxtyping import Float32

from frametx.data.corpora.catalogue import Noise
from frametx.data.corpora.joining import join_clips
from frametx.data.corpora.packages import PackageError
from frametx.data.corpora.voices import fold_to_mono, is_clipped, normalise_level, trim_silence

SAMPLE_RATE = 44_100
LEVEL_DBFS = -20.0
LONGEST_CLIP_SECONDS = 60.0
"""A night of two minutes would else be drawn more often than all hammers together."""
SHORTEST_CLIP_SECONDS = 0.02
FADE_SECONDS = 0.01
GAP_SECONDS = (0.0, 0.3)


def build_noise(noise: Noise, folder: Path, output: Path) -> Iterator[Path | None]:
    """Write the files of a package, as `join_clips` does.

    Raises:
        PackageError: if the package lacks a clip.
    """
    yield from join_clips(
        recordings(folder, noise.clips),
        lambda path: read_noise(path, SAMPLE_RATE),
        name=noise.package,
        folder=output / noise.split / "noise",
        sample_rate=SAMPLE_RATE,
        gap_seconds=GAP_SECONDS,
    )


def recordings(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of an unpacked package that match a pattern, sorted.

    Raises:
        PackageError: if none matches one of the patterns.
    """
    paths: set[Path] = set()
    for pattern in patterns:
        found = set(folder.rglob(pattern))
        if not found:
            raise PackageError(
                f"{folder.name}: no file is called {pattern}; the recordings were listed from "
                "the packages of Debian 12"
            )
        paths |= found
    return sorted(paths)


def read_noise(
    path: Path, sample_rate: int, *, longest_seconds: float = LONGEST_CLIP_SECONDS
) -> Float32[np.ndarray, " L"] | None:
    """The start of a recording, in mono, trimmed, levelled and faded at both ends.

    None where it was recorded too loud, or nothing of it is left. Rumble stays: it is noise.
    """
    recording, recorded_rate = sf.read(path, dtype="float32", always_2d=True)
    if is_clipped(recording.ravel()):
        return None
    clip = fold_to_mono(recording[: round(longest_seconds * recorded_rate)])
    if recorded_rate != sample_rate:
        clip = soxr.resample(clip, recorded_rate, sample_rate)
    clip = trim_silence(clip, sample_rate)
    if len(clip) < SHORTEST_CLIP_SECONDS * sample_rate:
        return None
    return faded(normalise_level(clip, sample_rate, level_dbfs=LEVEL_DBFS), sample_rate)


def faded(clip: Float32[np.ndarray, " L"], sample_rate: int) -> Float32[np.ndarray, " L"]:
    """The clip with straight fades of 10 ms at both ends: one that is cut out of a storm clicks."""
    num_samples = min(round(FADE_SECONDS * sample_rate), len(clip) // 2)
    rise = np.linspace(0, 1, num_samples, endpoint=False, dtype=np.float32)
    envelope = np.concatenate([rise, np.ones(len(clip) - 2 * num_samples, np.float32), rise[::-1]])
    return clip * envelope
