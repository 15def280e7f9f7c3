"""Which songs an input names, and which file each stem of them goes to."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO

from frametx.unfinished import temporary_folder

# In a folder all else is left alone; which of these can be read is found out when they are opened.
AUDIO_SUFFIXES = frozenset(
    f".{name}"
    for names in (
        "wav w64 rf64 flac ogg oga opus spx mp1 mp2 mp3 mpga aif aiff aifc caf au",
        "m4a m4b m4r aac wma asf mp4 m4v mov 3gp 3g2 mkv mka webm weba avi",
        "mpg mpeg m2ts mts vob flv wmv ac3 eac3 ape wv tta tak amr mpc dsf ogv ogx",
    )
    for name in names.split()
)
# Also the suffixes of programs and of device trees: of these the bytes decide.
SHARED_SUFFIXES = {".ts": (b"G", 188), ".dts": (b"\x7f\xfe\x80\x01", 0)}
DEFAULT_NAME = "{folder}/{song}/{stem}"
FIELDS = ("folder", "song", "stem", "model", "artist", "title", "album", "track")
TAG_FIELDS = ("artist", "title", "album", "track")
STEM = "\0"  # stands for the stem in a name that is filled in but for that
NAME_BYTES = 255  # what file systems take
SUFFIX_BYTES = 10  # that a stem's suffix is given of these
FORBIDDEN = dict.fromkeys((*map(ord, '<>:"/\\|?*'), *range(32), 127), "_")
INVISIBLE = "\u034f\u115f\u1160\u3164\uffa0"  # letters and marks by their kind, and yet unseen
JOINERS = "\u200c\u200d"  # unseen too, but part of how some scripts and emoji are written
# Names that mean a device on Windows, whatever follows their first dot.
DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE
)
PLAYLIST = "a playlist: give the files that it lists instead, such as input='folder/*.flac'"
ARCHIVE = "an archive: unpack it, and give the folder as input"
NO_SOUND = "no sound: give an audio file, a folder or a glob in quotes"
SIGNATURES = (
    (b"PK\x03\x04", ARCHIVE),
    (b"PK\x05\x06", ARCHIVE),
    (b"Rar!\x1a\x07", ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"\x1f\x8b\x08", ARCHIVE),
    (b"BZh", ARCHIVE),
    (b"\xfd7zXZ\x00", ARCHIVE),
    (b"\x28\xb5\x2f\xfd", ARCHIVE),
    (b"%PDF-", f"a PDF, {NO_SOUND}"),
    (b"\x89PNG", f"a picture, {NO_SOUND}"),
    (b"\xff\xd8\xff", f"a picture, {NO_SOUND}"),
    (b"GIF8", f"a picture, {NO_SOUND}"),
    (b"#EXTM3U", PLAYLIST),
    (b"[playlist]", PLAYLIST),
)
TEXTS = {
    **dict.fromkeys((".m3u", ".m3u8", ".pls", ".xspf", ".wpl", ".asx", ".wax"), PLAYLIST),
    ".cue": "a cue sheet: give the audio file that it names as input instead",
    **dict.fromkeys((".txt", ".md", ".html", ".xml", ".csv"), f"a text, {NO_SOUND}"),
    ".json": 'no list of an album: that holds {"convert": [files], "copy": [files]}',
}
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".iso")
HEAD_BYTES = 4096


@dataclass(frozen=True)
class Song:
    """A file, and what is known of it before it is opened.

    Attributes:
        source: the file.
        below: its path below the input that named it.
        is_stem: whether it is one stem already, to be copied instead of being separated.
        stem: which; None leaves that to the model.
    """

    source: Path
    below: Path
    is_stem: bool = False
    stem: str | None = None


@dataclass(frozen=True)
class Job:
    """A file, the folder that holds all of its stems, and how they are named in it.

    Attributes:
        source: the song.
        folder: the stems are in it or in folders below.
        name: path of a stem's file below `folder` without suffix; STEM stands for the stem.
        is_stem: whether the song is one stem already, to be copied instead of being separated.
        stem: which; None leaves that to the model.
        output: the folder of all songs, which no file may leave; None does not check that.
    """

    source: Path
    folder: Path
    name: str = STEM
    is_stem: bool = False
    stem: str | None = None
    output: Path | None = dataclasses.field(default=None, compare=False)

    def path(self, stem: str) -> Path:
        """Path of a stem's file without its suffix; names too long for a disk are shortened.

        Raises:
            ValueError: if a link in the output leads out of it.
        """
        *folders, name = self.name.replace(STEM, _clean(stem)).split("/")
        folders = [_shortened(folder, NAME_BYTES) for folder in folders]
        path = self.folder.joinpath(*folders, _shortened(name, NAME_BYTES - SUFFIX_BYTES))
        if self.output is not None and not _is_inside(path.parent, self.output):
            raise ValueError(
                f"its stems would go to {os.path.realpath(path.parent)}, outside of output="
                f"{self.output}, where a link leads: delete the link, or choose another output"
            )
        return path


@dataclass(frozen=True)
class Album:
    """A list of songs for one album, as `read_album` found it; `output` None leaves it open."""

    songs: tuple[Song, ...]
    output: Path | None


def find_songs(wanted: str, output: Path) -> list[Song]:
    """The songs that a file, a folder (searched to the bottom) or a glob names, in order.

    Of folders and globs: hidden files, files without the suffix of audio or video, and what lies in
    an `output` inside the input are left out. Links to folders are not followed on the way down.

    Raises:
        ValueError: if there is none, if stems would be taken for songs the next time, or if the
            file is a playlist, an archive, or another known kind without sound.
    """
    path = at_home(wanted)
    if _is_file(path):
        refuse_what_is_no_song(path)
        return [Song(path, Path(path.name))]
    base = path
    while not base.is_dir():
        base = base.parent
    if os.path.realpath(base) == os.path.realpath(output):
        raise ValueError(
            f"output={output} is the folder of the input, where stems would be taken for songs "
            "the next time: choose another"
        )
    roots = [path] if path.is_dir() else list(base.glob(str(path.relative_to(base))))
    files = {file for root in roots for file in _files_below(root)}
    songs = [Song(file, file.relative_to(base)) for file in sorted(files)]
    songs = [song for song in songs if is_song(song, output, base)]
    if not songs:
        raise ValueError(
            f"input={wanted} names no audio file: give a file, a folder or a glob in quotes"
        )
    return songs


def is_song(song: Song, output: Path, base: Path) -> bool:
    """Whether a file found in `base` is audio by its name, not hidden, and none of our stems."""
    is_hidden = any(part.startswith(".") for part in song.below.parts)
    # Unlike Path.resolve, realpath does not fail over a link that leads to itself.
    stems = Path(os.path.realpath(output))
    is_stem = (
        Path(os.path.realpath(base)) in stems.parents
        and stems in Path(os.path.realpath(song.source)).parents
    )
    return not is_hidden and not is_stem and _is_file(song.source) and _is_named_audio(song.source)


def _is_named_audio(path: Path) -> bool:
    """Whether a file is called as audio is, and is not a program that is called so too."""
    mark, distance = SHARED_SUFFIXES.get(path.suffix.lower(), (b"", 0))
    if not mark:
        return path.suffix.lower() in AUDIO_SUFFIXES
    try:
        with path.open("rb") as file:
            head = file.read(2 * distance + len(mark))
    except OSError:
        return False
    return all(head[n * distance :].startswith(mark) for n in range(3))


def read_album(path: Path | str) -> Album:
    """The songs that a JSON file lists: some to be separated, some one stem already.

    `{"output": "folder", "convert": ["a.flac"], "copy": ["b.flac"]}`, each relative to the folder
    of the JSON file, and each optional. `"copy": {"drums": ["solo.flac"]}` says of which stem.
    A list may come from somebody else: all that it names must lie in its own folder.

    Raises:
        FileNotFoundError: if there is no such JSON file.
        ValueError: if it is no such list, or names a file that is not there, is named before, or
            lies outside of the list's folder.
    """
    path = at_home(path)
    try:
        album: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(album, dict):
        raise ValueError(f'{path}: must hold {{"convert": [files], "copy": [files]}}')
    unknown = [key for key in album if key not in ("output", "convert", "copy")]
    if unknown:
        raise ValueError(f"{path}: knows output, convert and copy, but not {', '.join(unknown)}")
    output = album.get("output")
    if not (output is None or (isinstance(output, str) and _is_name(output))):
        raise ValueError(f"{path}: output ({output}) must be the name of a folder")
    if output is not None and not (
        _is_below(output) and _is_inside(path.parent / output, path.parent)
    ):
        raise ValueError(
            f"{path}: output ({output}) must be a folder below that of the list; for another, "
            "leave it out and give output= on the command line"
        )
    songs: list[Song] = []
    taken: set[str] = set()
    copies = album.get("copy", [])
    by_stem = copies if isinstance(copies, dict) else {None: copies}
    lists = [("convert", None, album.get("convert", []))]
    lists += [("copy", stem, names) for stem, names in by_stem.items()]
    for key, stem, names in lists:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            forms = " or of such lists by stem" if key == "copy" else ""
            raise ValueError(f"{path}: {key} must be a list of file names{forms}")
        for name in names:
            source = path.parent / name
            if not (_is_name(name) and _is_inside(source, path.parent)):
                raise ValueError(
                    f"{path}: {key} names {name}, which is not in the folder of the list: move "
                    "the list to a folder that holds all of its songs"
                )
            if not _is_file(source):
                raise ValueError(f"{path}: {key} names {name}, and there is no file {source}")
            if (real := os.path.realpath(source)) in taken:
                raise ValueError(f"{path}: names {name} twice")
            taken.add(real)
            is_inside = source.is_relative_to(path.parent) and ".." not in Path(name).parts
            below = source.relative_to(path.parent) if is_inside else Path(source.name)
            songs.append(Song(source, below, is_stem=key == "copy", stem=stem))
    if not songs:
        raise ValueError(f"{path}: names no song: list files in convert or copy")
    return Album(tuple(songs), None if output is None else path.parent / output)


@contextmanager
def spool(stream: BinaryIO) -> Iterator[Path]:
    """What comes in by a stream (`input=-`), as a file named `stdin` while the context lasts.

    Raises:
        ValueError: if nothing comes.
    """
    with temporary_folder() as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
        if not path.stat().st_size:
            raise ValueError("input=-: nothing came in by the standard input: pipe a song into it")
        yield path


def plan(
    songs: Iterable[Song],
    output: Path,
    *,
    name: str = DEFAULT_NAME,
    model: str = "",
    tags_of: Callable[[Path], Mapping[str, str]] | None = None,
) -> list[Job]:
    """Where the stems of each song go; songs that differ only in their suffix keep it.

    Of two whose names only some disks tell apart (A.wav, a.wav), or that differ in nothing but what
    no file name may hold, the second gets a mark (~1f2e3d4c).

    Args:
        songs: their jobs come in the same order.
        output: the folder of all.
        name: path of a stem's file below `output`, without suffix; its slashes make folders. Its
            fields are those of FIELDS: `folder` (of the song below the input), `song` (its file
            name without suffix), `stem`, `model`, and from the song's tags `artist`, `title`,
            `album` and `track` (two digits, 00 where there is none).
        model: what `{model}` stands for.
        tags_of: gives a song's text tags, in the names of audio/tags.py; it is asked only if the
            name has a field of these. A song without a title is called by its file name.

    Raises:
        ValueError: if the name is none, leads out of `output`, or gives two songs the same files.
    """
    fields = _fields(name)
    songs = list(songs)
    alike = Counter(_on_any_disk(str(song.below.with_suffix(""))) for song in songs)
    taken: dict[str, tuple[Song, str]] = {}  # by path: the first song, and its name as it was
    jobs: list[Job] = []
    for song in songs:
        bare = song.below.with_suffix("")
        is_alone = alike[_on_any_disk(str(bare))] == 1
        bare_name = song.below.stem if is_alone else song.below.name
        text: Mapping[str, str] = {}
        if fields & set(TAG_FIELDS) and tags_of is not None:
            text = tags_of(song.source)
        values = {
            "folder": "/".join(song.below.parent.parts),
            "song": _own_name(bare_name),
            "stem": STEM,
            "model": _clean(model),
        }
        values |= _from_tags(text, values["song"])
        original = _filled(name, values | _raw_tags(text) | {"song": bare_name})
        pattern = _filled(name, values)
        other, theirs = taken.setdefault(_on_any_disk(pattern), (song, original))
        if other is not song and original != theirs:  # the very letters tell them apart
            pattern = _filled(name, values | _marked(values, fields, song))
            other, theirs = taken.setdefault(_on_any_disk(pattern), (song, original))
        parts = pattern.split("/")
        if ".." in parts:
            raise ValueError(f"name={name} gives {pattern}, which leads out of the output")
        if other is not song:
            shown = output / pattern.removesuffix(f"/{STEM}").replace(STEM, "{stem}")
            raise ValueError(
                f"the stems of {other.source} and {song.source} would both go to {shown}: "
                "rename one of them"
            )
        num_fixed = next(number for number, part in enumerate(parts) if STEM in part)
        fixed = [_shortened(part, NAME_BYTES) for part in parts[:num_fixed]]
        jobs.append(
            Job(
                song.source,
                output.joinpath(*fixed),
                "/".join(parts[num_fixed:]),
                song.is_stem,
                song.stem,
                output,
            )
        )
    return jobs


def refuse_what_is_no_song(path: Path, *, is_unreadable: bool = False) -> None:
    """Refuse a file that is known not to be audio, by how it begins, with the way out.

    Args:
        path: the file.
        is_unreadable: no decoder takes it, so that the suffix of an archive is enough.

    Raises:
        ValueError: if it is a playlist, a cue sheet, an archive, a picture or a text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return  # opening it as audio says why
    suffix = path.suffix.lower()
    kind = _kind_of(head, suffix)
    if kind is None and is_unreadable and head and suffix in ARCHIVES:
        kind = ARCHIVE
    if kind is not None:
        raise ValueError(f"{path}: is {kind}")


