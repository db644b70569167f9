"""What each worker process loads and runs at this moment, for the first process to read when the worker has died.

A worker's marks, in words: whether it ended in order, and then for each of its threads

    thread    as `threading.get_ident` and faulthandler call it; 0: none
    loading   the version that it loads; 0: none
    running   the version that it runs; 0: none

A version is named by the place of its record, which all processes share. There is one for each state of its files:

    ended        after how many deaths it was ended; 0: it may be loaded and run
    suspect      while there are deaths that it may be to blame for: 2 where it alone is of one of them, else 1
    pardons      how often an operator asked for it all the same
    began        when it was loaded first, in ns by the monotonic clock
    loader       the process that loads it, or did so last
    has_loaded   1 once a worker has loaded it
    has_run      1 once a run of it has come to its end
"""

import json
import threading
from typing import NamedTuple

from service.runtime.shared_memory import Areas, Kind, MemoryFull, SharedMemory

ENDED, SUSPECT, PARDONS, BEGAN, LOADER, HAS_LOADED, HAS_RUN = range(7)
RECORD_BYTES = 8 * 7

# Threads that load or run versions at a time; what more of them do is not marked.
MAX_THREADS = 256

_ENDED_IN_ORDER, _FIRST = 0, 1
_THREAD, LOADING, RUNNING = 0, 1, 2
_ROW = 3
_BYTES = 8 * (_FIRST + _ROW * (MAX_THREADS + 1))


class UnderWay(NamedTuple):
    """Of one thread. Versions by the places of their records; 0: none."""

    thread: int
    loading: int
    running: int


class Marks:
    """Of this worker process. `words`, and `local.place` in a thread that has called `place`, save time."""

    def __init__(self, memory: SharedMemory, slot: int) -> None:
        try:
            area = Areas(memory, Kind.MARKS).take(slot, b"", _BYTES)
            # Those of the worker before.
            memory.clear(area)
            self.words = memory.words_of(area)
        except MemoryFull:
            self.words = memoryview(bytearray(_BYTES)).cast("q")
        self.local = threading.local()
        self._free = list(range(_FIRST + _ROW * (MAX_THREADS - 1), 0, -_ROW))

    def place(self) -> int:
        """Of this thread's row."""
        try:
            return int(self.local.place)
        except AttributeError:
            # The last row is of all threads that are too many, and nobody's.
            if self._free:
                place: int = self._free.pop()
                self.words[place + _THREAD] = threading.get_ident()
                self.local.row = _Row(self, place)
            else:
                place = _FIRST + _ROW * MAX_THREADS
            self.local.place = place
            return place

    def set_loading(self, version: int) -> None:
        self.words[self.place() + LOADING] = version

    def end_in_order(self) -> None:
        """The worker ends because it is to, or because something hangs: no version killed it."""
        self.words[_ENDED_IN_ORDER] = 1

    def free(self, place: int) -> None:
        self.words[place + _THREAD] = 0
        self._free.append(place)


class _Row:
    """Ends with its thread."""

    def __init__(self, marks: Marks, place: int) -> None:
        self._marks = marks
        self._place = place

    def __del__(self) -> None:
        self._marks.free(self._place)


def record_key(model: str, version: int, files: int) -> bytes:
    return json.dumps((model, version, files)).encode()


def version_of(key: bytes) -> tuple[str, int]:
    model, version, _ = json.loads(key)
    return model, version


def under_way(memory: SharedMemory, areas: Areas, slot: int) -> list[UnderWay]:
    """What the worker of a slot did when it died; nothing where it ended in order. `areas`: of the kind MARKS."""
    areas.refresh()
    area = areas.found.get((slot, b""))
    if area is None:
        return []
    words = memory.words_of(area)[: _BYTES // 8].tolist()
    if words[_ENDED_IN_ORDER]:
        return []
    rows = [UnderWay(*words[place : place + _ROW]) for place in range(_FIRST, len(words) - _ROW, _ROW)]
    return [row for row in rows if row.thread and (row.loading or row.running)]
