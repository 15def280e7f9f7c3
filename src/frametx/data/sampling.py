"""What sample n of seed s is: a pure function, the same for any number of ranks and workers.

Nothing here keeps a state. Every number comes from a counter-based generator, Philox4x32-10, whose
key is (seed, stream name) and whose counter is the sample number: a sample does not know, and need
not know, which process draws it, in which order, or in which batch.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from frametx.data.loudness import LoudnessFloor

WORD = 0xFFFFFFFF  # 32 bits
MAX_TABLES = 8
"""Lengths of excerpts for which a sampler keeps tables: the stages of a curriculum are fewer."""

IntOrTensor = TypeVar("IntOrTensor", int, Tensor)


def philox(
    counter: tuple[IntOrTensor, IntOrTensor, IntOrTensor, IntOrTensor], key: tuple[int, int]
) -> tuple[IntOrTensor, IntOrTensor, IntOrTensor, IntOrTensor]:
    """Four random 32-bit words for a counter of four 32-bit words.

    Takes Python integers (6 µs a call, for the crops) and int64 tensors (on any device, without
    waiting for it, for the augmentations), with the same result: the products need 64 bits, and
    int64 keeps all of them although it reads the highest as a sign, so only the shift needs a mask.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product2 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            ((product2 >> 32) & WORD) ^ c1 ^ k0,
            product2 & WORD,
            ((product0 >> 32) & WORD) ^ c3 ^ k1,
            product0 & WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


