"""Evaluation sets: tracks of aligned stems in folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.io import read_audio
from frametx.data.division import (
    VALIDATION_FOLDERS,
    Part,
    folder_of,
    missing_of_musdb18,
    of_part,
)
from frametx.data.index import SUFFIXES
from frametx.data.left_out import some_names
from frametx.data.stem_mp4 import SUFFIX, decode_all, decoded_folder, find_stem_files
from frametx.data.track_files import (
    ADJUSTED,
    FitRules,
    MissingStem,
    TrackFiles,
    TrackFinding,
    UnusableTrackError,
    audio_by_stem,
    find_track_files,
    listed_tracks,
    way_out,
)
from frametx.data.trained_on import content_key_of
from frametx.printable import printable

HELD_OUT_FOLDERS = ("test", *VALIDATION_FOLDERS)
MOST_LISTED = 20
"""Tracks that are named in an error."""
MOST_NAMED = 3
"""Tracks that are named in a note."""


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
    missing: frozenset[int] = frozenset()
    """Stems of which there is no file: they are silence in `stems`, and have no score."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the evaluation is also reported by: {"kind": "sung", "level": "-6 dB"}; mostly empty."""


class EvaluationSet(Protocol):
    """Tracks with known stems; `Tracks`, `DrawnMixtures` and `ListedMixtures` are such sets."""

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
        length_tolerance_seconds: float = 0.1,
        missing_stem: MissingStem = "refuse",
    ) -> None:
        """Look at every track's headers, at no samples (but of .stem.mp4 that are new).

        Args:
            root: folder with one folder per track, at any depth.
            stems: names of the stems, in the order of the first axis of `Mixture.stems`.
            part: train, valid or test, of a divided root.
            held_out: share of train/ that is validated on where there is no better division.
            cache_dir: where .stem.mp4 files are decoded to.
            length_tolerance_seconds: stems of a track may differ by so much, and are padded.
            missing_stem: refuse, or silent: a stem without a file is silence without a score.

        Raises:
            ValueError: if there is no track, or some lack a stem or are not aligned: all are named.
        """
        self.rules = FitRules(length_tolerance_seconds, missing_stem)
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
        if self.unread:
            self.notes.append(
                f"{len(self.unread)} folder(s) passed over, whose stems are in formats that are "
                f"not read: {some_names(self.unread)}; convert them to {', '.join(SUFFIXES[:3])}"
            )
        self._prefix = "" if start == self.root else f"{start.name}/"
        self._root_name = self.root.resolve().name
        if packed:
            self.root = _unpacked({name: packed[name] for name in chosen}, start, cache_dir)
            found = {name: self.root / name for name in chosen}
        self._keys: dict[int, frozenset[bytes]] = {}
        self._fits = self._fitting(chosen, found)
        self.names = self._labels(list(self._fits))
        """Of the tracks, below the root; unique."""
        self.folders = [found[name] for name in self._fits]
        self.files = list(self._fits.values())
        """By track, those of its stems."""
        self.sources = [track.sources for track in self.files]

    def _find(self, start: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        """Folders of tracks, and .stem.mp4 files, by their names below `start`."""
        folders = [start, *(path for path in sorted(start.rglob("*")) if path.is_dir())]
        named = {folder.relative_to(start).as_posix(): folder for folder in folders}
        found = {name: folder for name, folder in named.items() if self._holds_stem(folder)}
        self.unread = [
            name
            for name, folder in named.items()
            if name not in found and self._holds_stem(folder, is_read=False)
        ]
        """Folders whose stems are all in formats that are not read."""
        packed = find_stem_files(start)
        if found and packed:
            raise ValueError(
                f"{start} holds folders of stems ({next(iter(found))}) and {SUFFIX} files "
                f"({next(iter(packed))}): give a folder that holds one of them"
            )
        return found, packed

    def _holds_stem(self, folder: Path, *, is_read: bool = True) -> bool:
        return not audio_by_stem(folder, is_read=is_read).keys().isdisjoint(self.stems)

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Mixture:
        """Read one track.

        Raises:
            ValueError: if one of its files is damaged.
        """
        track = self.files[index]
        read = [[(read_audio(info.path), info) for info in part] for part in track.sources]
        if index not in self._keys:
            keys = (content_key_of(file, info.sample_rate) for part in read for file, info in part)
            self._keys[index] = frozenset(key for key in keys if key is not None)
        return Mixture(
            self.names[index],
            torch.stack([track.stem([track.fitted(*file) for file in part]) for part in read]),
            track.sample_rate,
            files=self._keys[index],
            missing=frozenset(stem for stem, part in enumerate(read) if not part),
        )

    def _fitting(self, chosen: Sequence[str], found: Mapping[str, Path]) -> dict[str, TrackFiles]:
        """The files of the tracks that can be used, by the names of these.

        Raises:
            ValueError: naming all tracks that cannot be used, unless they are being listed.
        """
        fitting: dict[str, TrackFiles] = {}
        findings: list[TrackFinding] = []
        for label, name in zip(self._labels(chosen), chosen, strict=True):
            try:
                fitting[name] = find_track_files(found[name], self.stems, self.rules)
            except UnusableTrackError as error:
                place = (label, found[name], error.kind, str(error), error.apart_seconds)
                findings.append(TrackFinding(*place))
                continue
            findings += [
                TrackFinding(label, found[name], ADJUSTED, reason)
                for reason in fitting[name].adjustments
            ]
        listed = listed_tracks()
        if listed is not None:
            listed += findings
        bad = [finding for finding in findings if finding.kind != ADJUSTED]
        if bad and listed is None:
            raise ValueError(_refusal(bad, len(chosen), self._expected()))
        self.notes += _adjustment_lines([one for one in findings if one.kind == ADJUSTED])
        return fitting

    def _labels(self, chosen: Sequence[str]) -> list[str]:
        """The names of tracks below the root."""
        return [self._root_name if name == "." else f"{self._prefix}{name}" for name in chosen]

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


def _refusal(bad: Sequence[TrackFinding], num_tracks: int, expected: str) -> str:
    """Which tracks cannot be used and why, and which options accept them, in one line."""
    told = [f"track {printable(one.name)}: {one.reason}" for one in bad[:MOST_LISTED]]
    if len(bad) > MOST_LISTED:
        told.append(f"{len(bad) - MOST_LISTED} more (python -m frametx.check lists all)")
    if ways := way_out(bad):
        told.append(ways)
    return f"{len(bad)} of {num_tracks} track(s) cannot be used: {'; '.join(told)}; {expected}"


def _adjustment_lines(adjusted: Sequence[TrackFinding]) -> list[str]:
    """How many tracks were made to fit, and how the first few, in a line."""
    if not adjusted:
        return []
    told = "; ".join(f"{printable(one.name)}: {one.reason}" for one in adjusted[:MOST_NAMED])
    more = len(adjusted) - MOST_NAMED
    tail = f"; and {more} more, python -m frametx.check lists all" if more > 0 else ""
    return [f"{len({one.name for one in adjusted})} track(s) made to fit: {told}{tail}"]


def notes_of(tracks: EvaluationSet) -> list[str]:
    """What a user should know of a set of tracks, in lines; most sets have none."""
    return list(getattr(tracks, "notes", ()))


def _listing(root: Path, num_shown: int = 6) -> str:
    """A few of the paths below `root`, for messages."""
    paths = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
    if not paths:
        return "no files"
    more = f" and {len(paths) - num_shown} more" if len(paths) > num_shown else ""
    return ", ".join(path.as_posix() for path in paths[:num_shown]) + more