def _kind_of(head: bytes, suffix: str) -> str | None:
    """What a file is, if it is none of audio; None if it may be."""
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = next((kind for start, kind in SIGNATURES if begin.startswith(start)), None)
    if kind is not None or not head:
        return kind
    if head[257:262] == b"ustar":
        return ARCHIVE
    # Text of UTF-16 begins so; in audio zeros come early.
    is_text = head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" not in head
    return TEXTS.get(suffix) if is_text else None


def _marked(values: Mapping[str, str], fields: set[str], song: Song) -> dict[str, str]:
    """Values that no other song has: its name, or else the last of its tags, with a mark."""
    mark = hashlib.sha256(os.fsencode(song.below)).hexdigest()[:8]
    tags = [tag for tag in ("title", "track", "album", "artist") if tag in fields]
    names = ["song", *([] if "song" in fields else tags[:1])]
    return {name: f"{values[name]}~{mark}" for name in names}


def _filled(name: str, values: Mapping[str, str]) -> str:
    return "/".join(part for part in name.format_map(values).split("/") if part)


def file_key(name: str) -> str:
    """What two names share if their files would be one: on some disk, after cleaning."""
    return _on_any_disk(unicodedata.normalize("NFKC", _clean(name)))


def _on_any_disk(name: str) -> str:
    """What two names share if a file system may take them for one: case, and accents' spelling."""
    return unicodedata.normalize("NFC", name.casefold())


