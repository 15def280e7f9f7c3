"""Short clips become files of about ten minutes."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from frametx.data.corpora.voices import draw_gaps, join_with_gaps
from frametx.data.corpora.writing import write_whole

FILE_SECONDS = 600.0
CleanClip = Callable[[Path], Float32[np.ndarray, " L"] | None]


def join_clips(
    paths: Sequence[Path],
    clean_clip: CleanClip,
    *,
    name: str,
    folder: Path,
    sample_rate: int,
    gap_seconds: tuple[float, float],
) -> Iterator[Path | None]:
    """Write `folder`/`name`_01.flac and so on; yields after every clip, a path when one is whole.

    Clips come in an order, and gaps in lengths, that depend on the name alone. A second run
    therefore makes the same files, and writes only those that are missing.

    Args:
        paths: the clips, sorted.
        clean_clip: reads one; None where it is of no use.
        name: of the files.
        folder: where they are written.
        sample_rate: of the cleaned clips, in Hz.
        gap_seconds: shortest and longest silence after a clip.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    # Shuffled, or else all of one scene or one subject would share a file.
    paths = [paths[number] for number in rng.permutation(len(paths))]
    shortest, longest = gap_seconds
    gaps = draw_gaps(
        len(paths), sample_rate, rng, shortest_seconds=shortest, longest_seconds=longest
    )
    parts: list[Float32[np.ndarray, " _"]] = []
    number = 0
    for path, gap in zip(paths, gaps, strict=True):
        clip = clean_clip(path)
        if clip is not None:
            parts.append(join_with_gaps([clip], [gap]))
        is_last = path == paths[-1]
        long_enough = sum(map(len, parts)) >= FILE_SECONDS * sample_rate
        if parts and (long_enough or is_last):
            number += 1
            whole = folder / f"{name}_{number:02d}.flac"
            if not whole.exists():
                write_whole(whole, np.concatenate(parts), sample_rate)
            parts = []
            yield whole
        else:
            yield None
