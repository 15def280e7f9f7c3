"""Settings of the C library's allocator for a process that separates songs for hours."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # numbers of glibc's mallopt(3)
_LARGE = 12 << 20  # bytes: the activations of a chunk that gaps would cost most
_HEAPS = 2  # of the main thread, and of all that read, write and decode


def return_memory() -> None:
    """Let large tensors go back to the system as they are freed, and threads share a heap.

    By default glibc raises its threshold with every large block that is freed, until the gaps
    between a network's activations are kept for good, in a heap for every thread. Call it once, in
    an entry: it holds for the whole process. Nothing happens where the C library is another one.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return
    mallopt(_ARENA_MAX, _HEAPS)
    mallopt(_MMAP_THRESHOLD, _LARGE)
    mallopt(_TRIM_THRESHOLD, 2 * _LARGE)
