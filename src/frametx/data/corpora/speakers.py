"""One person's short clips become files of about ten minutes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from jaxtyping import Float32

from frametx.data.corpora.catalogue import Speaker
from frametx.data.corpora.joining import join_clips
from frametx.data.corpora.prompts import SAMPLE_RATE, read_prompt, spoken_prompts
from frametx.data.corpora.voices import (
    fold_to_mono,
    is_clipped,
    normalise_level,
    remove_rumble,
    trim_silence,
)

LEVEL_DBFS = -20.0
SHORTEST_CLIP_SECONDS = 0.25
GAP_SECONDS = (0.1, 0.6)


def build_speaker(speaker: Speaker, folder: Path, output: Path) -> Iterator[Path | None]:
    """Write a speaker's files, as `join_clips` does."""
    yield from join_clips(
        clip_paths(speaker, folder),
        lambda path: clean_clip(*read_clip(path), speaker.sample_rate),
        name=speaker.name,
        folder=output / speaker.split / "vocals",
        sample_rate=speaker.sample_rate,
        gap_seconds=GAP_SECONDS,
    )


def clip_paths(speaker: Speaker, folder: Path) -> list[Path]:
    """The speaker's clips in an unpacked package, sorted."""
    if speaker.pattern == "*.g722":
        return spoken_prompts(folder, with_single_words=True)
    return sorted(folder.rglob(speaker.pattern))


def read_clip(path: Path) -> tuple[Float32[np.ndarray, " L"], int]:
    """One clip, folded to mono, and its sample rate."""
    if path.suffix == ".g722":
        return read_prompt(path), SAMPLE_RATE
    clip, sample_rate = sf.read(path, dtype="float32", always_2d=True)
    return fold_to_mono(clip), sample_rate


def clean_clip(
    clip: Float32[np.ndarray, " L"], clip_rate: int, sample_rate: int
) -> Float32[np.ndarray, " kept"] | None:
    """The clip without rumble and silent ends, at the speaker's rate and an even level.

    None where it was recorded too loud, or too little of it is left.
    """
    if is_clipped(clip):
        return None
    if clip_rate != sample_rate:
        clip = soxr.resample(clip, clip_rate, sample_rate)
    clip = trim_silence(remove_rumble(clip, sample_rate), sample_rate)
    if len(clip) < SHORTEST_CLIP_SECONDS * sample_rate:
        return None
    return normalise_level(clip, sample_rate, level_dbfs=LEVEL_DBFS)
