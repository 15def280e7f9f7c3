"""Folders at an address: object storage, web servers, whatever fsspec can list and read.

A file is fetched whole when it is needed and kept in a folder of stated size; what has not been
used for longest goes first. Any number of processes may share that folder.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from frametx.audio.io import open_audio
from frametx.data.files import AudioReader, FileFacts, FoundFile, is_audio
from frametx.data.inspection import Inspection, inspect
from frametx.data.stored_text import name_bytes

SHARD_LIST = "frametx.json"
"""Name of the list of songs in a folder of shards."""
VERSION_FACTS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified",
                 "Last-Modified", "created")  # fmt: skip
"""What storage systems call the fact that changes with a file; the first one there counts."""
ATTEMPTS = 3
PAUSE_SECONDS = 1.0
"""Before the second attempt at a file that could not be fetched; then twice as long."""
LOCAL_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR)


def is_address(place: Path | str) -> bool:
    """Whether this is an address (s3://bucket/folder) and not a path."""
    return isinstance(place, str) and "://" in place


class FetchedFiles:
    """A folder of copies that stays below a size: the ones unused for longest are deleted.

    Args:
        folder: made when it is needed.
        limit_gb: of all files in it; 1 GB is 10^9 bytes.
    """

    def __init__(self, folder: Path, *, limit_gb: float) -> None:
        if limit_gb <= 0:
            raise ValueError(f"remote_cache_gb ({limit_gb}) must be more than 0")
        self.folder = folder
        self.limit_bytes = round(limit_gb * 1e9)

    def path(self, name: str, size: int, fetch: Callable[[Path], None]) -> Path:
        """Where the copy called `name` lies, after `fetch` has written it if it was not there.

        Raises:
            ValueError: if it is larger than the folder may be, or the folder takes no files.
            OSError: if it cannot be fetched, or is not `size` bytes long any more.
        """
        path = self.folder / name
        with suppress(FileNotFoundError):
            os.utime(path)  # used now
            return path
        if size > self.limit_bytes:
            raise ValueError(
                f"a file of {size / 1e9:.3f} GB does not fit into the {self.limit_bytes / 1e9} GB "
                "that fetched files may take: raise remote_cache_gb"
            )
        partial = path.with_name(f"{name}.{uuid4().hex}.part")
        try:
            self._writable()
            fetch(partial)
            fetched = partial.stat().st_size
            if fetched != size:
                raise OSError(errno.ESTALE, f"has {fetched} bytes and had {size} when listed")
            partial.replace(path)
        except OSError as error:
            if error.errno in LOCAL_FAULTS:
                raise ValueError(
                    f"{self.folder} takes no more files ({error.strerror}): free space, lower "
                    "remote_cache_gb or choose another paths.cache_dir"
                ) from error
            raise
        finally:
            partial.unlink(missing_ok=True)
        self._make_room(keep=path)
        return path

    @contextmanager
    def held(self, name: str, size: int, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """A second name for a copy, under which nobody deletes it; see `path`."""
        for _ in range(ATTEMPTS):
            path = self.path(name, size, fetch)
            second = path.with_name(f".{uuid4().hex}{path.suffix}")
            try:
                second.hardlink_to(path)
            except FileNotFoundError:  # deleted in this moment
                continue
            except OSError:  # no second names on this disk
                break
            try:
                yield second
            finally:
                second.unlink(missing_ok=True)
            return
        yield self.path(name, size, fetch)

    def _writable(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def _make_room(self, *, keep: Path) -> None:
        held = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                with suppress(FileNotFoundError):  # another process makes room too
                    status = entry.stat()
                    held.append((status.st_mtime_ns, entry.path, status.st_size))
        total = sum(size for _, _, size in held)
        for _, path, size in sorted(held):
            if total <= self.limit_bytes:
                break
            if path != str(keep) and not path.endswith(".part"):
                Path(path).unlink(missing_ok=True)
                total -= size


class RemoteFolder:
    """The audio files below an address.

    Args:
        address: as fsspec writes it: s3://bucket/folder, gs://..., https://..., memory://...
        cache_dir: where fetched files are kept.
        limit_gb: how much of them.
    """

    def __init__(self, address: str, *, cache_dir: Path, limit_gb: float) -> None:
        self.address = address.rstrip("/")
        self.fetched = FetchedFiles(cache_dir, limit_gb=limit_gb)

    def scan(self) -> list[FoundFile]:
        """List it.

        Raises:
            ValueError: if it does not exist, or cannot be listed.
        """
        system, root = file_system(self.address)
        try:
            listed: dict[str, dict[str, Any]] = system.find(root, detail=True)
            if not listed and not system.exists(root):
                raise ValueError(f"{self.address} does not exist or is empty")
        except FileNotFoundError as error:
            raise ValueError(f"{self.address} does not exist") from error
        except OSError as error:
            raise ValueError(f"{self.address} cannot be listed: {error}") from error
        found = []
        for path, facts in listed.items():
            name = path.removeprefix(root).lstrip("/")
            if all(not part.startswith(".") for part in name.split("/")) and is_audio(name):
                facts = facts if facts.get("size") is not None else system.info(path)
                place = Path(f"{self.address}/{name}")
                found.append(FoundFile(place, name, int(facts["size"] or 0), _version(facts)))
        return found

    def holds_shards(self) -> bool:
        """Whether `python -m frametx.shards` wrote it."""
        system, root = file_system(self.address)
        return bool(system.exists(f"{root}/{SHARD_LIST}"))

    def inspect(self, file: FileFacts) -> Inspection:
        """Fetch it and decode it from end to end."""
        # Files are inspected side by side, and there may be room for but one of them.
        with self.fetched.held(*self._copy_of(file)) as path:
            try:
                return inspect(path)
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), file.name)) from error

    def local_path(self, file: FileFacts) -> Path:
        """The copy of a file, fetched if it is not there.

        Raises:
            ValueError: if this machine cannot keep it.
            OSError: if it cannot be fetched.
        """
        return self.fetched.path(*self._copy_of(file))

    def _copy_of(self, file: FileFacts) -> tuple[str, int, Callable[[Path], None]]:
        """Name and size of its copy, and what writes it."""
        key = f"{self.address}/{file.name}\n{file.size}\n{file.mtime_ns}"
        digest = hashlib.blake2b(name_bytes(key), digest_size=12).hexdigest()
        name = digest + file.path.suffix.lower()
        return name, file.size, lambda target: self._fetch(file.name, target)

    def open(self, file: FileFacts, num_samples: int | None = None) -> AudioReader:
        """Open the copy of a file; another process may delete it at any time, but not when open."""
        for _ in range(ATTEMPTS - 1):
            path = self.local_path(file)
            with suppress(OSError, ValueError):
                return open_audio(path, num_samples=num_samples)
            if path.exists():
                break
        return open_audio(self.local_path(file), num_samples=num_samples)

    def _fetch(self, name: str, target: Path) -> None:
        """Copy a file from its address, again after a pause where the way there is at fault."""
        for attempt in range(ATTEMPTS):
            system, root = file_system(self.address)
            try:
                with system.open(f"{root}/{name}", "rb") as stream, target.open("wb") as copy:
                    shutil.copyfileobj(stream, copy, 1 << 20)
                return
            except FileNotFoundError:
                raise
            except OSError as error:
                if attempt == ATTEMPTS - 1 or error.errno in LOCAL_FAULTS:
                    raise
                time.sleep(PAUSE_SECONDS * 2**attempt)


def file_system(address: str) -> tuple[Any, str]:
    """What reads an address, and the path in it. Made anew in each process: see fsspec on forks.

    Raises:
        ModuleNotFoundError: if fsspec, or what it needs for this kind of address, is missing.
        ValueError: if there is no such kind of address.
    """
    try:
        from fsspec.core import url_to_fs  # an optional part of the installation

        system, root = url_to_fs(address)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{address} needs more than is installed ({error}): pip install frametx[remote]"
        ) from error
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from error
    return system, root.rstrip("/")


def _version(facts: dict[str, Any]) -> int:
    """A number that changes when the file does, as far as its storage says."""
    fact = next((facts[name] for name in VERSION_FACTS if facts.get(name) is not None), "")
    digest = hashlib.blake2b(repr(fact).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
