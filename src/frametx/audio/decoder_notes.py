"""The lines that libmpg123 writes to the terminal by itself, collected instead.

libsndfile decodes MP3 by libmpg123, which complains about damaged frames on C's `stderr` and cannot
be told otherwise through libsndfile. While a frame is decoded, that pointer (not file descriptor 2,
which Python, other threads and child processes write to) leads to a file in memory. Lines of anyone
else that get there are passed on. Where there is no such pointer (not Linux) nothing is done.
"""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import Any

OURS = re.compile(r"mpg123|^(Note|Warning|Error|error): |^\s*$")
PLACE = re.compile(r"^\[[^]]*\] *")


class _Stderr:
    """C's `stderr` and a file in memory, of one process."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._libc.fdopen.restype = ctypes.c_void_p
        self._libc.fflush.argtypes = [ctypes.c_void_p]
        self._pointer = ctypes.c_void_p.in_dll(self._libc, "stderr")
        self._descriptor = os.memfd_create("stderr")
        self._memory = self._libc.fdopen(self._descriptor, b"w+")
        self._terminal = self._pointer.value
        self._lock = Lock()
        self._num_inside = 0

    def enter(self) -> None:
        with self._lock:
            if self._num_inside == 0:
                self._terminal, self._pointer.value = self._pointer.value, self._memory
            self._num_inside += 1

    def leave(self) -> str:
        """What was written since, once nobody else is inside."""
        with self._lock:
            self._num_inside -= 1
            if self._num_inside:
                return ""
            self._pointer.value = self._terminal
            self._libc.fflush(self._memory)
            length = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            if not length:
                return ""
            written = os.pread(self._descriptor, length, 0)
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            return written.decode(errors="backslashreplace")


@lru_cache(maxsize=1)
def _stderr(process: int) -> _Stderr | None:
    try:
        return _Stderr()
    except (AttributeError, OSError, ValueError):
        return None


@contextmanager
def collected(note: Callable[[str], Any]) -> Iterator[None]:
    """Call `note` with each line that libmpg123 writes meanwhile, without the place in its code."""
    is_possible = sys.platform == "linux"
    stderr = _stderr(os.getpid()) if is_possible else None
    if stderr is None:
        yield
        return
    stderr.enter()
    try:
        yield
    finally:
        for line in stderr.leave().splitlines():
            if not OURS.search(line):
                os.write(2, f"{line}\n".encode(errors="backslashreplace"))
            elif line.strip():
                note(PLACE.sub("", line).strip())
