"""Files that exist only when they are complete: written under a hidden name, then renamed."""

import shutil
from pathlib import Path

import numpy as np
import soundfile as sf
from jaxtyping import Float32

from frametx.audio.io import WRITE_SAMPLES


def write_whole(
    path: Path,
    samples: Float32[np.ndarray, "L *C"],
    sample_rate: int,
    *,
    compression: float | None = None,
) -> None:
    """Write samples as audio of the kind that the suffix names.

    Args:
        path: ends in .flac or .ogg; its folder is made.
        samples: mono, or channels last.
        sample_rate: in Hz.
        compression: 0 (largest) to 1 (smallest), None for libsndfile's own choice.
    """
    partial = _partial(path)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with sf.SoundFile(
        partial, "w", samplerate=sample_rate, channels=channels, compression_level=compression
    ) as file:
        for start in range(0, len(samples), WRITE_SAMPLES):
            file.write(samples[start : start + WRITE_SAMPLES])
    partial.rename(path)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file byte by byte."""
    partial = _partial(path)
    shutil.copyfile(source, partial)
    partial.rename(path)


def _partial(path: Path) -> Path:
    # Hidden: libraries pass over hidden files, so a torso is never trained on.
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.stem}.partial{path.suffix}")
