"""Evaluation sets: tracks of aligned stems in folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.io import AudioInfo, probe, read_audio
from frametx.data.index import SUFFIXES

SILENCE_RMS = 1e-4  # -80 dBFS
MAX_DRAWS = 100
HELD_OUT_FOLDERS = ("test", "validation", "valid")


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

    Where a stem "instrumental" has no file, it is the sum of all other stems but the vocals, so
    the folders of MUSDB18-HQ (drums, bass, other, vocals, mixture) serve as they are. Of a folder
    that is divided into train and test (or validation), train is left out, because scores on it
    say nothing; give root/train to have them all the same.
    """

    def __init__(self, root: Path | str, *, stems: Sequence[str]) -> None:
        """Look at every track's headers, at no samples.

        Args:
            root: folder with one folder per track, at any depth.
            stems: names of the stems, in the order of the first axis of `Mixture.stems`.

        Raises:
            ValueError: if there is no track, or one lacks a stem or is not aligned.
        """
        self.root = Path(root).expanduser()
        self.stems = tuple(stems)
        if not self.root.is_dir():
            problem = "is not a folder" if self.root.exists() else "does not exist"
            raise ValueError(f"{self.root} {problem}; {self._expected()}")
        start = _held_out_part(self.root)
        folders = [start, *(path for path in sorted(start.rglob("*")) if path.is_dir())]
        found = {folder: _audio_by_stem(folder) for folder in folders}
        self.folders = [folder for folder, files in found.items() if self._is_track(files)]
        if not self.folders:
            raise ValueError(f"0 tracks in {start}; {self._expected()}; found: {_listing(start)}")
        self.sources = [self._checked_sources(folder, found[folder]) for folder in self.folders]

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Mixture:
        """Read one track.

        Raises:
            ValueError: if one of its files is damaged.
        """
        sources = self.sources[index]
        summed = [torch.stack([read_audio(info.path) for info in part]).sum(0) for part in sources]
        return Mixture(
            self._name(self.folders[index]), torch.stack(summed), sources[0][0].sample_rate
        )

    def _is_track(self, files: dict[str, list[Path]]) -> bool:
        return any(stem in files for stem in self.stems)

    def _checked_sources(self, folder: Path, files: dict[str, list[Path]]) -> list[list[AudioInfo]]:
        """The files that add up to each stem."""
        doubled = [paths for paths in files.values() if len(paths) > 1]
        if doubled:
            names = ", ".join(path.name for path in doubled[0])
            raise ValueError(f"track {self._name(folder)}: {names} are the same stem; keep one")
        paths = {stem: found[0] for stem, found in files.items()}
        sources = [self._paths_of(stem, paths, folder) for stem in self.stems]
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
            raise ValueError(f"track {self._name(folder)}: its stems are not aligned: {facts}")
        return infos

    def _paths_of(self, stem: str, paths: dict[str, Path], folder: Path) -> list[Path]:
        if stem in paths:
            return [paths[stem]]
        others = [paths[name] for name in sorted(paths) if name not in ("vocals", "mixture")]
        if stem == "instrumental" and others:
            return others
        raise ValueError(
            f"track {self._name(folder)} has no {stem} file; {self._expected()}; "
            f"found: {_listing(folder)}"
        )

    def _name(self, folder: Path) -> str:
        name = folder.relative_to(self.root).as_posix()
        return folder.resolve().name if name == "." else name

    def _expected(self) -> str:
        wanted = ", ".join(f"<track>/{stem}.wav" for stem in self.stems)
        return f"expected {wanted} (or {', '.join(SUFFIXES[1:])})"


def _held_out_part(root: Path) -> Path:
    if (root / "train").is_dir():
        for name in HELD_OUT_FOLDERS:
            if (root / name).is_dir():
                return root / name
    return root


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
