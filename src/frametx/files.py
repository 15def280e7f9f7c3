"""Files that are whole under their name, or not there at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from frametx.unfinished import part_beside

PART_SUFFIX = ".part"


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Path of a new file in the same folder, which takes the place of `path` once it is whole.

    What was there before stays until then. The file's bytes are on the disk before it is renamed,
    and the renaming before this returns, so that a power cut leaves the old file or the new one.
    If the block raises, the unfinished file is removed.

    Raises:
        OSError: naming `path`, if the disk is full or cannot be written to.
    """
    path = Path(path)
    part = part_beside(path)
    try:
        yield part
        sync(part)
        os.replace(part, path)  # noqa: PTH105 - one name for tests to stand at
        sync(path.parent)
    except OSError as error:
        if error.filename in (None, str(part)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders, and needs not
        return
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_parts(folder: Path) -> None:
    """Remove unfinished files of processes that were killed; the caller must hold the folder."""
    for part in folder.glob(f".*{PART_SUFFIX}"):
        with suppress(OSError):
            part.unlink()


def save_tensors(stored: Any, path: Path | str) -> None:
    """`torch.save`, so that `path` is whole at any time.

    Raises:
        OSError: naming `path`; torch itself would raise a RuntimeError about file positions.
    """
    with atomic_write(path) as part, part.open("wb") as file:
        recorder = _ErrorRecorder(file)
        try:
            torch.save(stored, recorder)  # pyright: ignore[reportArgumentType] - write and flush do
        except RuntimeError as error:
            if recorder.error is not None:
                raise recorder.error from error
            raise


class _ErrorRecorder:
    """A file that remembers why it could not be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, and remember a failure."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Flush, and remember a failure."""
        try:
            self.file.flush()
        except OSError as error:
            self.error = self.error or error
            raise
