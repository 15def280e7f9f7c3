"""The number of samples in FLAC files: stated in the header, and counted at the last frame."""

from dataclasses import dataclass
from mmap import mmap

# The mark of a file, and the header of the STREAMINFO block, the last one of its kind or not.
MARKS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
TAIL_BYTES = 1 << 17  # a frame at the end of a file is shorter
BLOCK_SIZES = {1: 192, **{2 + n: 576 << n for n in range(4)}, **{8 + n: 256 << n for n in range(8)}}


@dataclass(frozen=True)
class Flac:
    """One FLAC stream in a file.

    Attributes:
        begin: byte where it begins.
        end: byte behind it.
        stated: samples by its header, 0 where it does not say.
        counted: samples by its last frame, None where there is none that can be found.
    """

    begin: int
    end: int
    stated: int
    counted: int | None


def walk(data: mmap, begin: int) -> list[Flac]:
    """The streams of a file: more than one where files were joined."""
    begins = sorted(place for mark in MARKS for place in _places(data, mark, begin))
    ends = [*begins[1:], len(data)]
    return [
        Flac(first, end, stated, _counted(data, first, end, stated))
        for first, end in zip(begins, ends, strict=True)
        for stated in [_stated(data, first)]
    ]


def _places(data: mmap, mark: bytes, at: int) -> list[int]:
    places: list[int] = []
    while (at := data.find(mark, at)) >= 0:
        places.append(at)
        at += 1
    return places


def _stated(data: mmap, begin: int) -> int:
    """36 bits of the STREAMINFO block."""
    return int.from_bytes(data[begin + 21 : begin + 26], "big") & ((1 << 36) - 1)


def _counted(data: mmap, begin: int, end: int, stated: int) -> int | None:
    """Samples up to the end of the last frame, by the positions that frames state.

    Sound holds bytes that look like a frame's header, about one in a hundred files so near its end
    that they would be taken for the last one. So a position counts only where it is the stated
    end, or where the frame before ends.
    """
    fixed = int.from_bytes(data[begin + 10 : begin + 12], "big")  # largest block, in samples
    lowest = max(begin + 42, end - TAIL_BYTES)
    tail = data[lowest:end]
    starts: dict[int, int] = {}  # first sample of what may be a frame -> the sample behind it
    at = -1
    while (at := tail.find(b"\xff", at + 1)) >= 0:
        if tail[at + 1 : at + 2] in (b"\xf8", b"\xf9"):
            frame = _frame(tail[at : at + 16], fixed)
            if frame is not None:
                starts[frame[0]] = frame[1]
    if stated and stated in starts.values():
        return stated
    ends = set(starts.values())
    return max((behind for first, behind in starts.items() if first in ends), default=None)


def _frame(head: bytes, fixed: int) -> tuple[int, int] | None:
    """First sample of a frame and the one behind it, None if its header's sum is wrong."""
    if len(head) < 16:
        head += bytes(16 - len(head))
    size_code, rate_code = head[2] >> 4, head[2] & 15
    number, at = _coded_number(head, 4)
    if number is None or size_code == 0 or rate_code == 15 or head[3] & 1:
        return None
    size = BLOCK_SIZES.get(size_code, 0)
    if size_code in (6, 7):
        width = size_code - 5
        size = int.from_bytes(head[at : at + width], "big") + 1
        at += width
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    first = number if head[1] & 1 else number * fixed
    return first, first + size


def _coded_number(head: bytes, at: int) -> tuple[int | None, int]:
    """A number in the extended UTF-8 of FLAC, and where it ends."""
    first = head[at]
    if first < 0x80:
        return first, at + 1
    num_bytes = next((n for n in range(2, 8) if (first << n) & 0x80 == 0), 8)
    if first < 0xC0 or num_bytes == 8:
        return None, at
    number = first & ((1 << (7 - num_bytes)) - 1) if num_bytes < 7 else 0
    for byte in head[at + 1 : at + num_bytes]:
        if byte & 0xC0 != 0x80:
            return None, at
        number = number << 6 | byte & 0x3F
    return number, at + num_bytes


def _crc8(data: bytes) -> int:
    """The check sum of a frame's header: polynomial x^8 + x^2 + x + 1."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 & 0xFF ^ (7 if crc & 0x80 else 0)
    return crc
