"""Memory of large images goes back to the system."""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_BLOCK_BYTES = 4 << 20
_KEPT_BYTES = 8 << 20


def give_memory_back() -> None:
    """Have the C library map large blocks by themselves, so that they are given back when freed.

    glibc raises that size by itself up to 32 MB; Pillow's blocks of 16 MB then stay in the heap of
    the thread that decoded: over a gigabyte after one image of 49 megapixels. With these sizes
    reading ordinary photos takes no longer (`docs/serve.md`). Other C libraries are left as they
    are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
