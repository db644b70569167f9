"""A sliding window: the last rows that a version was asked, each as the numbers of the bins that it fell into.

    eight bytes   how many rows have ever come
    bytes         the rows, a byte for each feature; the newest takes the place of the oldest

Worker processes that share it take turns without a lock: whoever were to wait for another would hold up its requests.
If two come at the same moment, some of their rows are lost, and that is all: any bytes there are rows of the window.
"""

import weakref
from collections.abc import Callable

import numpy as np

from service.runtime.shared_memory import COMMON, Areas, Kind, SharedMemory
from service.tensors.dtypes import Array

# Which requests are looked at for drift: all, unless they are many or large.

# Of each version in each process. More would tell no more, only take longer, and a window would be a moment's.
MAX_REQUESTS_PER_SECOND = 500
# How often it is counted what comes.
COUNT_SECONDS = 1.0


class Sample:
    """Drawn at random, so that requests of no kind are left out."""

    def __init__(self, most: float, per_second: float, draw: Callable[[], float], clock: Callable[[], float]) -> None:
        """`most`: the share, where they are few. `draw`: a number of [0, 1) for each request."""
        self._most = self._share = most
        self._per_second = per_second
        self._draw = draw
        self._clock = clock
        self._came = 0
        self._since = clock()

    def takes(self) -> bool:
        # What threads that count at once lose does not matter.
        self._came += 1
        now = self._clock()
        if (passed := now - self._since) >= COUNT_SECONDS:
            self._share = min(self._most, self._per_second * passed / self._came)
            self._came, self._since = 0, now
        return self._draw() < self._share


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
