"""What a file holds by its bytes: which decoder reads it, and in how many pieces.

A suffix says nothing here, and a header's length is believed only where the bytes agree with it.
Files that were joined end to end, and the links of an Ogg chain, are pieces of their own. Junk in
front is passed over. What had to be put right, or cannot be had, is said in `notes`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Literal

from frametx.audio import flac, mpeg, ogg, riff
from frametx.audio.spans import Span

Decoder = Literal["libsndfile", "ffmpeg", "either"]
LONGEST_FRAME_BYTES = 1_729  # of MPEG
MOST_OPUS_CHANNELS = 6  # that libsndfile decodes of any encoder
LONGEST_JUNK = 1 << 20  # bytes in front of a file's own beginning
KEEP_WHAT_IS_THERE = "fetch or copy it anew, or keep what is there with: ffmpeg -i OLD NEW"


def _beginnings(
    decoder: Decoder, *patterns: bytes
) -> tuple[tuple[re.Pattern[bytes], Decoder], ...]:
    return tuple((re.compile(pattern, re.DOTALL), decoder) for pattern in patterns)


# How files begin that decoders stop at the end of: further ones may be joined to them.
BEGINNINGS = (
    *_beginnings(
        "either",
        rb"caff\x00\x01\x00\x00desc",
        rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",  # W64
        rb"\.snd\x00\x00\x00[\x18-\xff].{4}\x00\x00\x00[\x01-\x1b]\x00[\x00-\x0b]",
    ),
    *_beginnings(
        "ffmpeg",
        rb"RIFF.{4}AVI LIST",
        rb"\x1aE\xdf\xa3.{1,56}?(?:webm|matroska)",
        rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",  # ASF
        rb"wvpk.{12}\x00{4}.{5}[\x08-\x0f\x18-\x1f\x28-\x2f\x38-\x3f]",
        rb"TTA1[\x01-\x03]\x00[\x01-\x08]\x00",
        rb"MAC [\x6e-\xff]\x0f",
    ),
)
SNDFILE_MARKS = (b".snd", b"dns.", b"caff", b"riff", b"NIST", b"Crea", b"2BIT", b" paf", b"fap ")
SNDFILE_MARKS += (b"Extended Instrument", b"PVF1", b"MATLAB", b"ALawSoundFile", b"\x64\xa3")
FFMPEG_MARKS = (
    *(b"\x1aE\xdf\xa3", b"FLV\1", b".RMF", b"wvpk", b"MAC ", b"TTA1", b"TTA2", b"MPCK", b"MP+"),
    *(b"tBaK", b"OFR ", b"ajkg", b"#!AMR", b"\x0bw", b"\x7f\xfe\x80\1", b"\0\0\1\xba", b"DSD "),
    *(b"FRM8", b"NUTc", b"\x06\x0e\x2b\x34"),
)


@dataclass(frozen=True)
class Piece:
    """One recording in a file.

    Attributes:
        spans: its bytes; empty means the whole file.
        decoder: `either` is libsndfile, and FFmpeg if that cannot.
        format: FFmpeg's word for the format; None lets it look.
        num_samples: how many there are; None leaves that to the decoder.
        lowest: libsndfile may count from here on ...
        highest: ... up to here; otherwise FFmpeg decodes the piece.
        kind: format and coding in libsndfile's words; None takes the decoder's.
        sample_rate: Hz, with `kind`.
        num_channels: C, with `kind`.
    """

    spans: tuple[Span, ...] = ()
    decoder: Decoder = "either"
    format: str | None = None
    num_samples: int | None = None
    lowest: int = 0
    highest: int | None = None
    kind: tuple[str, str] | None = None
    sample_rate: int = 0
    num_channels: int = 0


@dataclass(frozen=True)
class Contents:
    """The pieces of a file, and notes on it."""

    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()


def contents_of(path: Path) -> Contents:
    """Look into a file that is there and not empty.

    Raises:
        ValueError: if it is cut short, or holds no samples.
    """
    status = path.stat()
    return _contents_of(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=1 << 14)
def _contents_of(path: Path, size: int, mtime_ns: int, inode: int) -> Contents:
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        try:
            return _look(data, 0) or _behind_junk(data) or Contents((Piece(),))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _look(data: mmap, at: int) -> Contents | None:
    """What begins at a place; None if that is nothing known."""
    head = data[at : at + 400]
    if riff.is_riff(head[:12]):
        return _riff(data, at)
    if head.startswith(flac.MARKS):
        return _flac(data, at)
    if head[:5] == b"OggS\0":
        return _ogg(data, at)
    if head[4:8] == b"ftyp":
        return _several(_mp4_places(data, at), at, len(data), "ffmpeg")
    for beginning, decoder in BEGINNINGS:
        if beginning.match(head):
            _check_w64(data, at)
            places = [found.start() for found in beginning.finditer(data, at)]
            return _several(places, at, len(data), decoder)
    if at:
        return None
    is_adts = head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0
    is_stream = head[0:1] == head[188:189] == b"G" or head[4:5] == head[196:197] == b"G"
    if head.startswith(FFMPEG_MARKS) or is_adts or is_stream:
        return Contents((Piece(decoder="ffmpeg"),))
    if head.startswith(SNDFILE_MARKS):
        return Contents((Piece(),))
    if mpeg.is_mpeg(data, 0, len(data)):
        return _mpeg(data, 0, len(data))
    if head[:3] == b"ID3":
        return _look_behind_tag(data)
    return None


def _look_behind_tag(data: mmap) -> Contents | None:
    """ID3v2 in front of what is no MP3; libsndfile and FFmpeg both pass over it, mostly."""
    begin = mpeg.behind_tags(data, 0, len(data))
    return _look(data, begin) or Contents((Piece(spans=((begin, len(data)),), decoder="either"),))


def _behind_junk(data: mmap) -> Contents | None:
    """What begins after something else: zeros, the header of a download ..."""
    limit = min(len(data), LONGEST_JUNK)
    marks = (b"WAVEfmt ", b"WAVEds64", b"WAVEJUNK", b"WAVEbext", b"AIFFCOMM", b"AIFCFVER")
    begins = [(mark, 8) for mark in marks] + [(mark, 0) for mark in flac.MARKS]
    begins += [(b"OggS\0\2", 0), (b"ftypM4A ", 4), (b"ftypisom", 4), (b"ftypmp42", 4)]
    places = (data.find(mark, 0, limit) - before for mark, before in begins)
    for at in sorted(place for place in places if place > 0):
        found = _look(data, at)
        if found is not None:
            return _with_note(found, f"the {at} bytes in front of its beginning are left out")
    found = mpeg.walk(data, 0, len(data))
    if found is not None:
        behind = len(data) - found.runs[0][0]
        if 2 * sum(end - begin for begin, end in found.runs) > behind:
            return _mpeg(data, 0, len(data))
    return None


def _with_note(contents: Contents, note: str) -> Contents:
    return replace(contents, notes=(note, *contents.notes))


def _joined_note(num: int) -> tuple[str, ...]:
    return (f"holds {num} recordings one behind the other: all are read",) if num > 1 else ()


def _several(places: Sequence[int], begin: int, end: int, decoder: Decoder) -> Contents:
    """A file that begins at one or more places."""
    if len(places) < 2:
        return Contents((Piece(spans=((begin, end),) if begin else (), decoder=decoder),))
    pieces = tuple(Piece(spans=(pair,), decoder=decoder) for pair in pairwise([*places, end]))
    return Contents(pieces, _joined_note(len(pieces)))


def _check_w64(data: mmap, at: int) -> None:
    """Refuse a W64 that is shorter than it says: libsndfile takes what is left for the whole."""
    if data[at : at + 4] != b"riff":
        return
    at += 40
    while at + 24 <= len(data):
        size = int.from_bytes(data[at + 16 : at + 24], "little")
        if data[at : at + 4] == b"data" and (missing := at + size - len(data)) > 0:
            raise ValueError(
                f"cut short, {missing} bytes of its samples are missing: {KEEP_WHAT_IS_THERE}"
            )
        at += max(24, size + -size % 8)


def _mp4_places(data: mmap, at: int) -> list[int]:
    """Where an mp4 begins, box by box: joined ones have another `ftyp` further on."""
    places: list[int] = []
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if name == b"ftyp":
            places.append(at)
        if size < 8:
            break
        at += size
    return places


def _riff(data: mmap, begin: int) -> Contents:
    sheets = riff.walk(data, begin)
    if not sheets:
        return Contents((Piece(spans=((begin, len(data)),) if begin else ()),))
    found = [_sheet(data, sheet, is_plain=len(sheets) == 1 and not begin) for sheet in sheets]
    pieces = tuple(piece for contents in found for piece in contents.pieces)
    notes = tuple(note for contents in found for note in contents.notes)
    return Contents(pieces, (*_joined_note(len(sheets)), *notes))


def _sheet(data: mmap, sheet: riff.Sheet, *, is_plain: bool) -> Contents:
    behind = sheet.samples + sheet.num_bytes
    if sheet.missing >= max(sheet.block, LONGEST_FRAME_BYTES if sheet.is_mpeg else 0):
        raise ValueError(
            f"cut short, {sheet.missing} bytes of its samples are missing: {KEEP_WHAT_IS_THERE}"
        )
    if sheet.is_mpeg:
        found = _mpeg(data, sheet.samples, behind)
        if found is None or is_plain:
            return found or Contents((Piece(),))
        # Where files are joined, libsndfile's count of an MP3 would have to be exact.
        pieces = tuple(replace(piece, decoder="ffmpeg") for piece in found.pieces)
        return replace(found, pieces=pieces)
    if sheet.num_bytes <= 0:
        raise ValueError("holds no samples")
    notes: list[str] = []
    if sheet.is_unfinished:
        notes.append(
            f"its header does not count its samples, as of a recorder that was stopped: all of the "
            f"{sheet.num_bytes} bytes that are there are read"
        )
    if sheet.missing:
        notes.append("its last sample is cut and left out")
    if sheet.num_left:
        notes.append(f"{sheet.num_left} bytes behind its samples are left out: they are no sound")
    if is_plain and not sheet.patches:
        return Contents((Piece(),), tuple(notes))
    header = bytearray(data[sheet.begin : sheet.samples])
    for place, truth in sheet.patches:
        header[place - sheet.begin : place - sheet.begin + len(truth)] = truth
    return Contents((Piece(spans=(bytes(header), (sheet.samples, sheet.end))),), tuple(notes))


def _flac(data: mmap, begin: int) -> Contents:
    streams = flac.walk(data, begin)
    pieces = tuple(_flac_piece(data, one, is_plain=len(streams) == 1) for one in streams)
    notes = [
        f"its header counts {one.stated} samples of {one.counted}: all are read"
        for one in streams
        if one.counted is not None and 0 < one.stated < one.counted
    ]
    return Contents(pieces, (*_joined_note(len(streams)), *notes))


def _flac_piece(data: mmap, stream: flac.Flac, *, is_plain: bool) -> Piece:
    if stream.counted is not None and stream.counted < stream.stated:
        raise ValueError(
            f"cut short, ends at sample {stream.counted} of {stream.stated}: {KEEP_WHAT_IS_THERE}"
        )
    if stream.stated and (stream.counted is None or stream.counted == stream.stated):
        return Piece() if is_plain and not stream.begin else Piece(((stream.begin, stream.end),))
    packed = int.from_bytes(data[stream.begin + 18 : stream.begin + 22], "big")
    bits = (packed >> 4 & 31) + 1
    subtype = "PCM_S8" if bits <= 8 else "PCM_16" if bits <= 16 else "PCM_24"
    return Piece(
        ((stream.begin, stream.end),), "ffmpeg", "flac", stream.counted, kind=("FLAC", subtype)
    )


def _ogg(data: mmap, begin: int) -> Contents | None:
    found = ogg.walk(data, begin)
    if not found.links:
        return None
    notes = list(_joined_note(len(found.links)))
    if found.num_junk:
        notes.append(f"{found.num_junk} bytes between its pages are left out")
    if found.missing:
        notes.append(f"cut short in its last page: what follows is lost ({KEEP_WHAT_IS_THERE})")
    elif not all(link.is_ended for link in found.links):
        notes.append("does not end as an Ogg stream does: its end may be missing")
    if len(found.links) == 1 and not begin and found.links[0].runs == [(0, len(data))]:
        return Contents((_ogg_piece(found.links[0], spans=()),), tuple(notes))
    pieces = (_ogg_piece(link, spans=tuple(link.runs)) for link in found.links)
    return Contents(tuple(pieces), tuple(notes))


def _ogg_piece(link: ogg.Link, *, spans: tuple[Span, ...]) -> Piece:
    is_known = len(link.heads) == 1 and link.heads[0].startswith(
        (b"\x01vorbis", b"OpusHead", b"\x7fFLAC")
    )
    if link.heads[0].startswith(b"OpusHead") and link.heads[0][9] > MOST_OPUS_CHANNELS:
        return Piece(spans, "ffmpeg", kind=("OGG", "OPUS"))
    return Piece(spans, "either" if is_known else "ffmpeg")


def _mpeg(data: mmap, begin: int, end: int) -> Contents | None:
    found = mpeg.walk(data, begin, end)
    if found is None:
        return None
    rate, channels = found.kinds[0]
    piece = Piece(
        spans=tuple(found.runs),
        decoder="ffmpeg",
        format="mp3",
        num_samples=max(1, found.num_samples - found.decoder_delay),
        kind=("MP3", f"MPEG_LAYER_{'I' * found.layer}"),
        sample_rate=rate,
        num_channels=channels,
    )
    if found.num_recordings == 1 and len(found.kinds) == 1:
        piece = replace(
            piece,
            spans=() if _is_plain(data, found) else piece.spans,
            decoder="either",
            lowest=found.num_samples - found.edges,
            highest=found.num_samples + mpeg.LONGEST_FRAME,
        )
    return Contents((piece,), _mpeg_notes(found))


def _is_plain(data: mmap, found: mpeg.Mpeg) -> bool:
    """Whether there is nothing but an ID3v2 tag in front and an ID3v1 tag behind."""
    (begin, end), *others = found.runs
    is_first = begin == (mpeg.behind_tags(data, 0, len(data)) if begin else 0)
    is_last = end == len(data) or (data[end : end + 3] == b"TAG" and end + 128 == len(data))
    return not others and is_first and is_last


def _mpeg_notes(found: mpeg.Mpeg) -> tuple[str, ...]:
    notes = list(_joined_note(found.num_recordings))
    rate, channels = found.kinds[0]
    if len(found.kinds) > 1:
        others = ", ".join(f"{hz} Hz with {num} channel(s)" for hz, num in found.kinds[1:])
        notes.append(f"goes on in {others}: made {rate} Hz with {channels} channel(s) throughout")
    if found.num_junk:
        notes.append(f"{found.num_junk} bytes that are no MPEG frames are left out")
    short = 0 if found.promised is None else found.promised - found.num_samples
    if found.num_recordings > 1 or not short:
        return tuple(notes)
    if found.is_cut and short > rate:
        raise ValueError(
            f"cut short, ends at sample {found.num_samples} of {found.promised}: "
            f"{KEEP_WHAT_IS_THERE}"
        )
    if found.is_cut:
        notes.append(f"cut short, the last {short} samples are missing")
    elif abs(short) > mpeg.LONGEST_FRAME:
        notes.append(f"its header counts {found.promised} samples of {found.num_samples}: all read")
    return tuple(notes)
