"""File names of any bytes, as hashes and databases take them.

Python keeps bytes of a name that are no UTF-8 as lone surrogates, which cannot be encoded. Names
without such bytes are stored and hashed as they are.
"""


def name_bytes(name: str) -> bytes:
    """The bytes to hash of a name; different names have different bytes."""
    return name.encode("utf-8", "surrogatepass")


def to_sql(name: str) -> str | bytes:
    """A name as SQLite takes it: text, or bytes where it is no text."""
    return name if name.isascii() or _is_text(name) else name_bytes(name)


def from_sql(stored: str | bytes) -> str:
    """The name that `to_sql` stored."""
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogatepass")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
