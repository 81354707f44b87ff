"""One setting of the C library's allocator that makes training and evaluation faster."""

from __future__ import annotations

import ctypes

# Parameters of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors free, instead of handing it back.

    By default glibc maps every block above 32 MiB anew and trims its heap, so that each batch takes
    thousands of page faults for the same activations (`benchmarks/allocator.py` measures what that
    costs). The price is that memory once used stays with the process until it ends, and
    fragmentation. Call it before the first large tensor is made; the command line does.

    Returns:
        Whether it took effect: False without glibc (macOS, Windows, musl), where nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants a name
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
