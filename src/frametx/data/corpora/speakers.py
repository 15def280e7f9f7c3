"""One person's short clips become files of about ten minutes."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from jaxtyping import Float32

from frametx.data.corpora.catalogue import Speaker
from frametx.data.corpora.prompts import SAMPLE_RATE, read_prompt, spoken_prompts
from frametx.data.corpora.voices import (
    draw_gaps,
    fold_to_mono,
    is_clipped,
    join_with_gaps,
    normalise_level,
    remove_rumble,
    trim_silence,
)
from frametx.data.corpora.writing import write_whole

FILE_SECONDS = 600.0
LEVEL_DBFS = -20.0
SHORTEST_CLIP_SECONDS = 0.25


def build_speaker(speaker: Speaker, folder: Path, output: Path) -> Iterator[Path | None]:
    """Write a speaker's files; yields after every clip, with a path when a file has become whole.

    Clips come in an order, and gaps in lengths, that depend on the speaker's name alone. A second
    run therefore makes the same files, and writes only those that are missing.
    """
    rng = np.random.default_rng(zlib.crc32(speaker.name.encode()))
    paths = clip_paths(speaker, folder)
    # Shuffled, or else all of one scene or one subject would share a file.
    paths = [paths[number] for number in rng.permutation(len(paths))]
    gaps = draw_gaps(len(paths), speaker.sample_rate, rng)
    parts: list[Float32[np.ndarray, " _"]] = []
    number = 0
    for path, gap in zip(paths, gaps, strict=True):
        clip = clean_clip(*read_clip(path), speaker.sample_rate)
        if clip is not None:
            parts.append(join_with_gaps([clip], [gap]))
        is_last = path == paths[-1]
        long_enough = sum(map(len, parts)) >= FILE_SECONDS * speaker.sample_rate
        if parts and (long_enough or is_last):
            number += 1
            name = f"{speaker.name}_{number:02d}.flac"
            whole = output / speaker.split / "vocals" / name
            if not whole.exists():
                write_whole(whole, np.concatenate(parts), speaker.sample_rate)
            parts = []
            yield whole
        else:
            yield None


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
