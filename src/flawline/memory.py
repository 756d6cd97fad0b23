"""What the C library does with memory that is given back."""

import ctypes
import sys
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # the numbers of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep large pieces of memory for the next batch instead of giving them back to the system.

    By default glibc maps every piece of some megabytes afresh, and the system clears it page by page: a fit asks
    for the same pieces at each batch.
    See mallopt(3). Returns whether it took effect; other C libraries than glibc are left alone.
    """
    mallopt = _of_the_c_library("mallopt")
    if mallopt is None:
        return False
    options = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 64 << 20}
    return all(mallopt(option, size) == 1 for option, size in options.items())


def give_memory_back() -> None:
    """Return to the system what this process has freed: glibc keeps much of it. See malloc_trim(3)."""
    trim = _of_the_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def _of_the_c_library(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
