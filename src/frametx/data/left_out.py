"""What a library leaves out, by kind and in one line."""

from collections import Counter
from collections.abc import Sequence

from frametx.data.files import NOT_READ, RejectedFile
from frametx.data.inspection import ABSURD, SHORT
from frametx.printable import printable

MOST_NAMED = 3
"""Files in a line; `python -m frametx.check` names all."""
COUNTED_AS = {
    "unreadable": "unreadable",
    "empty": "empty",
    "truncated": "cut short",
    "non_finite": "with NaN or infinity",
    "absurd": "too loud to be audio",
    "silent": "silent",
    "short": "too short",
    "not_read": "in formats that are not read",
}
"""Kinds of rejection as they stand behind their number."""
_REASONS = (
    ("is silent", "silent"),
    (NOT_READ, "not_read"),
    (ABSURD, "absurd"),
    (SHORT, "short"),
    ("cut short", "truncated"),
    ("cannot be decoded after", "truncated"),
    ("damaged", "truncated"),
    ("holds no samples", "empty"),
    ("is empty", "empty"),
    ("nan or infinite", "non_finite"),
    (" is nan", "non_finite"),
    ("NaN", "non_finite"),
    (" is inf", "non_finite"),
    (" is -inf", "non_finite"),
)


def kind_of_rejection(reason: str) -> str:
    """The kind, a key of `COUNTED_AS`, behind a reason for which a file is rejected."""
    return next((kind for text, kind in _REASONS if text in reason), "unreadable")


def left_out_line(key: str, num_used: int, rejected: Sequence[RejectedFile]) -> list[str]:
    """How many files are left out, why and which, in one line; no line if none is.

    Args:
        key: what names the library: data.vocals.
        num_used: files that are used.
        rejected: those that are not.
    """
    if not rejected:
        return []
    counts = Counter(kind_of_rejection(file.reason) for file in rejected)
    reasons = ", ".join(f"{counts[kind]} {COUNTED_AS[kind]}" for kind in COUNTED_AS if counts[kind])
    return [
        f"{key}: {num_used + len(rejected)} files, {len(rejected)} left out ({reasons}): "
        f"{some_names([file.name for file in rejected])}; python -m frametx.check names all"
    ]


def some_names(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """The first few names, and how many there are more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more
