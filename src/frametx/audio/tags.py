"""Tags and cover pictures of songs, moved to their stems across formats.

Title, artist ... have one set of names here (Vorbis's), whatever a format calls them. Read and
written with mutagen; a few formats that it does not know keep the strings of libsndfile.
What describes the sound of the song itself (loudness, encoder, fingerprints) is left behind: it is
not true of a stem.
"""

import base64
import errno
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import soundfile as sf
from mutagen import MutagenError
from mutagen.aiff import AIFF
from mutagen.asf import ASF
from mutagen.flac import FLAC
from mutagen.flac import Picture as FlacPicture
from mutagen.id3 import APIC, COMM, ID3, USLT, Frames
from mutagen.mp3 import MP3
from mutagen.mp4 import MP4, MP4Cover, MP4FreeForm
from mutagen.oggflac import OggFLAC
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE

from frametx.audio.readers import sound_file

FRONT_COVER = 3  # ID3's number, which FLAC and ASF share
LIBSNDFILE_FORMATS = ("RF64", "CAF")  # where mutagen cannot write, and libsndfile can
LIBSNDFILE_NAMES = ("title", "copyright", "artist", "comment", "date", "album", "genre")
ID3_FRAMES = {
    "title": "TIT2",
    "artist": "TPE1",
    "album": "TALB",
    "albumartist": "TPE2",
    "date": "TDRC",
    "tracknumber": "TRCK",
    "discnumber": "TPOS",
    "genre": "TCON",
    "composer": "TCOM",
    "lyricist": "TEXT",
    "conductor": "TPE3",
    "organization": "TPUB",
    "copyright": "TCOP",
    "isrc": "TSRC",
    "bpm": "TBPM",
}
FREE_FORM = "----:com.apple.iTunes:"
MP4_ATOMS = {
    "title": "\xa9nam",
    "artist": "\xa9ART",
    "album": "\xa9alb",
    "albumartist": "aART",
    "date": "\xa9day",
    "genre": "\xa9gen",
    "composer": "\xa9wrt",
    "comment": "\xa9cmt",
    "lyrics": "\xa9lyr",
    "copyright": "cprt",
    "lyricist": f"{FREE_FORM}LYRICIST",
    "conductor": f"{FREE_FORM}CONDUCTOR",
    "organization": f"{FREE_FORM}LABEL",
    "isrc": f"{FREE_FORM}ISRC",
}
MP4_PAIRS = {"tracknumber": "trkn", "discnumber": "disk"}
ASF_NAMES = {
    "title": "Title",
    "artist": "Author",
    "album": "WM/AlbumTitle",
    "albumartist": "WM/AlbumArtist",
    "date": "WM/Year",
    "tracknumber": "WM/TrackNumber",
    "discnumber": "WM/PartOfSet",
    "genre": "WM/Genre",
    "composer": "WM/Composer",
    "comment": "Description",
    "lyrics": "WM/Lyrics",
    "lyricist": "WM/Writer",
    "conductor": "WM/Conductor",
    "organization": "WM/Publisher",
    "copyright": "Copyright",
    "isrc": "WM/ISRC",
    "bpm": "WM/BeatsPerMinute",
}
NAMES = frozenset((*ID3_FRAMES, "comment", "lyrics"))
VORBIS_TOTALS = {
    "tracknumber": ("tracktotal", "totaltracks"),
    "discnumber": ("disctotal", "totaldiscs"),
}


@dataclass(frozen=True)
class Picture:
    """A picture of a song: the bytes of its file, their MIME type, and ID3's number of its kind."""

    data: bytes
    mime: str
    kind: int = FRONT_COVER
    description: str = ""


@dataclass(frozen=True)
class Tags:
    """What a file says of its song.

    Attributes:
        text: by the names of `NAMES`; several values are joined by "; ", and the numbers of tracks
            and discs are "3" or "3/12".
        pictures: the front cover, and any others.
        notes: why something could not be read.
    """

    text: dict[str, str] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def cover(self) -> Picture | None:
        """The front cover, or else the first picture."""
        fronts = (picture for picture in self.pictures if picture.kind == FRONT_COVER)
        return next(fronts, self.pictures[0] if self.pictures else None)


