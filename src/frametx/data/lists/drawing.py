"""Draw a list of mixtures: from a seed and the files of one split of `make data`."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from frametx.audio.io import probe, read_audio
from frametx.data.files import is_audio
from frametx.data.lists import Entry, MixtureList, speaker_in
from frametx.data.lists.room import Room
from frametx.data.trained_on import content_key_of

SECONDS = 10.0
LEVELS_DB = (0.0, -6.0)
KINDS = {"spoken": "vocals", "sung": "singing", "sung_in_a_room": "singing"}
"""Where the voices of a kind lie; those of the last one get a room."""
IN_A_ROOM = "sung_in_a_room"
GRID_SECONDS = 0.5
"""Excerpts begin at multiples of it, which are whole samples at every usual rate."""
ACTIVE_BELOW_LOUDEST_DB = 30.0
ACTIVE_DBFS = -50.0
LEAST_ACTIVE = 0.5
MOST_TRIES = 200
MOST_FILES = 50
DECAY_SECONDS = (0.4, 2.0)
PREDELAY_MS = (0.0, 40.0)
WET_DB = (-12.0, -3.0)
FURTHEST_PAN = 0.6


@dataclass
class Places:
    """Excerpts of files, none of which overlap while that can be had."""

    root: Path
    rng: np.random.Generator
    is_audible: Callable[[Float32[np.ndarray, " L"], int], bool]

    def __post_init__(self) -> None:
        self._used: dict[str, list[float]] = {}

    def next(self, files: Iterator[str]) -> tuple[str, float]:
        """The next of `files` that has an audible excerpt, and where this begins, seconds.

        Raises:
            ValueError: if there was none in many files.
        """
        tried: list[str] = []
        while len(tried) < MOST_FILES:
            tried.append(next(files))
            start = self.draw(tried[-1])
            if start is not None:
                return tried[-1], start
        raise ValueError(
            f"{self.root / tried[0]}: no audible excerpt of {SECONDS:g} s was found, here or in "
            f"{len(set(tried)) - 1} more files"
        )

    def draw(self, file: str) -> float | None:
        """Where an audible excerpt of `file` begins, seconds; None if none was found."""
        info = probe(self.root / file)
        last = math.floor((info.num_samples / info.sample_rate - SECONDS) / GRID_SECONDS)
        drawn = self.rng.permutation(GRID_SECONDS * np.arange(max(0, last + 1)))
        used = self._used.setdefault(file, [])
        is_free = np.array([all(abs(s - u) >= SECONDS for u in used) for s in drawn], bool)
        # Those that overlap with nothing taken come first, the others behind them.
        for start in np.concatenate([drawn[is_free], drawn[~is_free]])[:MOST_TRIES]:
            samples = read_audio(
                self.root / file,
                start=round(start * info.sample_rate),
                num_samples=round(SECONDS * info.sample_rate),
            )
            if self.is_audible(samples.mean(dim=0).numpy(), info.sample_rate):
                used.append(float(start))
                return float(start)
        return None


def draw_list(root: Path, *, split: str, per_kind: int, seed: int, about: str) -> MixtureList:
    """Mixtures of every kind: half at each level, half of each speaker, tracks used evenly.

    Args:
        root: folder that `make data` has built.
        split: its part: validation or development.
        per_kind: mixtures of each kind; with two speakers a multiple of 4.
        seed: another seed gives another list.
        about: words for the head of the list.

    Raises:
        ValueError: if files are missing, or nothing in them is audible.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    music = Places(root, rng, music_sounds)
    voices = Places(root, rng, voice_sounds)
    tracks = _evenly(_audio_below(root, f"{split}/instrumental"), rng)
    entries: list[Entry] = []
    for kind, folder in KINDS.items():
        by_speaker = {
            speaker: _evenly(files, rng)
            for speaker, files in _by_speaker(_audio_below(root, f"{split}/{folder}")).items()
        }
        speakers = sorted(by_speaker)
        for number in range(per_kind):  # every speaker at every level
            speaker = speakers[number // len(LEVELS_DB) % len(speakers)]
            voice, voice_start = voices.next(by_speaker[speaker])
            track, track_start = music.next(tracks)
            entries.append(
                Entry(
                    name=f"{kind}_{number + 1:02d}",
                    kind=kind,
                    voice=voice,
                    voice_start_seconds=voice_start,
                    music=track,
                    music_start_seconds=track_start,
                    level_db=LEVELS_DB[number % len(LEVELS_DB)],
                    room=draw_room(rng) if kind == IN_A_ROOM else None,
                )
            )
    found = sorted({file for entry in entries for file in (entry.voice, entry.music)})
    return MixtureList(
        about=about,
        seed=seed,
        seconds=SECONDS,
        mixtures=tuple(entries),
        contents=_contents(root, found),
    )


def draw_room(rng: np.random.Generator) -> Room:
    """A room between a living room and a hall, and a place in it; rounded to be readable."""
    low, high = np.log(DECAY_SECONDS)
    return Room(
        decay_seconds=round(float(np.exp(rng.uniform(low, high))), 3),
        predelay_ms=round(float(rng.uniform(*PREDELAY_MS)), 1),
        wet_db=round(float(rng.uniform(*WET_DB)), 2),
        pan=round(float(rng.uniform(-FURTHEST_PAN, FURTHEST_PAN)), 3),
        seed=int(rng.integers(2**32)),
    )


def voice_sounds(samples: Float32[np.ndarray, " L"], sample_rate: int) -> bool:
    """Whether a voice is active in at least half of an excerpt.

    A 50 ms window is active above -50 dBFS and above 30 dB below the loudest one.
    """
    levels = _levels_db(samples, sample_rate // 20)
    floor = max(ACTIVE_DBFS, levels.max() - ACTIVE_BELOW_LOUDEST_DB)
    return bool((levels > floor).mean() >= LEAST_ACTIVE)


def music_sounds(samples: Float32[np.ndarray, " L"], sample_rate: int) -> bool:
    """Whether every second of an excerpt is above -50 dBFS."""
    return bool(_levels_db(samples, sample_rate).min() > ACTIVE_DBFS)


def _levels_db(samples: Float32[np.ndarray, " L"], window: int) -> Float32[np.ndarray, " W"]:
    whole = samples[: len(samples) // window * window].reshape(-1, window).astype(np.float64)
    return 10 * np.log10(np.square(whole).mean(axis=1) + 1e-12)


def _audio_below(root: Path, folder: str) -> list[str]:
    found = [path for path in (root / folder).rglob("*") if is_audio(path.name)]
    if not found:
        raise ValueError(f"{root / folder} holds no audio files: run make data first")
    return sorted(path.relative_to(root).as_posix() for path in found)


def _by_speaker(files: Sequence[str]) -> Mapping[str, list[str]]:
    speakers: dict[str, list[str]] = {}
    for file in files:
        speakers.setdefault(speaker_in(file), []).append(file)
    return speakers


def _evenly(files: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """All files in a random order, again and again, each time in another."""
    while True:
        yield from rng.permutation(np.array(files, dtype=object))


def _contents(root: Path, found: Sequence[str]) -> dict[str, str]:
    contents: dict[str, str] = {}
    for file in found:
        key = content_key_of(read_audio(root / file), probe(root / file).sample_rate)
        if key is not None:
            contents[file] = key.hex()
    return contents
