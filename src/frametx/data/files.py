"""Audio files as a library sees them, and the places they come from.

A source is a place that holds files: a folder here, a folder at an address (`remote.py`), or shards
(`shards.py`). It lists them, says what is in one, and opens one for reading; nothing else of the
data code knows where audio lies.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from frametx.audio.io import open_audio
from frametx.data.inspection import Inspection, inspect
from frametx.songs import AUDIO_SUFFIXES

SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".mp3"),
    *(".aiff", ".aif", ".aifc", ".opus", ".oga", ".w64", ".rf64", ".caf", ".au"),
)
"""Of the files that libraries read: what libsndfile decodes and seeks in, to the sample."""
UNKNOWN = -1
"""Size and time of a file of which the disk says nothing."""
NUM_STAT_THREADS = 16
"""On a network disk each `stat` waits for an answer; they can wait together."""


@dataclass(frozen=True)
class FoundFile:
    """A file that was seen, not yet opened."""

    path: Path
    name: str
    """Path relative to the root it was found under, with forward slashes."""
    size: int
    mtime_ns: int
    """When it was last changed; of a file at an address, a number that changes when it does."""


class FileFacts(Protocol):
    """What a source has to know of a file to find it again; see `FoundFile`."""

    @property
    def path(self) -> Path:
        """Where it lies, or would."""
        ...

    @property
    def name(self) -> str:
        """Relative to its root."""
        ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    @property
    def mtime_ns(self) -> int:
        """When it was last changed."""
        ...


class AudioReader(Protocol):
    """Gives the samples of an open file; `soundfile.SoundFile` is one."""

    def __enter__(self) -> Self:
        """The reader itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Close the file."""
        ...

    def seek(self, frames: int, /) -> int:
        """Go to a sample."""
        ...

    def read(self, frames: int, /, dtype: Literal["float32"], always_2d: Literal[True]) -> Any:
        """Samples from here on, L C: `frames`, or what is left."""
        ...


class Source(Protocol):
    """A place that holds audio files."""

    @property
    def address(self) -> str:
        """What the user called it, made absolute."""
        ...

    def scan(self) -> list[FoundFile]:
        """All files that are called as audio is, those that are not read (m4a) as well."""
        ...

    def inspect(self, file: FileFacts) -> Inspection:
        """What one file holds.

        Raises:
            ValueError: with one line that says why it cannot be trained on, without its path.
            OSError: if it cannot be opened, whatever it holds.
        """
        ...

    def local_path(self, file: FileFacts) -> Path:
        """Where the file lies on this machine, fetched if need be.

        Raises:
            OSError: if it cannot be had, or is no file of its own (in shards).
        """
        ...

    def open(self, file: FileFacts, num_samples: int | None = None) -> AudioReader:
        """Open a file for reading.

        Args:
            file: which.
            num_samples: how many it was found to hold, if that is known; saves a look into it.

        Raises:
            OSError: if it cannot be had.
            ValueError: if it is not audio any more.
        """
        ...


class Folder:
    """A folder on this machine, searched to any depth.

    Hidden files and folders are passed over; folders that are links are followed.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser()

    @property
    def address(self) -> str:
        """The folder, absolute, links followed."""
        return str(self.root.resolve())

    def scan(self) -> list[FoundFile]:
        """Its audio files, in no particular order.

        Links to nowhere and folders that may not be listed are among them, with the size `UNKNOWN`:
        `inspect` says what is wrong with them.
        """
        locked: list[str] = []
        with ThreadPoolExecutor(NUM_STAT_THREADS) as pool:
            found = pool.map(self._found, _audio_paths(self.root, locked))
            files = [file for file in found if file is not None]
        return files + [self._unknown(Path(folder)) for folder in locked]

    def inspect(self, file: FileFacts) -> Inspection:
        """Decode it from end to end."""
        return inspect(file.path)

    def local_path(self, file: FileFacts) -> Path:
        """Where it is."""
        return file.path

    def open(self, file: FileFacts, num_samples: int | None = None) -> AudioReader:
        """Open it with the decoder that gives all of it."""
        return open_audio(file.path, num_samples=num_samples)

    def _found(self, path: Path) -> FoundFile | None:
        try:
            status = path.stat()
        except OSError:  # a link to nowhere
            return self._unknown(path)
        if not path.is_file():
            return None
        name = path.relative_to(self.root).as_posix()
        return FoundFile(path.absolute(), name, status.st_size, status.st_mtime_ns)

    def _unknown(self, path: Path) -> FoundFile:
        name = path.relative_to(self.root).as_posix()
        return FoundFile(path.absolute(), name, UNKNOWN, UNKNOWN)


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
    loudness: bytes = field(default=b"", repr=False, hash=False)
    """Level of every tenth of a second, see `loudness.py`; empty where nobody has measured it."""
    root: int = field(default=0, hash=False)
    """Number of the library's root that it was found under."""
    source: Source = field(default=Folder("/"), repr=False, compare=False)
    """Where it is read from."""

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.num_samples / self.sample_rate

    def num_samples_at(self, sample_rate: int) -> int:
        """Length after resampling, at least one sample."""
        return max(1, round(self.num_samples * sample_rate / self.sample_rate))

    def open(self) -> AudioReader:
        """Open it for reading, at its own rate and with its own channels.

        Raises:
            OSError: if it cannot be had.
            ValueError: if it is not audio any more.
        """
        return self.source.open(self, self.num_samples)

    def local_path(self) -> Path:
        """Where it lies on this machine, fetched if need be.

        Raises:
            OSError: if it cannot be had, or is no file of its own (in shards).
        """
        return self.source.local_path(self)


NOT_READ = "do not read"
"""Stands in the reason for which a file in another format is rejected."""


@dataclass(frozen=True)
class RejectedFile:
    """A file that cannot be trained on, and why, in one line."""

    path: Path
    name: str
    reason: str


def is_audio(name: str) -> bool:
    """Whether a file is called as audio or video is, and not hidden."""
    return not name.startswith(".") and _suffix(name) in AUDIO_SUFFIXES


def is_read(file: FoundFile) -> bool:
    """Whether a file that was found is opened; of what cannot even be found out, it is tried."""
    return file.size == UNKNOWN or _suffix(file.name) in SUFFIXES


def not_read(file: FoundFile) -> RejectedFile:
    """The rejection of a file that is passed over because of its suffix."""
    reason = (
        f"is {_suffix(file.name)}, which libraries {NOT_READ}: convert it to one of "
        f"{', '.join(SUFFIXES[:3])}"
    )
    return RejectedFile(file.path, file.name, reason)


def scan(root: Path) -> Iterable[FoundFile]:
    """Audio files under `root`, each folder once even where links make a circle."""
    return Folder(root).scan()


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - of 20,000 names; a Path takes longer


def _audio_paths(root: Path, locked: list[str]) -> Iterator[Path]:
    """Audio files below a folder; to `locked` come the folders that may not be listed."""

    def note(error: OSError) -> None:
        if error.errno != errno.ENOENT:  # gone in this moment
            locked.append(error.filename)

    visited = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=note):
        status = os.stat(folder)  # noqa: PTH116 - os.walk gives a str, and has no Path twin
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if is_audio(name):
                yield Path(folder, name)
