"""One package of the catalogue becomes finished files, and a note that they are."""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from frametx.data.corpora.catalogue import Entry, Music, Noise
from frametx.data.corpora.music import build_music
from frametx.data.corpora.noise import build_noise, recordings
from frametx.data.corpora.packages import copyright_text, package_version, unpack
from frametx.data.corpora.speakers import build_speaker, clip_paths

Advance = Callable[[int, int], None]  # pieces done, pieces in all


def build_package(entry: Entry, *, cache: Path, output: Path, advance: Advance) -> None:
    """Fetch, unpack and build one package, leaving its licence and a note of what was built.

    Raises:
        PackageError: if the package cannot be had.
    """
    folder = unpack(entry.package, cache)
    built: list[Path] = []
    total, pieces = _pieces(entry, folder, output)
    for done, path in enumerate(pieces, start=1):
        advance(done, total)
        if path is not None:
            built.append(path)
    assert built, f"{entry.package} holds nothing of what the catalogue says"
    licence = output / "LICENSES" / f"{entry.package}.txt"
    licence.parent.mkdir(parents=True, exist_ok=True)
    licence.write_text(copyright_text(folder), encoding="utf-8")
    names = [path.relative_to(output).as_posix() for path in built]
    note = _note(entry.package, output)
    note.parent.mkdir(exist_ok=True)
    note.write_text("\n".join([package_version(folder), *names]) + "\n", encoding="utf-8")


def _pieces(
    entry: Entry, folder: Path, output: Path
) -> tuple[int, Iterator[Path] | Iterator[Path | None]]:
    """How many pieces a package consists of, and what makes them one after the other."""
    if isinstance(entry, Music):
        return len(entry.tracks), build_music(entry, folder, output)
    if isinstance(entry, Noise):
        return len(recordings(folder, entry.clips)), build_noise(entry, folder, output)
    total = sum(len(clip_paths(speaker, folder)) for speaker in entry.speakers)
    return total, chain.from_iterable(
        build_speaker(speaker, folder, output) for speaker in entry.speakers
    )


def built_version(package: str, output: Path) -> str | None:
    """Version that `output` was built from; None unless every file built then is still there."""
    note = _note(package, output)
    if not note.exists():
        return None
    version, *names = note.read_text(encoding="utf-8").splitlines()
    return version if all((output / name).is_file() for name in names) else None


def built_files(package: str, output: Path) -> list[Path]:
    """The finished files of a package."""
    names = _note(package, output).read_text(encoding="utf-8").splitlines()[1:]
    return [output / name for name in names]


def _note(package: str, output: Path) -> Path:
    return output / ".built" / f"{package}.txt"
