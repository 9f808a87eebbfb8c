"""Settings of glibc's malloc: few arenas, and pages that go back once they are free. Elsewhere this does nothing.

By its own habits each thread gets an arena, and blocks up to 32 MB stay with the process once freed. A few reloads of a
bundle then hold a quarter more than they use: 169 MB after 50 of them instead of 133 (docs/decisions/0020).
"""

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_BLOCK_BYTES = 128 * 1024
"""glibc's default, which it raises by itself unless told to keep it."""


def keep_memory_together() -> None:
    """Few arenas, and large blocks of their own that go back when freed. Before threads are started."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(_ARENA_MAX, 2)
        libc.mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _BLOCK_BYTES)


def give_back_memory() -> None:
    """Return free pages to the system: a few milliseconds, so only after something large was let go."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
