"""Libraries: the indexed audio files of one role, for instance all vocals."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, get_args

from frametx.data.exclusion import exclusions
from frametx.data.files import (
    SUFFIXES,
    AudioFile,
    Folder,
    RejectedFile,
    Source,
    is_read,
    not_read,
)
from frametx.data.index import Index, Progress
from frametx.data.loudness import LoudnessFloor, block_samples, loudest
from frametx.data.remote import RemoteFolder, is_address
from frametx.data.sampling import CropSampler, SegmentPool, Shares
from frametx.data.shards import ShardFolder, holds_shards
from frametx.data.stored_text import name_bytes
from frametx.printable import printable

Root = Path | str | Mapping[str, Path | str | float]
"""A folder or an address, or a mapping with `root` and `weight`."""
Weighting = Literal["seconds", "files", "folder", "library"]


@dataclass(frozen=True)
class DrawRules:
    """Which excerpts of a library are drawn how often."""

    weighting: Weighting = "seconds"
    """What is equally likely: every second, every file, every folder (the first one below the root:
    a speaker, an artist; files that lie in the root itself are one folder together), or every
    root. Within a file, folder or root it is every second."""
    root_weights: tuple[float, ...] = ()
    """Factor by which what is under each root is likelier; empty for 1 each."""
    min_loudness_db: float | None = None
    """Excerpts with a lower RMS, in dB relative to full scale, are not drawn; None draws all."""
    pool: SegmentPool | None = None
    """Lets samples share excerpts, see there; None reads one for each sample."""

    def __post_init__(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            ValueError: for an unknown weighting or a negative weight.
        """
        if self.weighting not in get_args(Weighting):
            raise ValueError(
                f"weighting ({self.weighting}) must be one of {', '.join(get_args(Weighting))}"
            )
        if any(weight < 0 for weight in self.root_weights):
            raise ValueError(f"weights of roots {self.root_weights} must not be negative")


@dataclass(frozen=True)
class Library:
    """All usable audio files of one role, sorted by name."""

    role: str
    files: tuple[AudioFile, ...]
    rejected: tuple[RejectedFile, ...] = ()
    rules: DrawRules = DrawRules()

    @classmethod
    def open(
        cls,
        roots: Sequence[Root] | Root,
        *,
        role: str,
        cache_dir: Path | str,
        exclude: Sequence[str] | str = (),
        weighting: Weighting = "seconds",
        min_loudness_db: float | None = None,
        pool: SegmentPool | None = None,
        remote_cache_gb: float = 50.0,
        progress: Progress | None = None,
    ) -> "Library":
        """Index the audio files (`SUFFIXES`) under one or more folders.

        Hidden files and folders are passed over; folders that are links are followed. What cannot
        be used is `rejected`, audio and video in formats that are not read as well.

        Args:
            roots: folders, searched to any depth; addresses that fsspec can list (s3://bucket/a);
                folders or addresses of shards (`python -m frametx.shards`). A mapping
                {root: ..., weight: 2} makes what is under it twice as likely.
            role: what the files are, for messages ("vocals").
            cache_dir: where the index is kept between runs, and files fetched from addresses.
            exclude: shell patterns; files whose relative path matches one are left out. What ends
                in .txt is a list of files, as `python -m frametx.check` writes it.
            weighting: what is equally likely, see `DrawRules`.
            min_loudness_db: excerpts with a lower RMS are never drawn (dB relative to full scale),
                and files that have no tenth of a second above it are rejected; None takes all.
            pool: lets samples share excerpts.
            remote_cache_gb: how much is kept of what is fetched from addresses.
            progress: called with (files checked, files to check) while files are decoded.

        Raises:
            ValueError: if a folder is missing, or no file in it can be used.
        """
        cache = Path(cache_dir).expanduser()
        places = [_place(root) for root in _as_list(roots)]
        if not places:
            raise ValueError(
                f"{role}: no folder was given; name at least one folder of audio files"
            )
        try:
            sources = [_source(place, cache, remote_cache_gb) for place, _ in places]
            patterns, listed = exclusions(exclude)
            present = [
                (root, file, source)
                for root, source in enumerate(sources)
                for file in source.scan()
            ]
        except ValueError as error:
            raise ValueError(f"{role}: {error}") from error
        wanted = [
            one
            for one in present
            if str(one[1].path) not in listed and not _is_excluded(one[1].name, patterns)
        ]
        by_path = {file.path: (root, file, source) for root, file, source in reversed(wanted)}
        named = sorted(by_path.values(), key=lambda one: (one[1].name, one[1].path))
        found = [one for one in named if is_read(one[1])]
        passed_over = [not_read(file) for _, file, _ in named if not is_read(file)]
        known = Index(cache, sources).complete(
            found, present=[f for _, f, _ in present if is_read(f)], progress=progress
        )
        known = [_if_loud(entry, min_loudness_db) for entry in known]
        files = tuple(entry for entry in known if isinstance(entry, AudioFile))
        rejected = (*(entry for entry in known if isinstance(entry, RejectedFile)), *passed_over)
        if not files:
            raise ValueError(_nothing_usable(role, [place for place, _ in places], rejected))
        weights = tuple(weight for _, weight in places)
        rules = DrawRules(weighting, weights, min_loudness_db, pool)
        return cls(role, files, rejected, rules)

    def sampler(self, *, sample_rate: int, seed: int, stream: str) -> CropSampler:
        """What draws excerpts of these files by the library's rules.

        Args:
            sample_rate: of the excerpts.
            seed: of all draws.
            stream: names the part the library plays, so that two parts draw differently.
        """
        rules, floor = self.rules, None
        if rules.min_loudness_db is not None:
            floor = LoudnessFloor(
                rules.min_loudness_db,
                tuple(file.loudness for file in self.files),
                tuple(
                    block_samples(file.sample_rate) * sample_rate / file.sample_rate
                    for file in self.files
                ),
            )
        weights = None
        if len(set(rules.root_weights)) > 1:
            weights = tuple(rules.root_weights[file.root] for file in self.files)
        return CropSampler.build(
            [file.num_samples_at(sample_rate) for file in self.files],
            seed=seed,
            stream=stream,
            floor=floor,
            shares=Shares(self._groups(), weights),
        )

    def _groups(self) -> tuple[int, ...] | None:
        match self.rules.weighting:
            case "seconds":
                return None
            case "files":
                return tuple(range(len(self.files)))
            case "library":
                keys = [(file.root, "") for file in self.files]
            case "folder":
                keys = [(file.root, file.name.rpartition("/")[0].partition("/")[0])
                        for file in self.files]  # fmt: skip
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return tuple(numbers[key] for key in keys)

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
        # What is held out is drawn once: nothing is saved by sharing excerpts there.
        return (
            Library(self.role, kept, self.rejected, self.rules),
            Library(self.role, held, rules=replace(self.rules, pool=None)),
        )


