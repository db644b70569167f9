"""A sliding window over the last rows of a version, each stored as the numbers of its bins.

    eight bytes   how many rows were ever appended
    bytes         the rows, a byte for each feature; the newest overwrites the oldest

Worker processes that share a window append without a lock, since waiting for each other would hold up requests. If two
append at the same moment, some of their rows are lost, but every row in the window stays valid.
"""

import weakref

import numpy as np

from service.runtime.shared_memory import COMMON, Areas, Kind, SharedMemory
from service.tensors.dtypes import Array

_HEADER = 8


class Window:
    """The last `rows` rows, of `features` features each."""

    def __init__(self, rows: int, features: int, area: "bytearray | memoryview | None" = None) -> None:
        self.size = rows
        area = bytearray(size_of(rows, features)) if area is None else area
        self._total = memoryview(area)[:_HEADER].cast("q")
        self._rows = np.frombuffer(area, np.uint8, offset=_HEADER).reshape(rows, features)

    @property
    def total(self) -> int:
        """How many rows were ever appended."""
        return self._total[0]

    def append(self, bins: Array) -> None:
        """`bins`: [n, features] uint8."""
        size = self.size
        total = self._total[0]
        index = total % size
        newest = bins[-size:]
        first = newest[: size - index]
        self._rows[index : index + len(first)] = first
        if len(first) < len(newest):
            self._rows[: len(newest) - len(first)] = newest[len(first) :]
        # Never decreases, even if another process was faster.
        self._total[0] = max(self._total[0], total + len(newest))

    def rows(self) -> Array:
        """[n, features] in no order, with n up to the window's size. A view: the next append changes it."""
        return self._rows[: self._total[0]]


def shared_window(memory: SharedMemory, key: bytes, rows: int, features: int) -> Window:
    """The window that all processes share under this key. It is cleared once a process no longer refers to its own.

    Raises MemoryFull.
    """
    area = Areas(memory, Kind.WINDOW).take(COMMON, key, size_of(rows, features))
    window = Window(rows, features, memory.bytes_of(area)[: size_of(rows, features)])
    # Not at the end of the process: the others go on, and its successor joins them.
    weakref.finalize(window, memory.clear, area).atexit = False
    return window


def size_of(rows: int, features: int) -> int:
    return _HEADER + rows * features
