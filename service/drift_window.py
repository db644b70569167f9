"""A sliding window: the last rows that a version was asked, each as the numbers of the bins that it fell into.

    eight bytes   how many rows have ever come
    bytes         the rows, a byte for each feature; the newest takes the place of the oldest

Worker processes that share it take turns without a lock: whoever were to wait for another would hold up its requests.
If two come at the same moment, some of their rows are lost, and that is all: any bytes there are rows of the window.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import weakref
from pathlib import Path

import numpy as np

from service.tensors import Array

SUFFIX = ".window"

_HEADER = 8


class Window:
    """Of `rows` rows with `features` features."""

    def __init__(self, rows: int, features: int, area: "bytearray | mmap.mmap | None" = None) -> None:
        self.size = rows
        area = bytearray(size_of(rows, features)) if area is None else area
        self._came = memoryview(area)[:_HEADER].cast("q")
        self._rows = np.frombuffer(area, np.uint8, offset=_HEADER).reshape(rows, features)

    @property
    def came(self) -> int:
        return self._came[0]

    def append(self, bins: Array) -> None:
        """`bins`: [n, features] uint8."""
        size = self.size
        came = self._came[0]
        place = came % size
        newest = bins[-size:]
        first = newest[: size - place]
        self._rows[place : place + len(first)] = first
        self._rows[: len(newest) - len(first)] = newest[len(first) :]
        # Never back to fewer, where others were quicker.
        self._came[0] = max(self._came[0], came + len(newest))

    def rows(self) -> Array:
        """[n, features] in no order, n at most the window's size. A view: what comes next changes it."""
        return self._rows[: self._came[0]]


def shared_window(folder: Path, key: bytes, rows: int, features: int) -> Window:
    """The one that all processes have for this key. Its file goes with the last version that writes into it.

    Raises OSError.
    """
    path = folder / (hashlib.sha256(key).hexdigest()[:32] + SUFFIX)
    size = size_of(rows, features)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
        status = os.fstat(file.fileno())
        # Written, not only made longer: to touch a hole in a file for which there is no room kills the process.
        if status.st_size < size and file.write(bytes(size)) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        window = Window(rows, features, mmap.mmap(file.fileno(), size))
    # Not when the process ends: others go on, and one that takes its place joins them.
    weakref.finalize(window, _remove, path, status.st_ino).atexit = False
    return window


def _remove(path: Path, inode: int) -> None:
    """Another process may have removed it, and loaded the version again."""
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()


def size_of(rows: int, features: int) -> int:
    return _HEADER + rows * features