def _nothing_usable(
    role: str, roots: Sequence[Path | str], rejected: Sequence[RejectedFile], num_shown: int = 3
) -> str:
    where = ", ".join(str(root) for root in roots)
    if not rejected:
        return f"{role}: no {', '.join(SUFFIXES)} file in {where}; give a folder that holds some"
    shown = rejected[:num_shown]
    reasons = "; ".join(f"{printable(file.name)} {file.reason}" for file in shown)
    more = f"; and {len(rejected) - num_shown} more" if len(rejected) > num_shown else ""
    return f"{role}: none of the {len(rejected)} files in {where} can be used: {reasons}{more}"


def _as_list(value: Sequence[Root] | Root) -> list[Root]:
    return [value] if isinstance(value, str | Path | Mapping) else list(value)


def _place(root: Root) -> tuple[Path | str, float]:
    """The folder or address of a root, and its weight."""
    if not isinstance(root, Mapping):
        return root, 1.0
    unknown = set(root) - {"root", "weight"}
    if unknown or "root" not in root:
        raise ValueError(f"a root {dict(root)} must have the keys root and, if wanted, weight")
    place = root["root"]
    assert isinstance(place, str | Path)
    return place, float(str(root.get("weight", 1.0)))


def _source(place: Path | str, cache_dir: Path, remote_cache_gb: float) -> Source:
    """What lists and opens the files of one root.

    Raises:
        ValueError: if there is no such folder.
    """
    if is_address(place):
        remote = RemoteFolder(str(place), cache_dir=cache_dir / "remote", limit_gb=remote_cache_gb)
        if remote.holds_shards():
            return ShardFolder(str(place))
        return remote
    folder = Path(place).expanduser()
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {problem}; give a folder of {', '.join(SUFFIXES)} files")
    if holds_shards(folder):
        return ShardFolder(str(folder))
    return Folder(folder)


def _is_excluded(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _if_loud(
    entry: AudioFile | RejectedFile, min_loudness_db: float | None
) -> AudioFile | RejectedFile:
    """The entry, or a rejection if no tenth of a second of the file is loud enough."""
    if min_loudness_db is None or isinstance(entry, RejectedFile) or not entry.loudness:
        return entry
    level_db = loudest(entry.loudness)
    if level_db >= min_loudness_db:
        return entry
    reason = f"is silent below {min_loudness_db} dBFS: its loudest 0.1 s has {level_db} dBFS"
    return RejectedFile(entry.path, entry.name, reason)


def _unit_hash(name: str) -> float:
    digest = hashlib.blake2b(name_bytes(name), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