@lru_cache(maxsize=256)
def stream_key(seed: int, stream: str) -> tuple[int, int]:
    """Philox key of one named stream of one seed: streams share no numbers."""
    digest = hashlib.blake2b(f"{seed}:{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def uniform_pair(seed: int, sample: int, stream: str) -> tuple[float, float]:
    """Two numbers in [0, 1) with 53 random bits each."""
    w0, w1, w2, w3 = philox((sample & WORD, sample >> 32, 0, 0), stream_key(seed, stream))
    return ((w0 >> 5) * 2**26 + (w1 >> 6)) / 2**53, ((w2 >> 5) * 2**26 + (w3 >> 6)) / 2**53


def uniforms(
    seed: int, samples: Int[Tensor, " B"], stream: str, count: int
) -> Float[Tensor, "B count"]:
    """`count` numbers in [0, 1) for each sample, on the device where `samples` lies.

    They have 24 random bits, what a float32 holds, and are equal on every device to the last bit.
    """
    num_blocks = -(-count // 4)
    low, high = (samples & WORD)[:, None], (samples >> 32)[:, None]
    block = torch.arange(num_blocks, device=samples.device)[None]
    low, high, block = torch.broadcast_tensors(low, high, block)
    words = philox((low, high, block, torch.zeros_like(block)), stream_key(seed, stream))
    bits = torch.stack(words, dim=-1).flatten(start_dim=1)[:, :count]
    return (bits >> 8).to(torch.float32) * 2**-24


@dataclass(frozen=True)
class Crop:
    """Where an excerpt starts: sample `start` of file number `file`, at the rate of training.

    A negative start says that the file is shorter than the excerpt: the excerpt opens with that
    much silence, and ends with what is missing at the end.
    """

    file: int
    start: int


@dataclass(frozen=True)
class SegmentPool:
    """Lets many samples share the excerpts of a sliding window: less to decode, fewer new sounds.

    Segment number m is what sample number m would hear without a pool. Of the segments, the window
    holds `segments` in a row; every `uses` samples the oldest leaves and a new one enters, and each
    sample hears one of the window by chance. So a segment is heard `uses` times on average.
    """

    segments: int
    """How many segments are in the window; a process that decodes keeps as many in memory."""
    uses: int

    def __post_init__(self) -> None:
        """Refuse an empty window.

        Raises:
            ValueError: if there is no segment in it, or no sample hears one.
        """
        if self.segments < 1 or self.uses < 1:
            raise ValueError(
                f"pool: segments ({self.segments}) and uses ({self.uses}) must be at least 1; "
                "pool: null decodes an excerpt of its own for every sample"
            )

    def segment(self, seed: int, sample: int, stream: str) -> int:
        """Number of the segment that sample number `sample` hears."""
        slot = int(uniform_pair(seed, sample, f"{stream}/pool")[0] * self.segments)
        return sample // self.uses + slot


@dataclass(frozen=True)
class Shares:
    """How likely each file is to be drawn, beside how much of it there is."""

    groups: tuple[int, ...] | None = None
    """Number of the group of each file; all groups are equally likely, and within one every second
    is. None: there are no groups, and every second of all files is equally likely."""
    weights: tuple[float, ...] | None = None
    """Factor by which each file (with groups: its group) is likelier than it would be."""

    def of(self, amounts: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Relative chance of each file, from how much can be drawn of it; 0 where that is none."""
        chances = amounts
        if self.groups is not None:
            of_group = np.bincount(self.groups, weights=amounts)[list(self.groups)]
            chances = np.divide(amounts, of_group, out=np.zeros_like(amounts), where=amounts > 0)
        return chances if self.weights is None else chances * np.array(self.weights)


@dataclass(frozen=True)
class Places:
    """Where excerpts of one length can be taken: tables that a draw looks up by bisection."""

    files: Int64[np.ndarray, " N"]
    """Files that can be drawn at all."""
    ends: Float64[np.ndarray, " N"]
    """Sum of the chances of each of these files and those before it."""
    first_run: Int64[np.ndarray, " N1"] | None
    """Number of the first run of each of these files, and behind the last. None: the whole file."""
    run_starts: Int64[np.ndarray, " R"]
    run_ends: Int64[np.ndarray, " R"]
    """How many places there are in each run of a file and those before it."""


class CropSampler:
    """Draws excerpts of a list of files: a pure function of the seed and the sample number.

    By default every second of audio is as likely as any other.
    """

    def __init__(
        self,
        *,
        lengths: Sequence[int],
        seed: int,
        stream: str,
        floor: LoudnessFloor | None,
        shares: Shares,
    ) -> None:
        """Nothing is drawn, and no table made, before the first draw.

        Args:
            lengths: samples of each file, at the rate of training.
            seed: of all draws.
            stream: names the role that the files play.
            floor: draw only excerpts that are loud enough; None draws all.
            shares: how likely each file is.
        """
        if not len(lengths) or min(lengths) < 1:
            raise ValueError(f"no audio to draw {stream} from: {len(lengths)} files, some empty")
        self.lengths = np.asarray(lengths, np.int64)
        self.seed = seed
        self.stream = stream
        self.floor = floor
        self.shares = shares
        self._places: dict[int, Places] = {}

    @classmethod
    def build(
        cls,
        lengths: Sequence[int],
        *,
        seed: int,
        stream: str,
        floor: LoudnessFloor | None = None,
        shares: Shares | None = None,
    ) -> "CropSampler":
        """Sampler over files of these lengths; every second is as likely where nothing is said."""
        return cls(
            lengths=lengths, seed=seed, stream=stream, floor=floor, shares=shares or Shares()
        )

    def draw(self, sample: int, num_samples: int, *, skip: int = 0) -> Crop:
        """The excerpt of `num_samples` samples that belongs to sample number `sample`.

        Args:
            sample: which sample of the training run.
            num_samples: length of the excerpt.
            skip: take the file that follows the drawn one by this many places, for a file
                that cannot be read.

        Raises:
            ValueError: if no excerpt of this length is loud enough.
        """
        position, offset = uniform_pair(self.seed, sample, self.stream)
        places = self.places(num_samples)
        drawn = bisect_right(places.ends, position * places.ends[-1])
        number = (min(drawn, len(places.files) - 1) + skip) % len(places.files)
        file = int(places.files[number])
        room = int(self.lengths[file]) - num_samples
        if room < 0:  # a short file lies somewhere in the silence
            return Crop(file, -int(offset * (1 - room)))
        if places.first_run is None:
            return Crop(file, int(offset * (room + 1)))
        first, behind = int(places.first_run[number]), int(places.first_run[number + 1])
        place = int(offset * int(places.run_ends[behind - 1]))
        run = bisect_right(places.run_ends, place, first, behind)
        before = int(places.run_ends[run - 1]) if run > first else 0
        return Crop(file, int(places.run_starts[run]) + place - before)

    def places(self, num_samples: int) -> Places:
        """Tables for excerpts of this length, made when it is first asked for.

        Raises:
            ValueError: if no excerpt of this length is loud enough.
        """
        if num_samples not in self._places:
            if len(self._places) >= MAX_TABLES:
                self._places.pop(next(iter(self._places)))
            self._places[num_samples] = self._tables(num_samples)
        return self._places[num_samples]

    def _tables(self, num_samples: int) -> Places:
        no_runs = np.zeros(0, np.int64)
        amounts = self.lengths.astype(np.float64)
        runs: list[Int64[np.ndarray, "R 2"]] = []
        if self.floor is not None:
            for file, length in enumerate(self.lengths.tolist()):
                starts = self.floor.starts(file, length=length, num_samples=num_samples)
                possible = max(1, length - num_samples + 1)
                amounts[file] *= (starts[:, 1] - starts[:, 0]).sum() / possible
                if len(starts):
                    runs.append(starts)
        chances = self.shares.of(amounts)
        files = np.flatnonzero(chances)
        if not len(files):
            least = f"reaches {self.floor.min_db} dBFS" if self.floor else "has a weight above 0"
            raise ValueError(
                f"{self.stream}: no excerpt of {num_samples} samples {least}; "
                "lower min_loudness_db (null for none), or give other files"
            )
        ends = np.cumsum(chances[files])
        if self.floor is None:
            return Places(files, ends, None, no_runs, no_runs)
        drawable = set(files.tolist())
        with_runs = np.flatnonzero(amounts).tolist()  # a weight of 0 takes files with runs out
        runs = [run for file, run in zip(with_runs, runs, strict=True) if file in drawable]
        counts = [np.cumsum(run[:, 1] - run[:, 0]) for run in runs]
        first_run = np.concatenate(([0], np.cumsum([len(run) for run in runs])))
        return Places(
            files,
            ends,
            first_run.astype(np.int64),
            np.concatenate([run[:, 0] for run in runs]),
            np.concatenate(counts),
        )