def _fields(name: str) -> set[str]:
    """The fields of a name, which is refused if it can never do."""
    known = ", ".join(f"{{{field}}}" for field in FIELDS)
    try:
        pieces = list(string.Formatter().parse(name))
    except ValueError as error:
        raise ValueError(f"name={name}: {error}: its fields are {known}") from error
    fields = {field for _, field, _, _ in pieces if field is not None}
    for _, field, form, conversion in pieces:
        if field is not None and (field not in FIELDS or form or conversion):
            raise ValueError(f"name={name} has an unknown field: its fields are {known}")
    if "stem" not in fields:
        raise ValueError(f"name={name} must hold {{stem}}: else all stems would be one file")
    literal = "".join(text for text, _, _, _ in pieces)
    forbidden = {char for char in literal if ord(char) in FORBIDDEN and char != "/"}
    if name.startswith(("/", "~")) or Path(name).is_absolute() or ".." in name.split("/"):
        raise ValueError(f"name={name} leads out of the output: choose another output instead")
    if forbidden:
        shown = " ".join(sorted(map(repr, forbidden)))
        raise ValueError(f"name={name} holds {shown}, which no file name should: leave it out")
    return fields


def _from_tags(text: Mapping[str, str], song: str) -> dict[str, str]:
    number = text.get("tracknumber", "").partition("/")[0].strip()
    return {
        "artist": _clean(text.get("artist") or text.get("albumartist") or "unknown artist"),
        "title": _clean(text.get("title", "")) if text.get("title") else song,
        "album": _clean(text.get("album") or "unknown album"),
        "track": number.zfill(2) if number.isdigit() else _clean(number or "00"),
    }


