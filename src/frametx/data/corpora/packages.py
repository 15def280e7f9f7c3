"""Debian packages as a source of audio: downloaded and unpacked into a cache, never installed."""

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

WITHOUT_DEBIAN = (
    "{missing} not found: the corpora come as Debian packages, so they need a Debian or Ubuntu "
    "system. Elsewhere train on your own folders: python -m frametx.train data=folders "
    "data.vocals=PATH data.instrumental=PATH"
)


class PackageError(Exception):
    """A package cannot be had here; the message says which one and what to do."""


def require_debian() -> None:
    """Check that `apt-get` and `dpkg-deb` can be run.

    Raises:
        PackageError: with the way to train without them.
    """
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise PackageError(WITHOUT_DEBIAN.format(missing=" and ".join(missing)))


def download_bytes(package: str) -> int:
    """Size of the package's file as the package index states it.

    Raises:
        PackageError: if this system's index does not know the package.
    """
    listing = _apt_get(package, "--print-uris", cwd=None)
    sizes = re.findall(r"\.deb (\d+) ", listing)
    if not sizes:
        raise PackageError(f"{package}: apt-get names no file for it; run apt-get update")
    return int(sizes[-1])


def unpack(package: str, cache: Path) -> Path:
    """Folder with the package's files, downloaded and unpacked unless it is there already.

    The folder appears under its name only when it is complete, so an interrupted download is
    begun anew and a finished one is never repeated. Zip archives called .pk3 are unpacked in place.
    """
    folder = package_folder(package, cache)
    if folder.is_dir():
        return folder
    partial = cache / f"{package}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _apt_get(package, cwd=partial)
    (archive,) = partial.glob("*.deb")
    # The file is called name_version_architecture.deb, with ":" in the version written as %3a.
    version = archive.name.split("_")[1].replace("%3a", ":")
    unpacking = ["dpkg-deb", "-x", archive, partial]
    done = subprocess.run(unpacking, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PackageError(f"{package}: {done.stderr.strip()[-200:]}; run the command again")
    archive.unlink()
    for pk3 in sorted(partial.rglob("*.pk3")):
        with zipfile.ZipFile(pk3) as content:
            content.extractall(pk3.with_suffix(""))
        pk3.unlink()
    (partial / "VERSION").write_text(f"{version}\n")
    partial.rename(folder)
    return folder


def package_folder(package: str, cache: Path) -> Path:
    """Where a package's files are, or will be once it is unpacked."""
    return cache / package


def package_version(folder: Path) -> str:
    """Version of an unpacked package."""
    return (folder / "VERSION").read_text().strip()


def copyright_text(folder: Path) -> str:
    """What the package's own copyright file says, word for word."""
    (statement,) = folder.glob("usr/share/doc/*/copyright")
    return statement.read_text(encoding="utf-8", errors="replace")


def _apt_get(package: str, *options: str, cwd: Path | None) -> str:
    command = ["apt-get", "download", "--quiet", *options, package]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = next(
            (line for line in done.stderr.splitlines() if line.startswith("E:")),
            done.stderr.strip()[-200:],
        )
        raise PackageError(
            f"{package}: {reason} (run apt-get update; the corpora were chosen from Debian 12)"
        )
    return done.stdout
