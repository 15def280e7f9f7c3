"""Command line: `python -m frametx.data.corpora output=data/corpora [only=PACKAGE,...]`."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from frametx.data.corpora.build import build_package, built_version
from frametx.data.corpora.catalogue import CATALOGUE, Music, Voices
from frametx.data.corpora.credits import write_credits
from frametx.data.corpora.demo import build_demo
from frametx.data.corpora.packages import (
    PackageError,
    download_bytes,
    package_folder,
    require_debian,
)
from frametx.data.corpora.prompts import have_ffmpeg

USAGE = """\
usage: python -m frametx.data.corpora [demo] [output=FOLDER] [only=PACKAGE,...] [cache=FOLDER]

Fetch Debian packages with real music and voices, install none of them, and build
train/ and validation/, each with vocals/ and instrumental/. What is finished is kept.

  output=FOLDER  where to build (data/corpora)
  only=...       some of the packages instead of all
  cache=FOLDER   where packages are unpacked (OUTPUT/packages); may be deleted afterwards
  demo           rebuild the small library that ships, in data/demo unless output= says otherwise
"""
EXIT_INCOMPLETE = 1
EXIT_REFUSED = 2
EXIT_STOPPED = 130


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    is_demo: bool
    output: Path
    cache: Path
    entries: tuple[Music | Voices, ...]


def parse(arguments: Sequence[str]) -> Request:
    """Read `key=value` arguments.

    Raises:
        ValueError: if an argument or a package is not known.
    """
    values = {"output": "", "cache": "", "only": ""}
    is_demo = False
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument == "demo":
            is_demo = True
        elif equals and key in values and value:
            values[key] = value
        else:
            raise ValueError(
                f"{argument}: not understood; give demo, output=, only= or cache= with a value"
            )
    if is_demo and values["only"]:
        raise ValueError("only= has no meaning for demo, which is built as a whole; leave it out")
    default_output = "data/demo" if is_demo else "data/corpora"
    output = Path(values["output"] or default_output).expanduser()
    cache = Path(values["cache"]).expanduser() if values["cache"] else output / "packages"
    known = {entry.package: entry for entry in CATALOGUE}
    wanted = values["only"].split(",") if values["only"] else list(known)
    for package in wanted:
        if package not in known:
            raise ValueError(f"only={package}: not in the catalogue, which has {', '.join(known)}")
    entries = tuple(known[package] for package in dict.fromkeys(wanted))
    return Request(is_demo=is_demo, output=output, cache=cache, entries=entries)


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if {"-h", "--help", "help"} & set(arguments):
        sys.stdout.write(USAGE)
        return 0
    try:
        request = parse(arguments)
        require_debian()
        if request.is_demo:
            if not have_ffmpeg():
                raise PackageError(
                    "ffmpeg not found: the demo's voices need it; apt-get install it"
                )
            build_demo(request.output, request.cache)
            return 0
        return build_corpora(request, console)
    except (ValueError, PackageError) as error:
        console.print(str(error))
        return EXIT_REFUSED
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return EXIT_STOPPED


def build_corpora(request: Request, console: Console) -> int:
    """Show what there is to do, then do it package by package.

    Raises:
        ValueError: if the disk has too little space.
    """
    entries = [
        entry
        for entry in request.entries
        if built_version(entry.package, request.output) is None
        and (have_ffmpeg() or not _needs_ffmpeg(entry))
    ]
    mute = [
        entry.package for entry in request.entries if _needs_ffmpeg(entry) and not have_ffmpeg()
    ]
    if mute:
        console.print(f"skipped, for want of ffmpeg to decode them: {', '.join(mute)}")
    failures: list[str] = []
    sizes: dict[str, int] = {}
    for entry in entries:
        try:
            is_here = package_folder(entry.package, request.cache).is_dir()
            sizes[entry.package] = 0 if is_here else download_bytes(entry.package)
        except PackageError as error:
            failures.append(str(error))
    entries = [entry for entry in entries if entry.package in sizes]
    console.print(_plan(request, sizes))
    _check_space(request, entries)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        overall = progress.add_task("packages", total=len(entries))
        for entry in entries:
            current = progress.add_task(entry.package, total=None)
            try:
                build_package(
                    entry,
                    cache=request.cache,
                    output=request.output,
                    advance=lambda done, total, task=current: progress.update(
                        task, completed=done, total=total
                    ),
                )
            except PackageError as error:
                failures.append(str(error))
            progress.advance(overall)
    if any(built_version(entry.package, request.output) for entry in request.entries):
        console.print(f"credits and licences: {write_credits(request.output)}")
    for failure in failures:
        console.print(failure)
    return EXIT_INCOMPLETE if failures else 0


def _needs_ffmpeg(entry: Music | Voices) -> bool:
    return isinstance(entry, Voices) and entry.needs_ffmpeg


def _plan(request: Request, sizes: dict[str, int]) -> Table:
    table = Table("package", "what", "download MB", "disk MB", box=None)
    for entry in request.entries:
        kind = "music" if isinstance(entry, Music) else "voices"
        if entry.package in sizes:
            megabytes = f"{sizes[entry.package] / 1e6:.0f}"
            table.add_row(entry.package, kind, megabytes, str(entry.disk_mb))
        elif built_version(entry.package, request.output) is not None:
            table.add_row(entry.package, kind, "finished", "")
    total_mb = sum(entry.disk_mb for entry in request.entries if entry.package in sizes)
    table.add_row("total", "", f"{sum(sizes.values()) / 1e6:.0f}", str(total_mb))
    return table


def _check_space(request: Request, entries: Sequence[Music | Voices]) -> None:
    needed_mb = 1.1 * sum(entry.disk_mb for entry in entries)
    for folder in (request.output, request.cache):
        folder.mkdir(parents=True, exist_ok=True)
        free_mb = shutil.disk_usage(folder).free / 1e6
        if free_mb < needed_mb:
            raise ValueError(
                f"{folder}: {free_mb:.0f} MB free, {needed_mb:.0f} MB needed; "
                "choose fewer packages with only=, or another disk with output= and cache="
            )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
