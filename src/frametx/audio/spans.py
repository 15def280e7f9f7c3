"""Ranges of a file (or bytes) one behind the other, as one file that can be read and sought in."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

Span = bytes | tuple[int, int]
"""Bytes of its own, or a range (begin, end) of the file."""


class Spans(io.RawIOBase):
    """A readable file made of spans of another; what lies between them is left out.

    Args:
        path: of the file that the ranges are of.
        spans: in order.
    """

    def __init__(self, path: Path, spans: Sequence[Span]) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._spans = [span for span in spans if _length(span)]
        self._ends = list(accumulate(map(_length, self._spans)))
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Position in the joined bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position in the joined bytes."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.num_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    @property
    def num_bytes(self) -> int:
        """Length of the joined bytes."""
        return self._ends[-1] if self._ends else 0

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes from here on, all that is left if negative."""
        left = max(0, self.num_bytes - self._at)
        wanted = left if size < 0 else min(size, left)
        parts: list[bytes] = []
        while wanted:
            number = bisect_right(self._ends, self._at)
            span = self._spans[number]
            into = self._at - (self._ends[number] - _length(span))
            part = self._part(span, into, min(wanted, self._ends[number] - self._at))
            if not part:  # the file has shrunk
                break
            parts.append(part)
            self._at += len(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer as far as there are bytes."""
        view = memoryview(buffer).cast("B")
        part = self.read(len(view))
        view[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """Close the file as well."""
        self._file.close()
        super().close()

    def _part(self, span: Span, into: int, size: int) -> bytes:
        if isinstance(span, bytes):
            return span[into : into + size]
        self._file.seek(span[0] + into)
        return self._file.read(size)


def _length(span: Span) -> int:
    return len(span) if isinstance(span, bytes) else max(0, span[1] - span[0])
