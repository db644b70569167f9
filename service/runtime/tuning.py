"""Tune the memory allocator and the numeric libraries of a process."""

import ctypes
import gc
import os
from collections.abc import Callable, MutableMapping
from functools import cache

# Options of mallopt, as malloc.h numbers them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8

# The variables that limit the threads of each BLAS library: its own, then those it also reads.
_BLAS_VARIABLES = (
    ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    ("VECLIB_MAXIMUM_THREADS",),
)


def limit_blas_threads(environ: MutableMapping[str, str] = os.environ) -> None:
    """Run NumPy's linear algebra on the calling thread, unless the operator has set otherwise. Call it before NumPy is
    imported.

    BLAS would spread a product of more than 10,000 numbers over all cores, in every worker process. They would wait for
    each other ten times as long as the product takes.
    """
    for own, *others in _BLAS_VARIABLES:
        if not any(environ.get(name) for name in (own, *others)):
            environ[own] = "1"


def tune_malloc() -> None:
    """Let glibc keep freed memory, up to a few megabytes, for the next request body. By default it returns memory of
    that size at once, and getting it anew, page by page, costs more than reading the body. Limit all threads to two
    arenas, since each arena would keep as much."""
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


def release_memory() -> None:
    """Return memory that nothing refers to any more to the operating system. glibc keeps it unless told to."""
    gc.collect()
    _malloc_trim()(0)


@cache
def _malloc_trim() -> Callable[[int], int]:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda _pad: 0  # another C library
    return trim
