"""How loud a file is over time, and from where an excerpt that is loud enough can start.

When a file is indexed, the level (RMS over all channels) of every tenth of a second is kept as
one byte, in half decibels below full scale and rounded down. An excerpt contains whole blocks and
parts of two more; the whole ones alone bound its level from below, so none that starts where
`loud_starts` allows lies under the floor.

    start in block 2       s---------------------------------e
    blocks          0    1    2    3    4    5    6    7    8
    counted                        ====================
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8

BLOCKS_PER_SECOND = 10
SILENT_LEVEL = 255
"""Stands for -127.5 dBFS and everything below."""
MIN_WHOLE_BLOCKS = 3
"""Shorter excerpts hold too few whole blocks: they are judged by the blocks they touch."""


def block_samples(sample_rate: int) -> int:
    """Samples of one block of a file at this rate."""
    return max(1, round(sample_rate / BLOCKS_PER_SECOND))


def levels(samples: Float32[np.ndarray, "C L"], sample_rate: int) -> UInt8[np.ndarray, " K"]:
    """The level of each block, the last one of what is left; `decibels` reads them."""
    size = block_samples(sample_rate)
    power = np.square(samples, dtype=np.float64).mean(axis=0)
    starts = np.arange(0, len(power), size)
    means = np.add.reduceat(power, starts) / np.diff(np.append(starts, len(power)))
    with np.errstate(divide="ignore"):
        steps = np.ceil(-20 * np.log10(means))
    return np.clip(steps, 0, SILENT_LEVEL).astype(np.uint8)


def decibels(level: int) -> float:
    """RMS in dB below full scale that a stored level stands for, at least."""
    return -level / 2


def loud_starts(
    level: UInt8[np.ndarray, " K"],
    *,
    block: float,
    length: int,
    num_samples: int,
    min_db: float,
) -> Int64[np.ndarray, "R 2"]:
    """First and one behind the last sample of every stretch where loud enough excerpts start.

    Args:
        level: of the file's blocks.
        block: samples of a block, at the rate of the excerpts.
        length: samples of the file at that rate.
        num_samples: of an excerpt.
        min_db: its lowest RMS, in dB relative to full scale.

    Returns:
        No row where there is none. A file that is not longer than the excerpt has one start, 0: the
        excerpt is the file and silence around it.
    """
    power = np.where(level == SILENT_LEVEL, 0.0, 10.0 ** (-level.astype(np.float64) / 20))
    power[-1] *= np.clip(length / block - (len(level) - 1), 0, 1)  # a part of a block
    energy = np.concatenate(([0.0], np.cumsum(power)))
    wanted = 10 ** (min_db / 10) * num_samples / block
    last = length - num_samples
    if last <= 0:
        return np.array([[0, 1]] if energy[-1] >= wanted else [], np.int64).reshape(-1, 2)
    start = np.arange(int(np.ceil((last + 1) / block)))
    num_blocks = int(num_samples // block)
    if num_blocks >= MIN_WHOLE_BLOCKS:
        held = _between(energy, start + 1, start + num_blocks)
    else:
        touched = num_blocks + 1
        held = _between(energy, start, start + touched) * (num_samples / block / touched)
    edges = np.diff(np.concatenate(([0], (held >= wanted).astype(np.int8), [0])))
    runs = np.stack((np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)), axis=1)
    runs = np.minimum(np.ceil(runs * block).astype(np.int64), last + 1)
    return runs[runs[:, 0] < runs[:, 1]]


@dataclass(frozen=True)
class LoudnessFloor:
    """The levels of all files of a library, and how loud an excerpt of them has to be."""

    min_db: float
    levels: tuple[bytes, ...]
    """Of each file, as `levels` gives them; empty for a file of which nothing is known."""
    blocks: tuple[float, ...]
    """Samples of a block of each file, at the rate of the excerpts."""

    def starts(self, file: int, *, length: int, num_samples: int) -> Int64[np.ndarray, "R 2"]:
        """Where excerpts of one file can start; anywhere if its levels are not known."""
        if not self.levels[file]:
            return np.array([[0, max(1, length - num_samples + 1)]], np.int64)
        return loud_starts(
            np.frombuffer(self.levels[file], np.uint8),
            block=self.blocks[file],
            length=length,
            num_samples=num_samples,
            min_db=self.min_db,
        )


def loudest(level: bytes) -> float:
    """RMS of the loudest block, in dB relative to full scale."""
    return decibels(min(level, default=SILENT_LEVEL))


def _between(energy: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    end = len(energy) - 1
    return energy[np.minimum(stop, end)] - energy[np.minimum(first, end)]
