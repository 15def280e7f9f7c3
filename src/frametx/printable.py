"""Names and messages as text that any terminal, table and file can take.

File names may hold anything: line breaks, terminal commands, characters that turn the direction of
writing, and bytes that are no UTF-8, which Python keeps as lone surrogates and no file takes.
"""

import unicodedata

ESCAPED_CATEGORIES = (
    "Cc",  # line breaks, tabs, terminal commands
    "Cf",  # turned directions, zero widths, byte order marks
    "Cs",  # surrogates: bytes that are no UTF-8
    "Zl",  # line and paragraph separators
    "Zp",
)
JOINERS = "\u200c\u200d"
"""Invisible, but part of how some scripts and emoji are written; they are kept."""


def printable(text: object) -> str:
    r"""Escape what a terminal would obey or could not encode, and keep everything else.

    Text of letters of any script is returned as it is. The rest is escaped as Python would write
    it: a line break becomes `\n`, U+202E becomes `\u202e`, and a byte that is no UTF-8 becomes
    `\xff`. The result has one line and can be encoded as UTF-8.
    """
    return "".join(map(_escaped, str(text)))


def _escaped(character: str) -> str:
    if character in JOINERS or unicodedata.category(character) not in ESCAPED_CATEGORIES:
        return character
    if "\udc80" <= character <= "\udcff":  # where Python keeps a byte that it could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
