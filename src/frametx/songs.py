"""Which songs an input names, and the folder that the stems of each go to."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# In a folder all else is left alone; which of these can be read is found out when they are opened.
AUDIO_SUFFIXES = frozenset(
    f".{name}"
    for names in ("wav w64 rf64 flac ogg oga opus mp3", "aif aiff aifc caf au m4a aac wma")
    for name in names.split()
)


@dataclass(frozen=True)
class Song:
    """A file and its path below the input that named it."""

    source: Path
    below: Path


@dataclass(frozen=True)
class Job:
    """A file and the folder its stems go to."""

    source: Path
    folder: Path


def find_songs(wanted: str, output: Path) -> list[Song]:
    """The songs that a file, a folder (searched to the bottom) or a glob names, in order.

    Of folders and globs: hidden files, files without the suffix of audio, and what lies in an
    `output` inside the input are left out.

    Raises:
        ValueError: if there is none, or if stems would be taken for songs the next time.
    """
    path = Path(wanted).expanduser()
    if path.is_file():
        return [Song(path, Path(path.name))]
    base = path
    while not base.is_dir():
        base = base.parent
    if base.resolve() == output.resolve():
        raise ValueError(
            f"output={output} is the folder of the input, where stems would be taken for songs "
            "the next time: choose another"
        )
    roots = [path] if path.is_dir() else list(base.glob(str(path.relative_to(base))))
    files = {file for root in roots for file in (root.rglob("*") if root.is_dir() else [root])}
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
    is_stem = (
        base.resolve() in output.resolve().parents
        and output.resolve() in song.source.resolve().parents
    )
    is_audio = song.source.suffix.lower() in AUDIO_SUFFIXES and song.source.is_file()
    return is_audio and not is_hidden and not is_stem


def plan(songs: Iterable[Song], output: Path) -> list[Job]:
    """A folder for each song; songs that differ only in their suffix keep it in the folder's name.

    Raises:
        ValueError: if two songs would still share a folder.
    """
    songs = list(songs)
    # Compared without case, because some file systems do not tell it apart.
    alike = Counter(str(song.below.with_suffix("")).casefold() for song in songs)
    taken: dict[str, Song] = {}
    jobs: list[Job] = []
    for song in songs:
        bare = song.below.with_suffix("")
        folder = output / (song.below if alike[str(bare).casefold()] > 1 else bare)
        other = taken.setdefault(str(folder).casefold(), song)
        if other is not song:
            raise ValueError(
                f"the stems of {other.source} and {song.source} would both go to {folder}: "
                "rename one of them"
            )
        jobs.append(Job(song.source, folder))
    return jobs
