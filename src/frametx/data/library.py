"""Libraries: the indexed audio files of one role, for instance all vocals."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from frametx.data.index import SUFFIXES, AudioFile, Index, Progress, RejectedFile, scan


@dataclass(frozen=True)
class Library:
    """All usable audio files of one role, sorted by name."""

    role: str
    files: tuple[AudioFile, ...]
    rejected: tuple[RejectedFile, ...] = ()

    @classmethod
    def open(
        cls,
        roots: Sequence[Path | str] | Path | str,
        *,
        role: str,
        cache_dir: Path | str,
        exclude: Sequence[str] | str = (),
        progress: Progress | None = None,
    ) -> "Library":
        """Index the wav, flac, ogg and mp3 files under one or more folders.

        Hidden files and folders are passed over; folders that are links are followed.

        Args:
            roots: folders, searched to any depth.
            role: what the files are, for messages ("vocals").
            cache_dir: where the index is kept between runs.
            exclude: shell patterns; files whose relative path matches one are left out.
            progress: called with (files checked, files to check) while files are decoded.

        Raises:
            ValueError: if a folder is missing, or no file in it can be used.
        """
        folders = [Path(root).expanduser() for root in _as_list(roots)]
        if not folders:
            raise ValueError(
                f"{role}: no folder was given; name at least one folder of audio files"
            )
        for folder in folders:
            if not folder.is_dir():
                problem = "is not a folder" if folder.exists() else "does not exist"
                raise ValueError(
                    f"{role}: {folder} {problem}; give a folder of {', '.join(SUFFIXES)} files"
                )
        patterns = _as_list(exclude)
        found = [
            file
            for folder in folders
            for file in scan(folder)
            if not any(fnmatchcase(file.name, str(pattern)) for pattern in patterns)
        ]
        found = sorted({file.path: file for file in found}.values(), key=lambda f: (f.name, f.path))
        known = Index(Path(cache_dir), folders).complete(found, progress)
        files = tuple(entry for entry in known if isinstance(entry, AudioFile))
        rejected = tuple(entry for entry in known if isinstance(entry, RejectedFile))
        if not files:
            raise ValueError(_nothing_usable(role, folders, rejected))
        return cls(role, files, rejected)

    @property
    def total_seconds(self) -> float:
        """Duration of all usable files together."""
        return sum(file.seconds for file in self.files)

    @property
    def fingerprint(self) -> str:
        """Changes when a file is added, removed, renamed or gets another length; not when moved."""
        facts = [(file.name, file.size, file.num_samples, file.sample_rate) for file in self.files]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()

    def split(self, held_out: float) -> tuple["Library", "Library"]:
        """Divide into files to train on and files to hold out, by a hash of their names.

        A file keeps its side when others come or go (unless a side would be empty without it),
        so a longer library never trains on what a shorter one was tested with.

        Args:
            held_out: expected share of the files to hold out, between 0 and 1.
        """
        if not 0 < held_out < 1:
            raise ValueError(
                f"{self.role}: the share to hold out ({held_out}) must lie between 0 and 1"
            )
        if len(self.files) == 1:
            raise ValueError(
                f"{self.role}: a single file ({self.files[0].name}) cannot be divided into files "
                "to train on and files to hold out; add a file or give a validation folder"
            )
        by_hash = sorted(self.files, key=lambda file: _unit_hash(file.name))
        count = sum(_unit_hash(file.name) < held_out for file in self.files)
        chosen = set(by_hash[: min(max(count, 1), len(self.files) - 1)])
        kept = tuple(file for file in self.files if file not in chosen)
        held = tuple(file for file in self.files if file in chosen)
        return Library(self.role, kept, self.rejected), Library(self.role, held)


def _nothing_usable(
    role: str, folders: Sequence[Path], rejected: Sequence[RejectedFile], num_shown: int = 3
) -> str:
    where = ", ".join(str(folder) for folder in folders)
    if not rejected:
        return f"{role}: no {', '.join(SUFFIXES)} file in {where}; give a folder that holds some"
    reasons = "; ".join(f"{file.name} {file.reason}" for file in rejected[:num_shown])
    more = f"; and {len(rejected) - num_shown} more" if len(rejected) > num_shown else ""
    return f"{role}: none of the {len(rejected)} files in {where} can be used: {reasons}{more}"


def _as_list(value: Sequence[Path | str] | Path | str) -> list[Path | str]:
    return [value] if isinstance(value, str | Path) else list(value)


def _unit_hash(name: str) -> float:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
