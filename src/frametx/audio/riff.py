"""WAV and AIFF files chunk by chunk: where their samples are, whatever the header says.

A recorder that was stopped by a crash leaves sizes of 0; a program that writes into a pipe, the
largest number; more than 4 GiB, what is left of the number in 32 bits.
"""

from dataclasses import dataclass, field
from mmap import mmap
from typing import Literal

HEADS = {b"RIFF": b"WAVE", b"RF64": b"WAVE", b"FORM": b"AIF"}
UNKNOWN = 0xFFFFFFFF
PIPE = 0x7FFF0000  # from here on a size is what programs write that cannot know it
MPEG_TAGS = (0x50, 0x55)  # of the samples of a WAV: MP2 and MP3
PADDING = 1 << 20  # zeros behind the chunks that are looked at
NO_SOUND = (b"TAG", b"ID3", b"APETAGEX")  # tags behind the chunks


@dataclass(frozen=True)
class Sheet:
    """One WAV or AIFF file, perhaps one of several that were joined.

    Attributes:
        begin: byte where it begins.
        samples: where its samples begin, of which `num_bytes` are there.
        num_bytes: of samples.
        stated: bytes of samples by its header.
        block: bytes of a sample of all channels (of a block, for codecs that have these).
        is_mpeg: whether the samples are an MPEG stream.
        end: byte behind its last chunk.
        num_left: bytes behind it that are no chunk.
        patches: (place, bytes) that make its header tell the truth.
    """

    begin: int
    samples: int
    num_bytes: int
    stated: int
    block: int
    is_mpeg: bool
    end: int
    num_left: int
    patches: tuple[tuple[int, bytes], ...]

    @property
    def is_unfinished(self) -> bool:
        """Whether its header does not count the samples, or not all of them."""
        return bool(self.patches)

    @property
    def missing(self) -> int:
        """How many bytes of samples its header states and the file lacks."""
        return max(0, self.stated - self.num_bytes) if self.stated < PIPE else 0


def is_riff(head: bytes) -> bool:
    """Whether these first twelve bytes are of a WAV or AIFF file."""
    kind = HEADS.get(head[:4])
    return kind is not None and head[8:].startswith(kind)


def walk(data: mmap, begin: int) -> list[Sheet]:
    """The WAV or AIFF files from a place on; empty where libsndfile had better look itself."""
    found: list[Sheet] = []
    at = begin
    while is_riff(data[at : at + 12]):
        sheet = _read(data, at)
        if sheet is None:
            return found
        found.append(sheet)
        at = sheet.end
    return found


@dataclass
class _Header:
    """What stands in front of the samples."""

    begin: int
    is_wave: bool
    block: int = 1
    is_mpeg: bool = False
    ds64: int | None = None  # bytes of samples, where 32 bits do not hold them
    patches: list[tuple[int, bytes]] = field(default_factory=list)
    counts_at: int | None = None  # where an AIFF counts its samples

    @property
    def order(self) -> Literal["little", "big"]:
        return "little" if self.is_wave else "big"

    @property
    def skipped(self) -> int:
        """Bytes of the chunk before its samples: an AIFF's offset and size of blocks."""
        return 0 if self.is_wave else 8


def _read(data: mmap, begin: int) -> Sheet | None:
    header = _Header(begin, is_wave=data[begin : begin + 4] != b"FORM")
    at = begin + 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], header.order)
        if name in (b"data", b"SSND"):
            known = header.ds64 if header.ds64 is not None and size == UNKNOWN else size
            return _sheet(data, header, at + 8, known)
        _read_chunk(data, header, name, at + 8)
        at += 8 + size + size % 2
    return None


def _read_chunk(data: mmap, header: _Header, name: bytes, body: int) -> None:
    if name == b"fmt ":
        header.is_mpeg = int.from_bytes(data[body : body + 2], "little") in MPEG_TAGS
        header.block = int.from_bytes(data[body + 12 : body + 14], "little") or 1
    elif name == b"COMM":
        channels, bits = (int.from_bytes(data[body + n : body + n + 2], "big") for n in (0, 6))
        header.block = channels * -(-bits // 8) or 1
        header.counts_at = body + 2
    elif name == b"ds64":
        header.ds64 = int.from_bytes(data[body + 8 : body + 16], "little")
        header.patches.append((body - 8, b"JUNK"))


def _sheet(data: mmap, header: _Header, body: int, size: int) -> Sheet:
    available = len(data) - body
    actual = min(size, available)
    end, is_chain = _behind_chunks(data, body + actual, header.order)
    is_wrong = False
    if size <= header.skipped < available and not is_chain:
        actual, is_wrong = available, True
    elif not is_chain and (available - actual) >> 32:
        actual, is_wrong = size + ((available - size) >> 32 << 32), True
    if is_wrong:
        end, _ = _behind_chunks(data, body + actual, header.order)
    return Sheet(
        begin=header.begin,
        samples=body + header.skipped,
        num_bytes=actual - header.skipped,
        stated=max(0, size - header.skipped),
        block=header.block,
        is_mpeg=header.is_mpeg,
        end=end,
        num_left=_num_left(data, end),
        patches=_truth(header, body, actual) if is_wrong else (),
    )


def _num_left(data: mmap, end: int) -> int:
    """Bytes from here on that are no file, no tag and no padding."""
    head = data[end : end + 12]
    if is_riff(head) or head.startswith(NO_SOUND) or not data[end : end + PADDING].strip(b"\0"):
        return 0
    return len(data) - end


def _truth(header: _Header, body: int, actual: int) -> tuple[tuple[int, bytes], ...]:
    """What is to be written over a header so that it counts the samples that are there."""
    whole = min(body + actual - header.begin - 8, UNKNOWN)
    size = actual if actual < PIPE else UNKNOWN
    patches = [*header.patches, (body - 4, size.to_bytes(4, header.order))]
    if header.is_wave:
        return (header.begin, b"RIFF" + whole.to_bytes(4, "little")), *patches
    if header.counts_at is not None:
        frames = (actual - header.skipped) // header.block
        patches.append((header.counts_at, frames.to_bytes(4, "big")))
    return (header.begin + 4, whole.to_bytes(4, "big")), *patches


def _behind_chunks(data: mmap, at: int, order: Literal["little", "big"]) -> tuple[int, bool]:
    """Where the chunks end that begin here, and whether they reach the end (or a joined file)."""
    at = min(at, len(data))
    for start in (at + at % 2, at):  # some programs leave out the byte that makes a chunk even
        place = start
        while place < len(data):
            head = data[place : place + 12]
            if is_riff(head):
                return place, True
            size = int.from_bytes(head[4:8], order)
            is_name = len(head) >= 8 and head[:4].isascii() and head[:4].decode().isprintable()
            if not is_name or place + 8 + size > len(data):
                break
            place += 8 + size + size % 2
        if place >= len(data):
            return len(data), True
        if place > start:
            return place, False
    return at, False
