"""Command line: `python -m frametx.data.corpora output=data/corpora [only=PACKAGE,...]`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from frametx.data.corpora.build import build_package, built_version, settle
from frametx.data.corpora.catalogue import CATALOGUE, Entry, speakers_of
from frametx.data.corpora.credits import write_credits
from frametx.data.corpora.demo import build_demo
from frametx.data.corpora.packages import PackageError, require_debian
from frametx.data.corpora.plan import Plan, check_space
from frametx.data.corpora.prompts import have_ffmpeg
from frametx.data.corpora.singers import WITHOUT_WORLD, build_singing, missing_seconds
from frametx.data.corpora.singing import have_world

USAGE = """\
usage: python -m frametx.data.corpora [demo] [output=FOLDER] [only=PACKAGE,...] [cache=FOLDER]

Fetch Debian packages with real music, voices and noises, install none of them, and build
train/, development/ and validation/, with vocals/, instrumental/ and noise/ in them, and singing/:
synthetic, made of the voices by the vocoder WORLD where pyworld is installed. What is finished is
kept.

  output=FOLDER  where to build (data/corpora)
  only=...       some of the packages instead of all
  cache=FOLDER   where packages are unpacked (packages/ in the output); may be deleted afterwards
  demo           rebuild the small library that ships, in data/demo unless output= says otherwise
"""
CORPORA = "data/corpora"
EXIT_INCOMPLETE = 1
EXIT_REFUSED = 2
EXIT_STOPPED = 130


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    is_demo: bool
    output: Path
    cache: Path
    entries: tuple[Entry, ...]


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
    default_output = "data/demo" if is_demo else CORPORA
    output = Path(values["output"] or default_output).expanduser()
    # Never inside the demo, which ships.
    default_cache = Path(CORPORA if is_demo else output) / "packages"
    cache = Path(values["cache"]).expanduser() if values["cache"] else default_cache
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
                raise PackageError("ffmpeg not found: the demo needs it to decode its voices")
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
    for entry in CATALOGUE:  # whatever is asked for: nothing may be in two splits
        settle(entry, request.output)
    plan = Plan.make(request.entries, output=request.output, cache=request.cache)
    console.print(plan.table())
    check_space(1.1 * plan.disk_mb, (request.output, request.cache))
    failures = list(plan.failures)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        overall = progress.add_task("packages", total=len(plan.downloads))
        for entry in plan.downloads:
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
    failures += build_all_singing(request, console)
    if any(built_version(entry.package, request.output) for entry in request.entries):
        console.print(f"credits and licences: {write_credits(request.output)}")
    for failure in failures:
        console.print(failure)
    return EXIT_INCOMPLETE if failures else 0


def build_all_singing(request: Request, console: Console) -> list[str]:
    """Let every speaker sing whose voice is there; returns what went wrong, a line each."""
    there = [entry for entry in request.entries if built_version(entry.package, request.output)]
    missing = {
        speaker: seconds
        for speaker in speakers_of(there)
        if (seconds := missing_seconds(speaker, request.output))
    }
    if missing and not have_world():
        return [WITHOUT_WORLD]
    failures = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} s"),
        TimeElapsedColumn(),
        console=console,
        disable=not missing,
    ) as progress:
        overall = progress.add_task("synthetic singing", total=sum(missing.values()))
        for speaker, seconds in missing.items():
            current = progress.add_task(speaker.name, total=seconds)
            try:
                for sung in build_singing(speaker, request.output):
                    progress.advance(current, sung)
                    progress.advance(overall, sung)
            except ValueError as error:
                failures.append(str(error))
    return failures


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
