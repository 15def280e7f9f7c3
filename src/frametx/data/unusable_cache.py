"""What to say where the cache cannot be written."""

from pathlib import Path


def no_cache(path: Path, error: OSError) -> OSError:
    """The error with the key that names another folder: a cache may lie wherever there is room.

    Args:
        path: what could not be read or written.
        error: why.
    """
    reason = error.strerror or str(error)
    way_out = "choose a folder that can be written to by paths.cache_dir=..."
    return OSError(error.errno, f"{reason}; {way_out}", str(path))
