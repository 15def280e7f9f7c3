"""What is known about the audio files of a library, kept in an SQLite file between runs.

A file is decoded once, when it is first seen, to learn its true length, how loud it is when, and
whether it is sound (`inspection.py`). What was learnt holds as long as the size and the
modification time of the file stay what they were, so that opening a library again costs one `stat`
per file. The SQLite file is a cache: what in it is damaged is learnt again.
"""

import hashlib
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from frametx.data.files import (
    SUFFIXES,
    UNKNOWN,
    AudioFile,
    FoundFile,
    RejectedFile,
    Source,
    scan,
)
from frametx.data.stored_text import from_sql, name_bytes, to_sql
from frametx.data.unusable_cache import no_cache
from frametx.printable import printable

__all__ = ["SUFFIXES", "AudioFile", "FoundFile", "Index", "Progress", "RejectedFile", "scan"]

INDEX_VERSION = 3
SAVE_EVERY_SECONDS = 20.0
LOCK_TIMEOUT_SECONDS = 60.0
FACTS = ("size", "mtime_ns", "num_samples", "sample_rate", "num_channels", "peak", "loudness")
COLUMNS = ("path", *FACTS, "reason", "checksum")

Progress = Callable[[int, int], None]
Row = tuple[
    str, int, int, int | None, int | None, int | None, float | None, bytes | None, str | None
]
"""A path, `FACTS` in their order, and the reason of a rejection; either all facts or a reason."""

log = logging.getLogger(__name__)


class Index:
    """Entries for the files of some sources, and the SQLite file that keeps them."""

    def __init__(self, cache_dir: Path, sources: Sequence[Source]) -> None:
        """Open the file, or make one; a damaged one is made anew.

        Raises:
            OSError: if it can be neither opened nor made.
        """
        addresses = "\n".join(source.address for source in sources)
        key = hashlib.blake2b(name_bytes(addresses), digest_size=8).hexdigest()
        self.path = cache_dir / f"library-{key}.sqlite"
        self.rows = self._load()

    def complete(
        self,
        found: Sequence[tuple[int, FoundFile, Source]],
        *,
        present: Sequence[FoundFile],
        progress: Progress | None,
    ) -> list[AudioFile | RejectedFile]:
        """One entry per found file, decoding only the files that are new or have changed.

        Args:
            found: number of the root, file and source of all files wanted.
            present: all files that are there; what is known of others is forgotten.
            progress: called with (files checked, files to check).
        """
        here = {str(file.path) for file in present}
        gone = [path for path in self.rows if path not in here]
        for path in gone:
            del self.rows[path]
        if gone:
            with self._writing() as database:
                database.executemany(
                    "DELETE FROM files WHERE path = ?", ((to_sql(p),) for p in gone)
                )
        missing = [(file, source) for _, file, source in found if not self._holds(file)]
        if missing:
            self._learn_all(missing, progress)
        entries = [self._entry(*one) for one in found]
        self.rows = {}  # the entries hold all there is to know
        return entries

    def _learn_all(
        self, missing: Sequence[tuple[FoundFile, Source]], progress: Progress | None
    ) -> None:
        """Decode files in a few threads, few at a time, and save what is learnt every so often."""
        num_threads = min(8, os.cpu_count() or 1)
        saved_at, unsaved, done = time.monotonic(), list[Row](), 0
        pool = ThreadPoolExecutor(num_threads)
        left = iter(missing)
        try:
            pending = {pool.submit(_learn, *one) for one in islice(left, 4 * num_threads)}
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                pending |= {pool.submit(_learn, *one) for one in islice(left, len(finished))}
                for row in map(Future.result, finished):
                    self.rows[row[0]] = row
                    unsaved.append(row)
                    done += 1
                    if progress is not None:
                        progress(done, len(missing))
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    self._save(unsaved)
                    saved_at, unsaved = time.monotonic(), []
        finally:
            # Hours of decoding are not lost when the run is stopped.
            pool.shutdown(cancel_futures=True)
            self._save(unsaved)

    def _holds(self, file: FoundFile) -> bool:
        row = self.rows.get(str(file.path))
        return row is not None and row[1:3] == (file.size, file.mtime_ns)

    def _entry(self, root: int, file: FoundFile, source: Source) -> AudioFile | RejectedFile:
        row = self.rows[str(file.path)]
        if row[-1] is not None:
            return RejectedFile(file.path, file.name, row[-1])
        facts: dict[str, Any] = dict(zip(FACTS, row[1:-1], strict=True))
        return AudioFile(path=file.path, name=file.name, root=root, source=source, **facts)

    def _load(self) -> dict[str, Row]:
        """The stored rows that are whole; none if the file is absent or damaged."""
        if not self.path.exists():
            return {}
        try:
            with closing(self._connect()) as database:
                (version,) = database.execute("PRAGMA user_version").fetchone()
                (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
                if version != INDEX_VERSION or state != "ok":
                    raise sqlite3.DatabaseError(f"version {version}, {state}")
                stored = database.execute(f"SELECT {', '.join(COLUMNS)} FROM files")
                rows: Iterator[Any] = ((from_sql(row[0]), *row[1:]) for row in stored)
                return {row[0]: row[:-1] for row in rows if row[-1] == _checksum(row[:-1])}
        except sqlite3.OperationalError as error:
            if not _is_damage(error):
                raise _unusable(self.path, error) from error
            self._discard(error)
        except (sqlite3.DatabaseError, TypeError) as error:
            self._discard(error)
        return {}

    def _discard(self, error: Exception) -> None:
        log.warning(
            "the index %s is damaged or of another version (%s): the files are checked anew",
            *(self.path, error),
        )
        self.path.unlink(missing_ok=True)
        self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)

    def _save(self, rows: Sequence[Row]) -> None:
        with self._writing() as database:
            database.executemany(
                f"INSERT OR REPLACE INTO files VALUES ({', '.join('?' * len(COLUMNS))})",
                ((to_sql(row[0]), *row[1:], _checksum(row)) for row in rows),
            )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; several processes may write at once, and then wait for one another."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as database, database:
                database.execute(f"PRAGMA user_version = {INDEX_VERSION}")
                database.execute(
                    "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size, mtime_ns, "
                    "num_samples, sample_rate, num_channels, peak, loudness, reason, checksum)"
                )
                yield database
        except (sqlite3.Error, OSError) as error:
            raise _unusable(self.path, error) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_SECONDS)


def _checksum(row: Row) -> int:
    *facts, loudness, reason = row
    return zlib.crc32(repr((*facts, reason)).encode(), zlib.crc32(loudness or b""))


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Whether the file's content is at fault, not a lock, a permission or the disk."""
    return "no such" in str(error) or "malformed" in str(error)


def _unusable(path: Path, error: sqlite3.Error | OSError) -> OSError:
    if isinstance(error, OSError):
        return no_cache(path, error)
    return no_cache(path, OSError(getattr(error, "sqlite_errorcode", 0), str(error)))


def _learn(file: FoundFile, source: Source) -> Row:
    path, known = str(file.path), (file.size, file.mtime_ns)
    nothing = (None, None, None, None, None)
    try:
        facts = asdict(source.inspect(file))
        num_samples, sample_rate, num_channels, peak, loudness = (facts[name] for name in FACTS[2:])
        return path, *known, num_samples, sample_rate, num_channels, peak, loudness, None
    except ValueError as error:
        return path, *known, *nothing, printable(error)
    except OSError as error:
        # Says nothing about the content: look again next time.
        unknown = (UNKNOWN, UNKNOWN)
        return path, *unknown, *nothing, printable(f"cannot be read: {error.strerror or error}")
