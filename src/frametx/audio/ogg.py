"""Pages of Ogg files: the links of a chain, and whether its end is there.

Recordings of radio streams are chains: whole Ogg streams one behind the other, one for each song.
libsndfile decodes the first of them.
"""

from dataclasses import dataclass, field
from mmap import mmap

PAGE = b"OggS"
HEADER_BYTES = 27
CONTINUED, FIRST, LAST = 1, 2, 4  # flags of a page
NO_GRANULE = (1 << 64) - 1


@dataclass
class Link:
    """One whole Ogg stream (or several at once, as in a video).

    Attributes:
        runs: byte ranges of its pages without anything between them.
        heads: the first bytes of each of its streams.
        first_granule: position at the end of the first page that holds sound.
        last_granule: position at the end of the last page.
        is_ended: whether its last page says that it is the last.
    """

    runs: list[tuple[int, int]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    first_granule: int = 0
    last_granule: int = 0
    is_ended: bool = False


@dataclass
class Ogg:
    """All links of a file; `missing`: bytes that the last page lacks, `num_junk`: between pages."""

    links: list[Link] = field(default_factory=list)
    num_junk: int = 0
    missing: int = 0


def walk(data: mmap, begin: int) -> Ogg:
    """Walk over all pages from a place on."""
    found = Ogg()
    at, end = begin, len(data)
    is_head = False  # whether the page before began a stream
    while at < end:
        length = _page_bytes(data, at)
        if length is None:
            following = data.find(PAGE, at + 1)
            following = end if following < 0 else following
            found.num_junk += following - at if data[at:following].strip(b"\0") else 0
            at = following
            continue
        if at + length > end:
            found.missing = at + length - end
            break
        flags = data[at + 5]
        if flags & FIRST:
            if not is_head:
                found.links.append(Link())
            found.links[-1].heads.append(data[at + HEADER_BYTES + data[at + 26] :][:64])
        is_head = bool(flags & FIRST)
        if found.links:
            _add(found.links[-1], data, at, length)
        else:
            found.num_junk += length  # the middle of a stream whose head is lost
        at += length
    return found


def _add(link: Link, data: mmap, at: int, length: int) -> None:
    granule = int.from_bytes(data[at + 6 : at + 14], "little")
    if granule not in (0, NO_GRANULE):
        link.first_granule = link.first_granule or granule
        link.last_granule = granule
    link.is_ended = bool(data[at + 5] & LAST)
    if link.runs and link.runs[-1][1] == at:
        link.runs[-1] = (link.runs[-1][0], at + length)
    else:
        link.runs.append((at, at + length))


def _page_bytes(data: mmap, at: int) -> int | None:
    """Length of the page that begins here, None if none does."""
    if data[at : at + 5] != PAGE + b"\0":
        return None
    head = data[at : at + HEADER_BYTES]
    if len(head) < HEADER_BYTES:
        return HEADER_BYTES
    segments = data[at + HEADER_BYTES : at + HEADER_BYTES + head[26]]
    return HEADER_BYTES + head[26] + sum(segments)
