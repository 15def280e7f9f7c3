"""What a network was trained on, small enough for its checkpoint, and what is no test for it.

A file is known by its content: its length, its peak, and how loud every tenth of a second of it is.
That is the same in any folder, under any name and in any lossless format, and a library's index
holds it, so nothing is read for it. A copy that was encoded, cut or made louder has another
content; a song is therefore also known by its name, where that says enough.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from torch import Tensor

from frametx.data.files import AudioFile
from frametx.data.library import Library
from frametx.data.loudness import SILENT_LEVEL, levels
from frametx.data.musdb18 import TRAINING_TRACKS, as_key, is_in_training_part
from frametx.data.stored_text import name_bytes

KEY_BYTES = 5
"""Of a file or name: one of 20,000 is taken for another by chance in 1 of 50 million."""
FEWEST_LETTERS = 8
"""Of a name that says which song it is; "track 12" does not."""
PART_NAMES = frozenset(
    {"mixture", "vocals", "instrumental", "accompaniment", "drums", "bass", "other"}
)
"""Names of files that name a part of a song; the song is then what their folder is called."""
REASONS = {
    "content": "were trained on",
    "name": "have the name of a song that was trained on",
    "MUSDB18": "are of the training part of MUSDB18",
}
"""Why a track says nothing about new songs, as a verb behind `3 of 50 tracks`."""


@dataclass(frozen=True)
class TrainedOn:
    """Keys of all files and songs that a network has heard while its weights were learned."""

    files: frozenset[bytes] = frozenset()
    songs: frozenset[bytes] = frozenset()
    is_all: bool = True
    """Whether it has heard nothing else. Weights that do not say what they learned from may have,
    and so may what goes on from them."""

    @classmethod
    def of_libraries(cls, libraries: Iterable[Library]) -> Self:
        """All files of some libraries."""
        return cls.of_files([file for library in libraries for file in library.files])

    @classmethod
    def of_files(cls, files: Sequence[AudioFile]) -> Self:
        """Some files of libraries; a song is called as its file, or as its folder is."""
        names = (PurePosixPath(file.name) for file in files)
        songs = (n.parent.name if n.stem.lower() in PART_NAMES else n.stem for n in names)
        return cls(_without_none(map(key_of_file, files)), _without_none(map(song_key, songs)))

    @classmethod
    def of_names(cls, names: Iterable[str]) -> Self:
        """Songs of which nothing else is known than the names of their tracks."""
        return cls(songs=_without_none(song_key(PurePosixPath(name).name) for name in names))

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any] | None) -> Self:
        """What `stored` returned; None, where a checkpoint has none, may be anything."""
        if stored is None:
            return cls(is_all=False)
        return cls(_keys(stored["files"]), _keys(stored["songs"]), stored.get("is_all", True))

    def stored(self) -> dict[str, str | bool]:
        """Plain values for a checkpoint: sorted keys behind one another, in base 64."""
        return {"files": _text(self.files), "songs": _text(self.songs), "is_all": self.is_all}

    def __or__(self, other: "TrainedOn") -> "TrainedOn":
        """What either has heard."""
        return TrainedOn(
            self.files | other.files, self.songs | other.songs, self.is_all and other.is_all
        )

    def reason_against(self, name: str, files: frozenset[bytes]) -> str | None:
        """Why a track is no test for this network: one of `REASONS`, or None.

        Args:
            name: of the track; its last part is the song's.
            files: keys of the contents of the files it was made of.
        """
        song = PurePosixPath(name).name
        if files & self.files:
            return "content"
        if song_key(song) in self.songs:
            return "name"
        if is_in_training_part(song) and self._may_know_musdb18():
            return "MUSDB18"
        return None

    def _may_know_musdb18(self) -> bool:
        """Whether it has learned from MUSDB18's training part, or nobody knows from what else."""
        return not self.is_all or any(song_key(name) in self.songs for name in TRAINING_TRACKS)


def content_key(num_samples: int, sample_rate: int, peak: float, loudness: bytes) -> bytes | None:
    """What a file is known by wherever it lies; None if its levels are unknown or all silence.

    Args:
        num_samples: its length.
        sample_rate: in Hz.
        peak: its largest sample.
        loudness: as `frametx.data.loudness.levels` gives it.
    """
    if not loudness or min(loudness) == SILENT_LEVEL:
        return None
    facts = json.dumps([num_samples, sample_rate, peak]).encode()
    return hashlib.blake2b(facts + loudness, digest_size=KEY_BYTES).digest()


def key_of_file(file: AudioFile) -> bytes | None:
    """The key of an indexed file; nothing is read."""
    return content_key(file.num_samples, file.sample_rate, file.peak, file.loudness)


def content_key_of(waveform: Float[Tensor, "C L"], sample_rate: int) -> bytes | None:
    """The key of a file whose samples are at hand, as they are in the file."""
    samples = np.asarray(waveform)
    loudness = levels(samples, sample_rate).tobytes()
    peak = float(np.abs(samples).max(initial=0))
    return content_key(samples.shape[-1], sample_rate, peak, loudness)


def song_key(name: str) -> bytes | None:
    """What a song is known by in any edition; None for a name that many songs may have."""
    letters = as_key(name)
    if sum(map(str.isalpha, letters)) < FEWEST_LETTERS:
        return None
    return hashlib.blake2b(name_bytes(letters), digest_size=KEY_BYTES).digest()


def _without_none(keys: Iterable[bytes | None]) -> frozenset[bytes]:
    return frozenset(key for key in keys if key is not None)


def _text(keys: frozenset[bytes]) -> str:
    return base64.b64encode(b"".join(sorted(keys))).decode()


def _keys(text: str) -> frozenset[bytes]:
    whole = base64.b64decode(text)
    return frozenset(whole[i : i + KEY_BYTES] for i in range(0, len(whole), KEY_BYTES))
