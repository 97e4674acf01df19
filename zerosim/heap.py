"""The C library's heap: told to keep what is freed for the next step, and to give it back when it is measured.

A step takes and frees the same buffers again and again. Left to itself, glibc returns large ones to the system each
time, and every page of the next one must be made and cleared by the kernel. Elsewhere than with glibc nothing is done.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h (mallopt(3))."""

_LARGEST = 2**31 - 1


def keep() -> None:
    """Keep freed memory for what is allocated next, in the whole process, from now on."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST)


def give_back() -> None:
    """Give freed memory back to the system (malloc_trim(3))."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
