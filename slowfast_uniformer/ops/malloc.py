"""glibc's malloc: when freed memory goes back to the operating system."""

import ctypes
import os
import sys

_VARIABLE = "MALLOC_MMAP_THRESHOLD_"  # glibc's own setting, which has priority
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of malloc.h
_threshold = sys.maxsize


def return_freed_memory(above: int = 2**24) -> None:
    """Have this process return allocations of more than `above` bytes to the system as soon as they are freed.

    By default glibc keeps them, and the memory that activation checkpointing frees is lost between longer-lived
    allocations (docs/measurements.md). The smallest threshold of several calls holds. Nothing happens if the
    environment sets MALLOC_MMAP_THRESHOLD_, or with another C library.

    Args:
        above: threshold in bytes.
    """
    global _threshold
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or above >= _threshold or _VARIABLE in os.environ:
        return
    _threshold = above
    mallopt(_M_MMAP_THRESHOLD, above)
    mallopt(_M_TRIM_THRESHOLD, 2 * above)  # of the top of the heap; setting the other one makes it 128 KB
