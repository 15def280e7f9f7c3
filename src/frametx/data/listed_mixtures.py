"""Evaluation sets that are fixed by a list: everybody measures on the same mixtures."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.corpora.catalogue import MUSIC, VOICES
from frametx.data.crops import CropReader
from frametx.data.drawn_mixtures import rms
from frametx.data.files import AudioFile
from frametx.data.library import Library
from frametx.data.lists import Entry, MixtureList, is_sung, read_list, speaker_in
from frametx.data.tracks import Mixture
from frametx.data.trained_on import key_of_file
from frametx.printable import printable

STEMS = ("vocals", "instrumental")
SHORTER_SECONDS = 0.05
"""By so much a file may be too short; the rest is silence."""


class ListedMixtures:
    """The mixtures of a list, read at any rate and channel count; the same bits every time.

    A voice is mono and stands in the middle, unless the list gives it a room. A mono set is the
    average of the channels of the stereo set. Levels hold over the excerpt, at the set's own rate.
    """

    def __init__(
        self,
        mixtures: Path | str,
        *,
        root: Path | str,
        cache_dir: Path | str,
        sample_rate: int,
        num_channels: int,
        stems: Sequence[str] = STEMS,
        kinds: Sequence[str] | None = None,
    ) -> None:
        """Look for the files and index them; excerpts are read when they are asked for.

        Args:
            mixtures: the name of a list that ships (`benchmark`, `development`), or a JSON file.
            root: folder that `make data` has built.
            cache_dir: where the index of the files is kept.
            sample_rate: of all mixtures, in Hz.
            num_channels: 1 or 2, of all mixtures.
            stems: vocals and instrumental, in the order of the first axis of `Mixture.stems`.
            kinds: of mixtures to take, e.g. ["spoken"]; None takes all of the list.

        Raises:
            ValueError: if the list is damaged, files are missing, too short or unusable, or other
                stems or kinds are asked for.
        """
        if sorted(stems) != sorted(STEMS):
            raise ValueError(
                f"{mixtures} has the stems {list(STEMS)}, not {list(stems)}: data=divided draws "
                "mixtures of other stems from validation/"
            )
        self.name = str(mixtures)
        self.list = of_kinds(read_list(mixtures), kinds)
        self.stems = tuple(stems)
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.num_samples = max(1, round(self.list.seconds * sample_rate))
        paths = {file: Path(root).expanduser().absolute() / file for file in self.list.files}
        missing = [file for file, path in paths.items() if not path.is_file()]
        if missing:
            raise ValueError(self._refusal(missing, root))
        # <split>/<stem>, so that a file's name begins with its package, which is its composer.
        folders = dict.fromkeys("/".join(file.split("/")[:-1][:2]) for file in paths)
        library = Library.open(
            [Path(root).expanduser() / folder for folder in folders],
            role=self.name,
            cache_dir=cache_dir,
        )
        known = {file.path: number for number, file in enumerate(library.files)}
        unusable = [one for one in library.rejected if one.path in paths.values()]
        if unusable:
            raise ValueError(
                f"{self.name}: {unusable[0].path} cannot be used: {unusable[0].reason}; "
                "delete it and run make data"
            )
        self._numbers = {file: known[path] for file, path in paths.items()}
        self._library = library
        self._readers = [
            CropReader(library, sample_rate=sample_rate, num_channels=channels, cache_dir=None)
            for channels in (1, num_channels)
        ]
        for entry in self.list.mixtures:
            self._check_length(entry.voice, entry.voice_start_seconds)
            self._check_length(entry.music, entry.music_start_seconds)

    @property
    def libraries(self) -> dict[str, Library]:
        """By stem, the files that the list uses."""
        used = {
            "vocals": dict.fromkeys(entry.voice for entry in self.list.mixtures),
            "instrumental": dict.fromkeys(entry.music for entry in self.list.mixtures),
        }
        return {
            stem: dataclasses.replace(
                self._library, role=stem, files=tuple(map(self._file, used[stem])), rejected=()
            )
            for stem in self.stems
        }

    @property
    def notes(self) -> list[str]:
        """A line where files are not those that the list was drawn from."""
        changed = [
            file
            for file, key in self.list.contents.items()
            if file in self._numbers and (key_of_file(self._file(file)) or b"").hex() != key
        ]
        if not changed:
            return []
        return [
            f"{self.name}: {len(changed)} of {len(self._numbers)} files have another content than "
            f"when the list was drawn, {changed[0]} is the first: numbers that others have "
            "measured on it are not for comparison"
        ]

    def __len__(self) -> int:
        """Number of mixtures."""
        return len(self.list.mixtures)

    def __getitem__(self, index: int) -> Mixture:
        """Read and level one mixture.

        Raises:
            UnreadableFileError: if a file has vanished or broken since it was indexed.
            ValueError: if an excerpt is silence.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"mixture {index} of {len(self)}")
        entry = self.list.mixtures[index]
        vocals, music = self._voice(entry), self._music(entry)
        if min(rms(vocals), rms(music)) == 0:
            raise ValueError(f"{self.name}: {entry.name} has a silent stem: run make data again")
        vocals = vocals * (10 ** (entry.level_db / 20) * rms(music) / rms(vocals))
        by_stem = {"vocals": vocals, "instrumental": music}
        keys = (key_of_file(self._file(file)) for file in (entry.voice, entry.music))
        return Mixture(
            entry.name,
            torch.stack([by_stem[stem] for stem in self.stems]),
            self.sample_rate,
            files=frozenset(key for key in keys if key is not None),
            labels={"kind": entry.kind, "level": entry.level},
        )

    def _voice(self, entry: Entry) -> Float[Tensor, "C L"]:
        """The voice, in its room, as loud as in its file."""
        before = 0 if entry.room is None else round(entry.room.seconds * self.sample_rate)
        start = round(entry.voice_start_seconds * self.sample_rate) - before
        number = self._numbers[entry.voice]
        dry = torch.from_numpy(self._readers[0].read(number, start, before + self.num_samples))
        if entry.room is None:
            return dry.expand(self.num_channels, -1)
        # What was said just before the excerpt still sounds in the room.
        stereo = entry.room.apply(dry[0], sample_rate=self.sample_rate)[:, before:]
        return stereo if self.num_channels == 2 else stereo.mean(dim=0, keepdim=True)

    def _music(self, entry: Entry) -> Float[Tensor, "C L"]:
        start = round(entry.music_start_seconds * self.sample_rate)
        number = self._numbers[entry.music]
        return torch.from_numpy(self._readers[1].read(number, start, self.num_samples))

    def _file(self, file: str) -> AudioFile:
        return self._library.files[self._numbers[file]]

    def _check_length(self, file: str, start_seconds: float) -> None:
        needed, there = start_seconds + self.list.seconds, self._file(file).seconds
        if there + SHORTER_SECONDS < needed:
            raise ValueError(
                f"{self.name}: {self._file(file).path} lasts {there:.1f} s, the list needs "
                f"{needed:.1f} s of it: it was built from something else; delete it and run "
                "make data"
            )

    def _refusal(self, missing: Sequence[str], root: Path | str) -> str:
        """How many files are missing, and where to get them, in one line."""
        lacking = ", ".join(packages_of(missing)) or "packages that the catalogue does not know"
        sung = (
            "; the singing needs pyworld, and kinds=[spoken] of this data leaves it out"
            if any(map(is_sung, missing))
            else ""
        )
        return printable(
            f"{self.name}: {len(missing)} of its {len(self.list.files)} files are missing below "
            f"{root}, {missing[0]} is the first: run make data, which builds them from {lacking}, "
            f"or give their folder by paths.corpora_dir={sung}"
        )


def of_kinds(mixtures: MixtureList, kinds: Sequence[str] | None) -> MixtureList:
    """The mixtures of some kinds alone; None takes all.

    Raises:
        ValueError: if there is none of a kind.
    """
    there = dict.fromkeys(entry.kind for entry in mixtures.mixtures)
    if kinds is None:
        return mixtures
    if not kinds or not set(kinds) <= set(there):
        raise ValueError(f"kinds={list(kinds)} must be some of {', '.join(there)}, or null for all")
    chosen = tuple(entry for entry in mixtures.mixtures if entry.kind in kinds)
    return dataclasses.replace(mixtures, mixtures=chosen)


def packages_of(missing: Iterable[str]) -> list[str]:
    """Packages of the catalogue that files of `make data` are built from, each once."""
    music = {entry.package for entry in MUSIC}
    voices = {speaker.name: entry.package for entry in VOICES for speaker in entry.speakers}
    packages = [
        part if part in music else voices.get(speaker_in(file))
        for file in missing
        for part in (Path(file).parent.name,)
    ]
    return list(dict.fromkeys(package for package in packages if package is not None))
