"""Evaluation sets: tracks of aligned stems in folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.io import AudioInfo, probe, read_audio
from frametx.data.division import (
    VALIDATION_FOLDERS,
    Part,
    folder_of,
    missing_of_musdb18,
    of_part,
)
from frametx.data.index import SUFFIXES
from frametx.data.stem_mp4 import SUFFIX, decode_all, decoded_folder, find_stem_files
from frametx.data.trained_on import content_key_of

HELD_OUT_FOLDERS = ("test", *VALIDATION_FOLDERS)


@dataclass(frozen=True)
class Mixture:
    """One track to separate, with the truth; the mixture is the sum of its stems."""

    name: str
    """Unique within its set; may hold slashes."""
    stems: Float[Tensor, "S C L"]
    sample_rate: int
    has_order: bool = True
    """Whether it matters which stem is which. Of speakers it does not: they are scored under the
    order that suits the estimates best."""
    files: frozenset[bytes] = frozenset()
    """Keys of the contents of the files that it was made of, see `frametx.data.trained_on`."""


class EvaluationSet(Protocol):
    """Tracks with known stems; `Tracks` and `DrawnMixtures` are such sets."""

    def __len__(self) -> int:
        """Number of tracks."""
        ...

    def __getitem__(self, index: int, /) -> Mixture:
        """One track."""
        ...


class Tracks:
    """Folders that hold one file per stem: song/vocals.wav, song/instrumental.wav.

    Where a stem "instrumental" has no file, it is the sum of all files but the vocals and the other
    stems that are wanted, so the folders of MUSDB18-HQ (drums, bass, other, vocals, mixture) serve
    as they are. Files song.stem.mp4, as MUSDB18 has them, are decoded into such folders in the
    cache. Of a root that is divided into train/ and test/ a part is taken, see `division.py`.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        stems: Sequence[str],
        part: Part = "test",
        held_out: float = 0.1,
        cache_dir: Path | str | None = None,
    ) -> None:
        """Look at every track's headers, at no samples (but of .stem.mp4 that are new).

        Args:
            root: folder with one folder per track, at any depth.
            stems: names of the stems, in the order of the first axis of `Mixture.stems`.
            part: train, valid or test, of a divided root.
            held_out: share of train/ that is validated on where there is no better division.
            cache_dir: where .stem.mp4 files are decoded to.

        Raises:
            ValueError: if there is no track, or one lacks a stem or is not aligned.
        """
        self.root = Path(root).expanduser()
        self.stems = tuple(stems)
        if not self.root.is_dir():
            problem = "is not a folder" if self.root.exists() else "does not exist"
            raise ValueError(f"{self.root} {problem}; {self._expected()}")
        start = folder_of(self.root, part)
        found, packed = self._find(start)
        if not found and not packed:
            raise ValueError(f"0 tracks in {start}; {self._expected()}; found: {_listing(start)}")
        chosen = of_part(
            [*found, *packed], root=self.root, start=start, part=part, held_out=held_out
        )
        self.notes = missing_of_musdb18(chosen, root=self.root, start=start, part=part)
        """What a user should know of the tracks that were found, in lines."""
        prefix = "" if start == self.root else f"{start.name}/"
        self.names = [self.root.resolve().name if name == "." else prefix + name for name in chosen]
        """Of the tracks, below the root; unique."""
        if packed:
            self.root = _unpacked({name: packed[name] for name in chosen}, start, cache_dir)
            found = {name: self.root / name for name in chosen}
        self._keys: dict[int, frozenset[bytes]] = {}
        self.folders = [found[name] for name in chosen]
        self.sources = [
            self._checked_sources(name, folder)
            for name, folder in zip(self.names, self.folders, strict=True)
        ]

    def _find(self, start: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        """Folders of tracks, and .stem.mp4 files, by their names below `start`."""
        folders = [start, *(path for path in sorted(start.rglob("*")) if path.is_dir())]
        found = {
            folder.relative_to(start).as_posix(): folder
            for folder in folders
            if not _audio_by_stem(folder).keys().isdisjoint(self.stems)
        }
        packed = find_stem_files(start)
        if found and packed:
            raise ValueError(
                f"{start} holds folders of stems ({next(iter(found))}) and {SUFFIX} files "
                f"({next(iter(packed))}): give a folder that holds one of them"
            )
        return found, packed

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Mixture:
        """Read one track.

        Raises:
            ValueError: if one of its files is damaged.
        """
        sources = self.sources[index]
        read = [[read_audio(info.path) for info in part] for part in sources]
        sample_rate = sources[0][0].sample_rate
        if index not in self._keys:
            keys = (content_key_of(file, sample_rate) for part in read for file in part)
            self._keys[index] = frozenset(key for key in keys if key is not None)
        return Mixture(
            self.names[index],
            torch.stack([torch.stack(part).sum(0) for part in read]),
            sample_rate,
            files=self._keys[index],
        )

    def _checked_sources(self, name: str, folder: Path) -> list[list[AudioInfo]]:
        """The files that add up to each stem."""
        files = _audio_by_stem(folder)
        doubled = [paths for paths in files.values() if len(paths) > 1]
        if doubled:
            same = ", ".join(path.name for path in doubled[0])
            raise ValueError(f"track {name}: {same} are the same stem; keep one")
        paths = {stem: found[0] for stem, found in files.items()}
        sources = [self._paths_of(stem, paths, name) for stem in self.stems]
        infos = [[probe(path) for path in part] for part in sources]
        shapes = {
            info.path.name: (info.sample_rate, info.num_channels, info.num_samples)
            for part in infos
            for info in part
        }
        if len(set(shapes.values())) > 1:
            facts = "; ".join(
                f"{name}: {rate} Hz, {channels} channels, {length} samples"
                for name, (rate, channels, length) in shapes.items()
            )
            raise ValueError(f"track {name}: its stems are not aligned: {facts}")
        return infos

    def _paths_of(self, stem: str, paths: dict[str, Path], name: str) -> list[Path]:
        if stem in paths:
            return [paths[stem]]
        named = {"vocals", "mixture", *self.stems}
        others = [paths[other] for other in sorted(paths) if other not in named]
        if stem == "instrumental" and others:
            return others
        raise ValueError(
            f"track {name} has no {stem} file; {self._expected()}; "
            f"found: {', '.join(path.name for path in paths.values())}"
        )

    def _expected(self) -> str:
        wanted = ", ".join(f"<track>/{stem}.wav" for stem in self.stems)
        return f"expected {wanted} (or {', '.join(SUFFIXES[1:])}), or <track>{SUFFIX}"


def _unpacked(files: Mapping[str, Path], start: Path, cache_dir: Path | str | None) -> Path:
    """Where .stem.mp4 files are folders, decoded where that has not been done yet."""
    if cache_dir is None:
        raise ValueError(f"{start} holds {SUFFIX} files: give a cache_dir to decode them into")
    folder = decoded_folder(start, cache_dir)
    decode_all(files, folder)
    return folder


def _audio_by_stem(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        is_audio = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        if is_audio and path.is_file():
            files.setdefault(path.stem.lower(), []).append(path)
    return files


def _listing(root: Path, num_shown: int = 6) -> str:
    """A few of the paths below `root`, for messages."""
    paths = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
    if not paths:
        return "no files"
    more = f" and {len(paths) - num_shown} more" if len(paths) > num_shown else ""
    return ", ".join(path.as_posix() for path in paths[:num_shown]) + more
