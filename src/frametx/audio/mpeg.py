"""MPEG audio (MP3, MP2) frame by frame: how many samples there are, and where.

A header's count of frames (Xing, VBRI) may be missing, wrong, or of the first of several joined
files; without one, decoders guess from the first frame's bit rate. Only the frames themselves are
certain. Walking over their headers takes about 3 ms for a song of four minutes, a hundredth of what
decoding it takes; mutagen believes the header or guesses, and FFmpeg takes tags and pictures
between the frames for sound.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from mmap import mmap

VERSIONS = {3: 1, 2: 2, 0: 2.5}
BITRATES = {  # kbit/s by (version 1 or not, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {1: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 2.5: (11_025, 12_000, 8_000)}
DECODER_DELAY = 529  # samples, of every decoder of layer III
LONGEST_FRAME = 1_152  # samples
KIND = 0xFE0C  # of the second and third byte of a header: version, layer and sample rate
LONGEST_SEARCH = 1 << 20  # bytes without a frame, before the first and between any two


@dataclass(frozen=True)
class Frame:
    """What a frame's header says: its length in bytes and in samples, and its sample rate."""

    num_bytes: int
    num_samples: int
    sample_rate: int
    layer: int


def _frame(second: int, third: int) -> Frame | None:
    """The frame of a header's second and third byte, None if there is no such frame."""
    version, layer = VERSIONS.get(second >> 3 & 3), 4 - (second >> 1 & 3)
    bitrate, rate = third >> 4, third >> 2 & 3
    if second < 0xE0 or version is None or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    num_samples = 384 if layer == 1 else 1_152 if layer == 2 or version == 1 else 576
    hz = RATES[version][rate]
    bits = BITRATES[version == 1, layer][bitrate] * 1_000
    padding = third >> 1 & 1
    if layer == 1:
        return Frame((12 * bits // hz + padding) * 4, num_samples, hz, layer)
    return Frame(num_samples // 8 * bits // hz + padding, num_samples, hz, layer)


FRAMES = [_frame(code >> 8, code & 0xFF) for code in range(1 << 16)]
LENGTHS = [0 if frame is None else frame.num_bytes for frame in FRAMES]


@dataclass
class Mpeg:
    """The frames of a file, or of a range of it.

    Attributes:
        runs: byte ranges of frames without anything between them.
        frames: header bytes two and three, with the number of channels -> how many frames have
            them, in the order of their first frame.
        info_frames: byte positions of frames that hold a Xing, Info or VBRI header.
        delay: samples that the encoder put in front, as the first of these says.
        edges: samples that it put in front and behind.
        info_count: frames that the first of these counts.
        info_bytes: bytes that it counts.
        num_junk: bytes between the frames that are no tags.
        missing: bytes that the last frame lacks.
    """

    runs: list[tuple[int, int]] = field(default_factory=list)
    frames: dict[tuple[int, int], int] = field(default_factory=dict)
    info_frames: list[int] = field(default_factory=list)
    delay: int = 0
    edges: int = 0
    info_count: int | None = None
    info_bytes: int | None = None
    num_junk: int = 0
    missing: int = 0

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """Pairs of sample rate and number of channels, in the order of their first frame."""
        pairs = ((_known(code).sample_rate, channels) for code, channels in self.frames)
        return list(dict.fromkeys(pairs))

    @property
    def layer(self) -> int:
        """1, 2 or 3."""
        return _known(next(iter(self.frames))[0]).layer

    @property
    def num_samples(self) -> int:
        """All samples, at the first frame's rate; the first header frame holds none."""
        rate = self.kinds[0][0]
        samples = {code: _known(code) for code, _ in self.frames}
        total = sum(
            count * samples[code].num_samples * rate / samples[code].sample_rate
            for (code, _), count in self.frames.items()
        )
        silent = samples[next(iter(samples))].num_samples if self.has_info_first else 0
        return round(total) - silent

    @property
    def has_info_first(self) -> bool:
        """Whether the very first frame is a header frame."""
        return bool(self.info_frames) and self.info_frames[0] == self.runs[0][0]

    @property
    def num_recordings(self) -> int:
        """How many files were joined, as far as their header frames tell."""
        later = len(self.info_frames) - self.has_info_first
        return 1 + later

    @property
    def decoder_delay(self) -> int:
        """Samples that FFmpeg leaves out in front."""
        return self.delay + DECODER_DELAY if self.delay else 0

    @property
    def is_cut(self) -> bool:
        """Whether the end is missing, if the header promises more: by its count of bytes."""
        if not self.info_bytes:
            return True
        return self.info_bytes > 1.01 * sum(end - begin for begin, end in self.runs)

    @property
    def promised(self) -> int | None:
        """Samples that the first header frame promises."""
        if self.info_count is None or not self.has_info_first:
            return None
        return self.info_count * _known(next(iter(self.frames))[0]).num_samples


def _known(code: int) -> Frame:
    frame = FRAMES[code]
    assert frame is not None
    return frame


def is_mpeg(data: mmap, begin: int, end: int) -> bool:
    """Whether MPEG frames begin here, behind any ID3v2 tags and their padding."""
    at = behind_tags(data, begin, end)
    if at > begin and data[at : at + 1] == b"\0":
        at = next(_places_of_frames(data, at, end), end)
    return _is_start(data, at, end)


def walk(data: mmap, begin: int, end: int) -> Mpeg | None:
    """Walk over all frames between two places of a file; None if there is none."""
    found = Mpeg()
    at = begin
    while at < end:
        start, at = at, _walk_run(data, at, end, found)
        if at > start:
            found.runs.append((start, at))
        if at >= end or found.missing:
            break
        behind = behind_tags(data, at, end)
        following = next(_places_of_frames(data, behind, end), None)
        found.num_junk += _num_junk(data, behind, end if following is None else following)
        if following is None:
            break
        at = following
    if not found.frames:
        return None
    _find_info(data, found)
    return found


def _walk_run(data: mmap, at: int, end: int, found: Mpeg) -> int:
    """Count frames that follow one another; gives where that ends."""
    frames, lengths = found.frames, LENGTHS
    last = end - 4
    while at <= last and data[at] == 0xFF:
        code = data[at + 1] << 8 | data[at + 2]
        length = lengths[code]
        if not length:
            break
        if at + length > end:
            found.missing = at + length - end
            break
        key = (code, 1 if data[at + 3] >= 0xC0 else 2)
        frames[key] = frames.get(key, 0) + 1
        at += length
    return at


def _is_start(data: mmap, at: int, end: int) -> bool:
    """Whether a frame begins here, and others of its kind behind it, or the end."""
    kind = None
    for _ in range(3):
        if kind is not None and (at >= end or behind_tags(data, at, end) > at):
            return True
        if at + 4 > end or data[at] != 0xFF:
            return False
        code = data[at + 1] << 8 | data[at + 2]
        if not LENGTHS[code] or (kind is not None and code & KIND != kind):
            return False
        kind = code & KIND
        at += LENGTHS[code]
    return True


def _places_of_frames(data: mmap, at: int, end: int) -> Iterator[int]:
    limit = min(end, at + LONGEST_SEARCH)
    while (at := data.find(b"\xff", at, limit)) >= 0:
        if _is_start(data, at, end):
            yield at
        at += 1


def behind_tags(data: mmap, at: int, end: int) -> int:
    """The place behind any ID3v2, ID3v1, APE and Lyrics3 tags that begin here."""
    while at < end:
        head = data[at : at + 32]
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
            size = sum(
                byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)
            )
            length = 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:3] == b"TAG" and head[:8] != b"TAGGED":
            length = 227 if head[:4] == b"TAG+" else 128
        elif head[:8] == b"APETAGEX":
            has_header = bool(int.from_bytes(head[20:24], "little") & 1 << 31)
            length = int.from_bytes(head[12:16], "little") + (32 if has_header else 0)
        elif head[:11] == b"LYRICSBEGIN":
            length = (
                max(data.find(b"LYRICS200", at, end), data.find(b"LYRICSEND", at, end)) + 9 - at
            )
        else:
            break
        if length <= 0:
            break
        at += length
    return min(at, end)


def _num_junk(data: mmap, begin: int, end: int) -> int:
    """How many of these bytes are no padding."""
    return 0 if not data[begin:end].strip(b"\0") else end - begin


def _find_info(data: mmap, found: Mpeg) -> None:
    """Look for header frames: the very first, and those that begin a joined file."""
    for begin, end in found.runs:
        for mark in (b"Xing", b"Info", b"VBRI"):
            at = begin
            while (at := data.find(mark, at, end)) >= 0:
                start = _start_of_info(data, begin, at, mark)
                if start is not None:
                    found.info_frames.append(start)
                at += 4
    found.info_frames.sort()
    if found.has_info_first:
        _read_info(data, found)


def _start_of_info(data: mmap, begin: int, at: int, mark: bytes) -> int | None:
    """The start of the frame whose header has its mark here, None if no frame begins there."""
    for offset in (36,) if mark == b"VBRI" else (36, 21, 13, 38, 23, 15):
        start = at - offset
        if start >= begin and data[start] == 0xFF:
            code = data[start + 1] << 8 | data[start + 2]
            # Between header and mark there is nothing but zeros, unlike in a frame of sound.
            is_empty = not data[start + 6 : at].strip(b"\0") or mark == b"VBRI"
            if LENGTHS[code] and is_empty:
                return start
    return None


def _read_info(data: mmap, found: Mpeg) -> None:
    start = found.info_frames[0]
    frame = data[start : start + 200]
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0:
        at = frame.find(b"VBRI")
        found.info_count = int.from_bytes(frame[at + 14 : at + 18], "big")
        return
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    if flags & 1:
        found.info_count = int.from_bytes(frame[at + 8 : at + 12], "big")
    if flags & 2:
        found.info_bytes = int.from_bytes(frame[at + 8 + 4 * (flags & 1) :][:4], "big")
    at += 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    if frame[at : at + 1].strip(b"\0"):  # the encoder's name, and what stands behind it
        packed = int.from_bytes(frame[at + 21 : at + 24], "big")
        found.delay, found.edges = packed >> 12, (packed >> 12) + (packed & 0xFFF)
