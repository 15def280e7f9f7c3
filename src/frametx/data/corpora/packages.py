"""Debian packages as a source of audio: downloaded and unpacked into a cache, never installed."""

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
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


def download_bytes(packages: Sequence[str]) -> tuple[dict[str, int], dict[str, PackageError]]:
    """Ask apt-get, once, for the sizes of the packages' files.

    Where it does not know some of them it fails as a whole: they are left out, and it is asked
    again for the others.

    Returns:
        Bytes of each package, and why the remaining ones cannot be had.
    """
    asked, failures = list(packages), {}
    while asked:
        done = _run_apt_get(asked, "--print-uris", cwd=None)
        if done.returncode == 0:
            listed = re.findall(r" ([a-z0-9.+-]+)_\S*\.deb (\d+) ", done.stdout)
            sizes = {name: int(size) for name, size in listed if name in asked}
            silent = [package for package in asked if package not in sizes]
            failures |= {
                package: PackageError(
                    f"{package}: apt-get names no file for it; run apt-get update"
                )
                for package in silent
            }
            return sizes, failures
        reasons = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        named = {
            package: _failure(package, line)
            for package in asked
            for line in reasons
            if re.search(rf"(?<![\w.+-]){re.escape(package)}(?![\w+-])", line)
        }
        # Where no line names a package, what is wrong is wrong for all.
        failures |= named or {package: _failure(package, _reason(done)) for package in asked}
        asked = [package for package in asked if package not in failures]
    return {}, failures


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
    done = _run_apt_get([package], cwd=partial)
    if done.returncode != 0:
        raise _failure(package, _reason(done))
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


def _run_apt_get(
    packages: Sequence[str], *options: str, cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    command = ["apt-get", "download", "--quiet", *options, *packages]
    # The reasons are read, so they have to be in English.
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    errors = (line for line in done.stderr.splitlines() if line.startswith("E:"))
    return next(errors, done.stderr.strip()[-200:])


def _failure(package: str, reason: str) -> PackageError:
    return PackageError(
        f"{package}: {reason} (run apt-get update; the corpora were chosen from Debian 12)"
    )
