"""Whether two files are the same recording: by their samples, and by how they sound.

The digest of all decoded samples finds copies in other folders and other lossless formats. The
fingerprint also finds what was encoded again (mp3, ogg), resampled, made louder, folded down to
mono, shifted or shortened: each frame becomes a word of 32 bits that says where energy rises and
falls between neighbouring bands, and two files share a recording if many words of both agree about
one shift. It does not find a recording whose speed or pitch was changed.

Only words that a hash selects are kept, the same ones in every copy: 2.7 a second instead of 21.5.

Source: Haitsma and Kalker, "A highly robust audio fingerprinting system", ISMIR 2002. Ours differ
in the hop (46 ms), in comparing with the fourth frame before instead of the last, and in searching
by voting.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, UInt32
from torch import Tensor

FRAMES_PER_SECOND = 44_100 / 2048
NUM_BITS = 32
LOWEST_HZ, HIGHEST_HZ = 300.0, 3000.0
SMOOTHED_FRAMES = 8
LAG_FRAMES = 4
SELECTED_ONE_IN = 8
QUIET_DB = -60.0
"""Frames this far below the loudest so far say nothing: coding noise decides their bits."""
MOST_SHARING = 32
"""A word that more places share is a commonplace, and no evidence."""
FEWEST_VOTES = 6
SHARE_OF_VOTES = 0.1


class Fingerprint(NamedTuple):
    """The selected words of a file, and the frames they stand at."""

    words: UInt32[np.ndarray, " N"]
    frames: Int32[np.ndarray, " N"]


class Match(NamedTuple):
    """Two files that sound the same: their positions, how many words agree, and the shift."""

    first: int
    second: int
    votes: int
    shift_seconds: float
    """How much later the common part is in the first one."""


class FingerprintBuilder:
    """Makes a fingerprint of power spectra that come in pieces.

    Args:
        bin_hz: distance between two bins of the spectra.
    """

    def __init__(self, *, bin_hz: float) -> None:
        edges_hz = np.geomspace(LOWEST_HZ, HIGHEST_HZ, NUM_BITS + 2)
        self._edges = [math.ceil(edge / bin_hz) for edge in edges_hz]
        self._kept = torch.zeros(NUM_BITS + 1, 0)
        self._num_frames = 0
        self._loudest = 0.0
        self._words: list[np.ndarray] = []
        self._frames: list[np.ndarray] = []

    def push(self, power: Float[Tensor, "F T"]) -> None:
        """The next frames, `FRAMES_PER_SECOND` of them a second."""
        # A band may hold no bin where the sample rate is very low; it is then silent in all copies.
        bands = [
            power[low:high].sum(dim=0)
            for low, high in zip(self._edges, self._edges[1:], strict=False)
        ]
        energies = torch.cat([self._kept, torch.stack(bands)], dim=1)
        needed = SMOOTHED_FRAMES + LAG_FRAMES
        if energies.shape[1] < needed:
            self._kept = energies
            return
        smooth = energies.unfold(1, SMOOTHED_FRAMES, 1).mean(dim=2)
        slope = smooth[:-1] - smooth[1:]
        bits = (slope[:, LAG_FRAMES:] > slope[:, :-LAG_FRAMES]).numpy()
        weights = np.uint32(1) << np.arange(NUM_BITS, dtype=np.uint32)
        words = (bits * weights[:, None]).sum(axis=0, dtype=np.uint32)
        level = smooth[:, LAG_FRAMES:].sum(dim=0).numpy()
        self._loudest = max(self._loudest, float(level.max()))
        is_heard = level > self._loudest * 10 ** (QUIET_DB / 10)
        chosen = np.flatnonzero(is_heard & _is_selected(words))
        self._words.append(words[chosen])
        self._frames.append((chosen + self._num_frames).astype(np.int32))
        self._num_frames += len(words)
        self._kept = energies[:, -(needed - 1) :]

    def finish(self) -> Fingerprint:
        """All that was selected."""
        return Fingerprint(
            np.concatenate([np.zeros(0, np.uint32), *self._words]),
            np.concatenate([np.zeros(0, np.int32), *self._frames]),
        )


def find_matches(fingerprints: Sequence[Fingerprint]) -> list[Match]:
    """Pairs of files that share a recording, in order; each pair once.

    At least `FEWEST_VOTES` words, and a tenth of those of the file that has fewer, must agree.
    """
    lengths = np.array([len(fingerprint.words) for fingerprint in fingerprints], np.int64)
    if len(lengths) < 2 or not lengths.sum():
        return []
    words = np.concatenate([fingerprint.words for fingerprint in fingerprints])
    order = np.argsort(words, kind="stable")
    words = words[order]
    file = np.repeat(np.arange(len(lengths)), lengths)[order]
    frame = np.concatenate([fingerprint.frames for fingerprint in fingerprints])[order].astype(
        np.int64
    )
    _, counts = np.unique(words, return_counts=True)
    is_rare = np.repeat(counts <= MOST_SHARING, counts)
    words, file, frame = words[is_rare], file[is_rare], frame[is_rare]
    votes: list[np.ndarray] = []
    span = 1 << 26  # shifts of up to 18 days either way keep their own range of keys
    for distance in range(1, min(MOST_SHARING, len(words))):
        agrees = (words[distance:] == words[:-distance]) & (file[distance:] != file[:-distance])
        if not agrees.any():
            continue
        later = np.flatnonzero(agrees) + distance
        first, second = later - distance, later  # stable sort: the first file has the lower number
        shift = frame[first] - frame[second]
        votes.append((file[first] * len(lengths) + file[second]) * span + shift + span // 2)
    if not votes:
        return []
    keys, counts = np.unique(np.concatenate(votes), return_counts=True)
    # Half a hop of misalignment spreads the votes over two neighbouring shifts.
    counts = counts + np.where(np.append(np.diff(keys) == 1, False), np.append(counts[1:], 0), 0)
    pairs = keys // span
    best: dict[int, tuple[int, int]] = {}
    for pair, count, key in zip(pairs.tolist(), counts.tolist(), keys.tolist(), strict=True):
        best[pair] = max(best.get(pair, (0, 0)), (count, key))
    matches = []
    for pair, (count, key) in best.items():
        first, second = divmod(pair, len(lengths))
        fewest = min(lengths[first], lengths[second])
        if count >= max(FEWEST_VOTES, SHARE_OF_VOTES * fewest):
            shift = (key % span - span // 2) / FRAMES_PER_SECOND
            matches.append(Match(first, second, count, shift))
    return matches


def _is_selected(words: UInt32[np.ndarray, " N"]) -> np.ndarray:
    mixed = words.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(40)) % np.uint64(SELECTED_ONE_IN) == 0
