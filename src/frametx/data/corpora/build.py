"""One package of the catalogue becomes finished files, and a note that they are."""

from collections.abc import Callable
from pathlib import Path

from frametx.data.corpora.catalogue import Music, Voices
from frametx.data.corpora.music import build_music
from frametx.data.corpora.packages import copyright_text, package_version, unpack
from frametx.data.corpora.speakers import build_speaker, clip_paths

Advance = Callable[[int, int], None]  # pieces done, pieces in all


def build_package(entry: Music | Voices, *, cache: Path, output: Path, advance: Advance) -> None:
    """Fetch, unpack and build one package, leaving its licence and a note of what was built.

    Raises:
        PackageError: if the package cannot be had.
    """
    folder = unpack(entry.package, cache)
    built: list[Path] = []
    if isinstance(entry, Music):
        total = len(entry.tracks)
        for path in build_music(entry, folder, output):
            built.append(path)
            advance(len(built), total)
    else:
        total = sum(len(clip_paths(speaker, folder)) for speaker in entry.speakers)
        pieces = (
            path for speaker in entry.speakers for path in build_speaker(speaker, folder, output)
        )
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
