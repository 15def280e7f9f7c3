"""Audio files that exist only when they are complete."""

from pathlib import Path

import numpy as np
import soundfile as sf
from jaxtyping import Float32

# libsndfile's Vorbis encoder keeps its work on the stack: one call with minutes of audio crashes.
BLOCK_SAMPLES = 65_536


def write_whole(
    path: Path,
    samples: Float32[np.ndarray, "L *C"],
    sample_rate: int,
    *,
    compression: float | None = None,
) -> None:
    """Write under a temporary name, then rename, so that an interrupted run leaves no torso.

    Args:
        path: ends in .flac or .ogg; its folder is made.
        samples: mono, or channels last.
        sample_rate: in Hz.
        compression: 0 (largest) to 1 (smallest), None for libsndfile's own choice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with sf.SoundFile(
        partial, "w", samplerate=sample_rate, channels=channels, compression_level=compression
    ) as file:
        for start in range(0, len(samples), BLOCK_SAMPLES):
            file.write(samples[start : start + BLOCK_SAMPLES])
    partial.rename(path)
