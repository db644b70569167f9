"""When memory goes back to the operating system, and when not."""

import ctypes
import gc
from collections.abc import Callable
from functools import cache

# As malloc.h numbers them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def give_back() -> None:
    """What nobody refers to any more. The C library keeps what is freed for itself unless it is asked (glibc)."""
    gc.collect()
    _trim()(0)


@cache
def _trim() -> Callable[[int], int]:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda _pad: 0  # another C library
    return trim


def keep_what_is_freed() -> None:
    """For request bodies up to a megabyte: glibc gives memory of that size back at once, and to get it anew, page by
    page, costs more than to read the body. Two arenas for all threads: with one for each, each would keep that much."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    for option, value in (
        (_MMAP_THRESHOLD, 4 << 20),
        (_TRIM_THRESHOLD, 16 << 20),
        (_TOP_PAD, 1 << 20),
        (_ARENA_MAX, 2),
    ):
        set_option(option, value)
