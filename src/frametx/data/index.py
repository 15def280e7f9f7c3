"""What is known about the audio files under some folders, kept as JSON between runs.

A file is decoded once, when it is first seen, to learn its true length and whether it is sound
(`inspection.py`). What was learnt holds as long as the size and the modification time of the file
stay what they were, so that opening a library again costs one `stat` per file.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from frametx.data.inspection import inspect

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
INDEX_VERSION = 1
SAVE_EVERY_SECONDS = 20.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AudioFile:
    """A file that can be trained on."""

    path: Path
    name: str
    """Path relative to the root it was found under, with forward slashes."""
    size: int
    mtime_ns: int
    num_samples: int
    sample_rate: int
    num_channels: int
    peak: float

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.num_samples / self.sample_rate

    def num_samples_at(self, sample_rate: int) -> int:
        """Length after resampling, at least one sample."""
        return max(1, round(self.num_samples * sample_rate / self.sample_rate))


@dataclass(frozen=True)
class RejectedFile:
    """A file that cannot be trained on, and why, in one line."""

    path: Path
    name: str
    reason: str


@dataclass(frozen=True)
class FoundFile:
    """A file that was seen, not yet opened."""

    path: Path
    name: str
    size: int
    mtime_ns: int


class Index:
    """Entries for the files under some folders, and the JSON file that keeps them."""

    def __init__(self, cache_dir: Path, folders: Sequence[Path]) -> None:
        roots = [str(folder.resolve()) for folder in folders]
        key = hashlib.blake2b("\n".join(roots).encode(), digest_size=8).hexdigest()
        self.path = cache_dir / f"library-{key}.json"
        self.roots = roots
        self.entries = self._load()

    def complete(
        self, found: Sequence[FoundFile], progress: Progress | None
    ) -> list[AudioFile | RejectedFile]:
        """One entry per found file, decoding only the files that are new or have changed."""
        for path in [path for path in self.entries if not Path(path).exists()]:
            del self.entries[path]
        missing = [file for file in found if not self._holds(file)]
        if missing:
            self._learn_all(missing, progress)
        return [self._entry(file) for file in found]

    def _learn_all(self, missing: Sequence[FoundFile], progress: Progress | None) -> None:
        saved_at = time.monotonic()
        pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        try:
            pending = {pool.submit(_learn, file): file for file in missing}
            for done, future in enumerate(as_completed(pending), start=1):
                self.entries[str(pending[future].path)] = future.result()
                if progress is not None:
                    progress(done, len(missing))
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    self._save()
                    saved_at = time.monotonic()
        finally:
            # Hours of decoding are not lost when the run is stopped.
            pool.shutdown(cancel_futures=True)
            self._save()

    def _holds(self, file: FoundFile) -> bool:
        entry = self.entries.get(str(file.path), {})
        return (entry.get("size"), entry.get("mtime_ns")) == (file.size, file.mtime_ns)

    def _entry(self, file: FoundFile) -> AudioFile | RejectedFile:
        facts = self.entries[str(file.path)]
        if "reason" in facts:
            return RejectedFile(file.path, file.name, facts["reason"])
        return AudioFile(path=file.path, name=file.name, **facts)

    def _load(self) -> dict[str, dict]:
        """The stored entries; none if the file is absent, damaged or of another version."""
        try:
            stored = json.loads(self.path.read_text())
            if stored["version"] == INDEX_VERSION and stored["roots"] == self.roots:
                return {path: facts for path, facts in stored["files"].items() if _is_entry(facts)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # rebuilt from the audio files, which is all that a cache needs
        return {}

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"version": INDEX_VERSION, "roots": self.roots, "files": self.entries}
        # Several ranks may save at once: each writes its own file, and a rename is atomic.
        partial = self.path.with_name(f"{self.path.name}.{uuid4().hex}.tmp")
        partial.write_text(json.dumps(content))
        partial.replace(self.path)


def _is_entry(facts: dict) -> bool:
    learnt = set(facts) - {"size", "mtime_ns"}
    return learnt in ({"reason"}, {"num_samples", "sample_rate", "num_channels", "peak"})


def _learn(file: FoundFile) -> dict:
    known = {"size": file.size, "mtime_ns": file.mtime_ns}
    try:
        return known | asdict(inspect(file.path))
    except ValueError as error:
        return known | {"reason": str(error)}
    except OSError as error:
        # Says nothing about the content: look again next time.
        return {"size": -1, "mtime_ns": -1, "reason": f"cannot be read: {error.strerror or error}"}


def scan(root: Path) -> Iterator[FoundFile]:
    """Audio files under `root`, each folder once even where links make a circle."""
    visited = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)  # noqa: PTH116 - os.walk gives a str, and has no Path twin
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if path.is_file():  # false for a link to nowhere
                status = path.stat()
                yield FoundFile(
                    path.absolute(),
                    path.relative_to(root).as_posix(),
                    status.st_size,
                    status.st_mtime_ns,
                )