def read_tags(path: Path | str) -> Tags:
    """The tags of a file; empty with a note where they are broken: the song may still be good."""
    path = Path(path)
    try:
        kind = _kind(path)
        tags = Tags() if kind is None else _READERS[kind](path)
        return tags if tags.text else replace(tags, text=_libsndfile_strings(path))
    except Exception as error:
        # Whatever a parser says of damaged bytes: no song is lost over its tags.
        reason = " ".join(str(error).split()) or type(error).__name__
        return Tags(notes=(f"{path}: its tags cannot be read: {reason}",))


def write_tags(path: Path | str, tags: Tags) -> None:
    """Replace the tags of a file; its samples stay what they are.

    Raises:
        ValueError: if the file is of a format that takes no tags here, or is broken.
        OSError: if the disk does not take them.
    """
    path = Path(path)
    kind = _kind(path)
    if kind not in _WRITERS:
        raise ValueError(
            f"{path}: its format takes no tags: use wav, aiff, flac, ogg, opus, mp3 or m4a"
        )
    try:
        _WRITERS[kind](path, tags)
    except Exception as error:
        cause = error.args[0] if isinstance(error, MutagenError) and error.args else error
        if isinstance(cause, OSError):
            raise OSError(cause.errno or errno.EIO, cause.strerror, str(path)) from error
        # A number or a picture that the format has no room for, in the words of its parser.
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: tags cannot be written: {reason}") from error


def tags_for_stem(tags: Tags, stem: str, *, song: str | None = None) -> Tags:
    """The tags of a song's stem: its title names the stem, as in "Loreley (Vocals)".

    Args:
        tags: of the song.
        stem: its name.
        song: the title where the song has none; without it none is made up.
    """
    title = tags.text.get("title") or song
    if not title:
        return tags
    name = string.capwords(stem.replace("_", " "))
    return replace(tags, text=tags.text | {"title": f"{title} ({name})"})


def libsndfile_tags(tags: Tags) -> dict[str, str]:
    """The strings that libsndfile knows, for the formats of `LIBSNDFILE_FORMATS`."""
    return {name: tags.text[name] for name in LIBSNDFILE_NAMES if tags.text.get(name)}


