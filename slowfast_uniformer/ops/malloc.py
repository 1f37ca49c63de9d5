"""What becomes of memory that was freed: the C library's part in how much a process holds."""

import ctypes
import os
import sys

_VARIABLE = "MALLOC_MMAP_THRESHOLD_"  # glibc's own, for the user who knows better
_TRIM, _MMAP = -1, -3  # as malloc.h numbers them
_asked = sys.maxsize


def return_freed_memory(above: int = 2**24) -> None:
    """Have this process return pieces of more than `above` bytes to the system when they are freed.

    glibc keeps them, and what recomputing blocks saves is lost between longer-lived ones
    (docs/performance.md). Of several calls the least counts. Nothing happens where the environment says
    otherwise, or with another C library.
    """
    global _asked
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or above >= _asked or _VARIABLE in os.environ:
        return
    _asked = above
    mallopt(_MMAP, above)
    mallopt(_TRIM, 2 * above)  # the top of the heap; 128 KB once the other is set
