"""Files and folders that exist only while a process works, named so that a later one can tell.

A process that is killed cannot delete them. Their names say whose they are: the process's number,
and a mark of the machine that counts processes so, because a network disk is shared by several.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path

PART = re.compile(r"\.([0-9a-f]+)-(?:([0-9a-f]{6})-)?[0-9a-f]{8}\.part")
FOLDER = re.compile(r"frametx-(?:app-)?([0-9a-f]+)-([0-9a-f]{6})-.+")
STARTED = time.time()
FORGOTTEN_SECONDS = 7 * 24 * 3600.0  # unchanged for so long, nobody is writing it any more
CLOCK_SECONDS = 5.0  # by which a disk's clock may differ from ours


@cache
def machine_mark() -> str:
    """Six digits that stand for the machine, or container, whose process numbers are ours."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it is no path
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:6]


def part_beside(path: Path) -> Path:
    """A name for a file while it is not whole: hidden, and no other writer's."""
    # Short, so that it is a name wherever the final one is.
    own = f".{os.getpid():x}-{machine_mark()}-{secrets.token_hex(4)}.part"
    return path.with_name(own)


def temporary_folder(kind: str = "") -> AbstractContextManager[str]:
    """A folder in the system's temporary one, deleted at the end of the context."""
    prefix = f"frametx-{kind}{os.getpid():x}-{machine_mark()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)


def clear_parts(folders: Iterable[Path]) -> None:
    """Delete what dead processes left unfinished in these folders, not in those below them."""
    for folder in set(folders):
        with suppress(OSError), os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if PART.fullmatch(entry.name)]
            for path in found:
                _delete_if_dead(path, PART)


def clear_folders() -> None:
    """Delete the temporary folders of dead processes."""
    with suppress(OSError):
        for path in list(Path(tempfile.gettempdir()).glob("frametx-*")):
            _delete_if_dead(path, FOLDER)


def _delete_if_dead(path: Path, pattern: re.Pattern[str]) -> None:
    named = pattern.fullmatch(path.name)
    if named is None:
        return
    with suppress(OSError):
        state = path.lstat()
        is_own = not hasattr(os, "getuid") or state.st_uid == os.getuid()
        if not is_own or not _is_dead(int(named[1], 16), named[2], state.st_mtime):
            return
        if stat.S_ISREG(state.st_mode):
            path.unlink()
        elif stat.S_ISDIR(state.st_mode) and pattern is FOLDER:
            shutil.rmtree(path, ignore_errors=True)


def _is_dead(process: int, mark: str | None, changed: float) -> bool:
    """Whether the process that made something is gone, as far as this machine can know."""
    if mark != machine_mark() or os.name != "posix":
        return time.time() - changed > FORGOTTEN_SECONDS
    if process == os.getpid():  # an earlier process of the same number, as in containers
        return changed < STARTED - CLOCK_SECONDS
    try:
        os.kill(process, 0)  # asks only
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