def _kind(path: Path) -> str | None:
    """The format of a file by its first bytes: a temporary name says nothing."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:3] == b"ID3":
            length = 10 + sum(
                (byte & 0x7F) << shift
                for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)
            )
            file.seek(length)
            return "flac" if file.read(4) == b"fLaC" else "mp3"
    kinds = {
        "wav": head[:4] == b"RIFF" and head[8:12] == b"WAVE",
        "aiff": head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"),
        "flac": head[:4] == b"fLaC",
        "vorbis": head[:4] == b"OggS" and b"\x01vorbis" in head,
        "opus": head[:4] == b"OggS" and b"OpusHead" in head,
        "oggflac": head[:4] == b"OggS" and b"\x7fFLAC" in head,
        "mp4": head[4:8] == b"ftyp",
        "matroska": head[:4] == b"\x1aE\xdf\xa3",
        "asf": head[:4] == b"\x30\x26\xb2\x75",
        "mp3": len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4, 0xE6),
    }
    return next((kind for kind, is_it in kinds.items() if is_it), None)


def _tidy(text: Mapping[str, str]) -> dict[str, str]:
    stripped = {name: value.replace("\0", "; ").strip() for name, value in text.items()}
    return {name: value for name, value in stripped.items() if value}


def _joined(values: Iterable[object]) -> str:
    return "; ".join(str(value).strip() for value in values if str(value).strip())


def _from_id3(frames: ID3 | None) -> Tags:
    if frames is None:
        return Tags()
    text = {
        name: _joined(frames[key].genres if key == "TCON" else frames[key].text)
        for name, key in ID3_FRAMES.items()
        if key in frames
    }
    # Players keep their own data in comments with a description.
    plain = [frame for frame in frames.getall("COMM") if not frame.desc]
    text["comment"] = _joined(plain[0].text) if plain else ""
    text["lyrics"] = _joined(frame.text for frame in frames.getall("USLT")[:1])
    pictures = tuple(
        Picture(frame.data, frame.mime, int(frame.type), frame.desc)
        for frame in frames.getall("APIC")
        if frame.mime != "-->"  # an address
    )
    return Tags(_tidy(text), pictures)


def _fill_id3(frames: ID3, tags: Tags) -> None:
    frames.clear()
    for name, key in ID3_FRAMES.items():
        if value := tags.text.get(name):
            frames.add(Frames[key](encoding=3, text=[value]))
    if comment := tags.text.get("comment"):
        frames.add(COMM(encoding=3, lang="XXX", desc="", text=[comment]))
    if lyrics := tags.text.get("lyrics"):
        frames.add(USLT(encoding=3, lang="XXX", desc="", text=lyrics))
    descriptions: set[str] = set()
    for number, picture in enumerate(tags.pictures):
        # ID3 keeps one picture of each description.
        description = picture.description
        if description in descriptions:
            description = f"{description} {number}".strip()
        descriptions.add(description)
        frames.add(
            APIC(
                encoding=3,
                mime=picture.mime,
                type=picture.kind,
                desc=description,
                data=picture.data,
            )
        )


def _id3_reader(kind: Callable[..., Any]) -> Callable[[Path], Tags]:
    return lambda path: _from_id3(kind(path).tags)


def _id3_writer(kind: Callable[..., Any]) -> Callable[[Path, Tags], None]:
    def write(path: Path, tags: Tags) -> None:
        file = kind(path)
        if file.tags is None:
            file.add_tags()
        frames: Any = file.tags
        _fill_id3(frames, tags)
        file.save()

    return write


def _from_vorbis(comments: Any) -> Tags:
    found = {name: _joined(comments[name]) for name in NAMES if name in comments}
    text = _tidy(found)
    if "albumartist" not in text and "album artist" in comments:
        text |= _tidy({"albumartist": _joined(comments["album artist"])})
    if "lyrics" not in text and "unsyncedlyrics" in comments:
        text |= _tidy({"lyrics": _joined(comments["unsyncedlyrics"])})
    for name, totals in VORBIS_TOTALS.items():
        total = next((comments[key][0].strip() for key in totals if key in comments), "")
        if total and name in text and "/" not in text[name]:
            text[name] += f"/{total}"
    return Tags(text)


def _fill_vorbis(comments: Any, tags: Tags) -> None:
    comments.clear()
    for name, value in tags.text.items():
        number, _, total = value.partition("/")
        if name in VORBIS_TOTALS and total:
            comments[name], comments[VORBIS_TOTALS[name][0]] = [number], [total]
        else:
            comments[name] = [value]


def _from_flac_picture(picture: FlacPicture) -> Picture:
    return Picture(picture.data, picture.mime, int(picture.type), picture.desc)


def _to_flac_picture(picture: Picture) -> FlacPicture:
    made = FlacPicture()
    made.data, made.mime = picture.data, picture.mime
    made.type, made.desc = picture.kind, picture.description
    return made


def _read_flac(path: Path) -> Tags:
    file = FLAC(path)
    pictures = tuple(_from_flac_picture(picture) for picture in file.pictures)
    return replace(_from_vorbis(file.tags or {}), pictures=pictures)


def _write_flac(path: Path, tags: Tags) -> None:
    file = FLAC(path)
    if file.tags is None:
        file.add_tags()
    _fill_vorbis(file.tags, tags)
    file.clear_pictures()
    for picture in tags.pictures:
        file.add_picture(_to_flac_picture(picture))
    file.save()


def _ogg_reader(kind: Callable[..., Any]) -> Callable[[Path], Tags]:
    def read(path: Path) -> Tags:
        comments = kind(path).tags
        pictures = tuple(
            _from_flac_picture(FlacPicture(base64.b64decode(coded)))
            for coded in comments.get("metadata_block_picture", [])
        )
        return replace(_from_vorbis(comments), pictures=pictures)

    return read


def _ogg_writer(kind: Callable[..., Any]) -> Callable[[Path, Tags], None]:
    def write(path: Path, tags: Tags) -> None:
        file = kind(path)
        _fill_vorbis(file.tags, tags)
        coded = [base64.b64encode(_to_flac_picture(p).write()).decode() for p in tags.pictures]
        if coded:
            file.tags["metadata_block_picture"] = coded
        file.save()

    return write


def _read_mp4(path: Path) -> Tags:
    atoms: Any = MP4(path).tags
    if atoms is None:
        return Tags()
    text: dict[str, str] = {}
    for name, key in MP4_ATOMS.items():
        values = atoms.get(key, [])
        text[name] = _joined(v.decode() if isinstance(v, bytes) else v for v in values)
    for name, key in MP4_PAIRS.items():
        for number, total in atoms.get(key, [])[:1]:
            text[name] = f"{number}/{total}" if total else str(number or "")
    if atoms.get("tmpo"):
        text["bpm"] = str(atoms["tmpo"][0] or "")
    mimes = {MP4Cover.FORMAT_JPEG: "image/jpeg", MP4Cover.FORMAT_PNG: "image/png"}
    pictures = tuple(
        Picture(bytes(cover), mimes.get(cover.imageformat, "image/jpeg"))
        for cover in atoms.get("covr", [])
    )
    return Tags(_tidy(text), pictures)


def _write_mp4(path: Path, tags: Tags) -> None:
    file = MP4(path)
    if file.tags is None:
        file.add_tags()
    atoms: Any = file.tags
    atoms.clear()
    for name, key in MP4_ATOMS.items():
        if value := tags.text.get(name):
            is_free = key.startswith(FREE_FORM)
            atoms[key] = [MP4FreeForm(value.encode()) if is_free else value]
    for name, key in MP4_PAIRS.items():
        number, _, total = tags.text.get(name, "").partition("/")
        if number.strip().isdigit():
            atoms[key] = [(int(number), int(total) if total.strip().isdigit() else 0)]
    if (bpm := tags.text.get("bpm", "")).isdigit():
        atoms["tmpo"] = [int(bpm)]
    formats = {"image/jpeg": MP4Cover.FORMAT_JPEG, "image/png": MP4Cover.FORMAT_PNG}
    covers = [MP4Cover(p.data, formats[p.mime]) for p in tags.pictures if p.mime in formats]
    if covers:
        atoms["covr"] = covers
    file.save()


def _read_asf(path: Path) -> Tags:
    attributes: Any = ASF(path).tags
    names = {name: key for name, key in ASF_NAMES.items() if key in attributes}
    text = {name: _joined(attributes[key]) for name, key in names.items()}
    pictures = tuple(_from_asf(bytes(value.value)) for value in attributes.get("WM/Picture", []))
    return Tags(_tidy(text), pictures)


def _from_asf(packed: bytes) -> Picture:
    """WM/Picture: a byte, the length of the data, MIME type and description in UTF-16, the data."""
    length = int.from_bytes(packed[1:5], "little")
    words, at = [], 5
    for _ in range(2):
        end = at
        while packed[end : end + 2] != b"\0\0":
            end += 2
            if end >= len(packed):
                raise ValueError("a picture without an end to its description")
        words.append(packed[at:end].decode("utf-16-le"))
        at = end + 2
    return Picture(packed[at : at + length], words[0], packed[0], words[1])


def _read_matroska(path: Path) -> Tags:
    """The text of mkv and webm."""
    import av

    with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
        found = {name.lower(): value for name, value in container.metadata.items()}
    called = {"albumartist": "album_artist", "tracknumber": "track", "discnumber": "disc"}
    text = {name: found.get(called.get(name, name)) or found.get(name, "") for name in NAMES}
    return Tags(_tidy(text))


def _libsndfile_strings(path: Path) -> dict[str, str]:
    """What wav, aiff and caf hold in chunks of their own, which mutagen does not read."""
    try:
        with sound_file(path) as file:
            return _tidy({k: v for k, v in file.copy_metadata().items() if k in NAMES})
    except sf.LibsndfileError:
        return {}


_READERS: dict[str, Callable[[Path], Tags]] = {
    "wav": _id3_reader(WAVE),
    "aiff": _id3_reader(AIFF),
    "mp3": _id3_reader(MP3),
    "flac": _read_flac,
    "vorbis": _ogg_reader(OggVorbis),
    "opus": _ogg_reader(OggOpus),
    "oggflac": _ogg_reader(OggFLAC),
    "mp4": _read_mp4,
    "asf": _read_asf,
    "matroska": _read_matroska,
}
_WRITERS: dict[str | None, Callable[[Path, Tags], None]] = {
    "wav": _id3_writer(WAVE),
    "aiff": _id3_writer(AIFF),
    "mp3": _id3_writer(MP3),
    "flac": _write_flac,
    "vorbis": _ogg_writer(OggVorbis),
    "opus": _ogg_writer(OggOpus),
    "oggflac": _ogg_writer(OggFLAC),
    "mp4": _write_mp4,
}
