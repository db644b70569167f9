"""A sliding window: the last rows that a version was asked, each as the numbers of the bins that it fell into.

    eight bytes   how many rows have ever come
    bytes         the rows, a byte for each feature; the newest takes the place of the oldest

Worker processes that share it take turns without a lock: whoever were to wait for another would hold up its requests.
If two come at the same moment, some of their rows are lost, and that is all: any bytes there are rows of the window.
"""

import weakref

import numpy as np

from service.runtime.shared_memory import COMMON, Areas, Kind, SharedMemory
from service.tensors.json import Array

_HEADER = 8


class Window:
    """Of `rows` rows with `features` features."""

    def __init__(self, rows: int, features: int, area: "bytearray | memoryview | None" = None) -> None:
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


def shared_window(memory: SharedMemory, key: bytes, rows: int, features: int) -> Window:
    """The one that all processes have for this key. What it holds goes with the last version that writes into it.

    Raises MemoryFull.
    """
    area = Areas(memory, Kind.WINDOW).take(COMMON, key, size_of(rows, features))
    window = Window(rows, features, memory.bytes_of(area)[: size_of(rows, features)])
    # Not when the process ends: others go on, and one that takes its place joins them.
    weakref.finalize(window, memory.clear, area).atexit = False
    return window


def size_of(rows: int, features: int) -> int:
    return _HEADER + rows * features
