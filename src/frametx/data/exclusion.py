"""Lists of files to leave out: what `check` writes and `data.exclude` reads.

A line is a path, a tab and the reason. Lines that begin with # are comments; a path that itself
holds a tab, a line break, a quote or a # in front stands in quotes, as in JSON.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

SUFFIX = ".txt"
"""No file of a library is called so: a pattern that ends so is a list."""


def exclusions(exclude: Sequence[str] | str) -> tuple[list[str], frozenset[str]]:
    """Shell patterns, and the paths that stand in the lists among them.

    Args:
        exclude: patterns and paths of lists, which end in .txt.

    Raises:
        ValueError: if a list is not there or cannot be read.
    """
    patterns: list[str] = []
    paths: set[str] = set()
    for entry in [exclude] if isinstance(exclude, str) else exclude:
        if str(entry).endswith(SUFFIX):
            paths |= set(read_list(Path(entry).expanduser()))
        else:
            patterns.append(str(entry))
    return patterns, frozenset(paths)


def read_list(path: Path) -> list[str]:
    """The paths in a list.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"exclude={path} cannot be read as a list of files: {reason}; "
            "give one that python -m frametx.check wrote"
        ) from error
    return [_unquoted(line) for line in lines if line.strip() and not line.startswith("#")]


def list_line(path: Path | str, reason: str) -> str:
    """One line of a list, without its end."""
    text = str(path)
    if any(
        letter in text for letter in '\t\n\r"\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029'
    ) or text.startswith("#"):
        text = json.dumps(text)
    return f"{text}\t{' '.join(reason.split())}"


def write_list(path: Path, lines: Iterable[str]) -> None:
    """Replace the list, at once."""
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text("".join(f"{line}\n" for line in lines), "utf-8", "surrogateescape")
    partial.replace(path)


def _unquoted(line: str) -> str:
    if not line.startswith('"'):
        return line.partition("\t")[0]
    path, _ = json.JSONDecoder().raw_decode(line)
    return str(path)