def _raw_tags(text: Mapping[str, str]) -> dict[str, str]:
    """The tags as they are, to tell songs apart whose cleaned names are the same."""
    kept = {name: text[name] for name in ("artist", "title", "album") if text.get(name)}
    return kept | ({"track": text["tracknumber"]} if text.get("tracknumber") else {})


def _clean(text: str) -> str:
    """A name for a file of any system, out of what may hold anything."""
    seen = "".join(
        _seen(char, text[max(0, number - 1) : number], text[number + 1 : number + 2])
        for number, char in enumerate(text)
    )
    name = " ".join(seen.translate(FORBIDDEN).split()).strip(" .") or "_"
    return f"_{name}" if DEVICES.fullmatch(name) else name


def _seen(char: str, before: str, after: str) -> str:
    """A character of a name; nothing for what turns or hides others, `_` for what no disk takes."""
    if char in JOINERS:
        return char if before > "\x7f" and after > "\x7f" else ""
    kind = unicodedata.category(char)
    if kind == "Cf" or char in INVISIBLE:
        return ""
    return "_" if kind == "Cs" or (kind == "Cc" and not char.isspace()) else char


def _own_name(song: str) -> str:
    """A song's own name is kept as it is: a disk takes it already."""
    return "_" if song in (".", "..") else song


def _shortened(name: str, most_bytes: int) -> str:
    """A name in at most so many bytes; two long names that begin alike still differ."""
    encoded = os.fsencode(name)
    if len(encoded) <= most_bytes:
        return name
    mark = f"~{hashlib.sha256(encoded).hexdigest()[:8]}"
    return encoded[: most_bytes - len(mark)].decode("utf-8", "ignore") + mark


def _files_below(root: Path) -> Iterator[Path]:
    """All files of a folder, or the file itself; folders that cannot be read are passed over."""
    if not root.is_dir():
        yield root
    for folder, _, names in os.walk(root):
        yield from (Path(folder) / name for name in names)


def at_home(path: Path | str) -> Path:
    """A path with `~` filled in; a name that begins so and is no user's stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _is_below(name: str) -> bool:
    """Whether a path stays below where it begins, on any system."""
    is_absolute = name.startswith(("/", "\\", "~")) or PureWindowsPath(name).drive != ""
    return not is_absolute and ".." not in re.split(r"[/\\]", name)


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder, or is it, once all links are followed."""
    real, around = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return real == around or around in real.parents


def _is_name(text: str) -> bool:
    """Whether a file system takes a path: JSON may hold more than that."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
