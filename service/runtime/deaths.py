"""Versions that kill worker processes: the first process finds out which one a worker died of, and ends it.

Blamed is the version that was run or loaded by the thread in which the worker crashed, as faulthandler wrote down.
Where that is not known (a thread of TensorFlow's own, the kernel's OOM killer), the blame is shared by all versions
that were being loaded, for what is loaded is new; else by those under way that never came to the end of a run; else by
all under way. A version whose blame comes to two deaths is ended, unless another that may be to blame has more of it;
of two with as much, the one that was loaded later.
"""

import json
import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from service.runtime.cgroup import oom_kills
from service.runtime.shared_memory import FIRST_PROCESS, Area, Areas, Kind, MemoryFull, SharedMemory, series_key

# What each worker process loads and runs at this moment, for the first process to read when the worker has died.
#
# A worker's marks, in words: whether it ended in order, and then for each of its threads
#
#     thread    as `threading.get_ident` and faulthandler call it; 0: none
#     loading   the version that it loads; 0: none
#     running   the version that it runs; 0: none
#
# A version is named by the place of its record, which all processes share. There is one for each state of its files:
#
#     ended        after how many deaths it was ended; 0: it may be loaded and run
#     suspect      while there are deaths that it may be to blame for: 2 where it alone is of one of them, else 1
#     pardons      how often an operator asked for it all the same
#     began        when it was loaded first, in ns by the monotonic clock
#     loader       the process that loads it, or did so last
#     has_loaded   1 once a worker has loaded it
#     has_run      1 once a run of it has come to its end

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


# One death may be a cosmic ray.
DEATHS_TO_END = 2
# Of shares that are added up.
ROUNDING = 1e-9
# Of the last deaths that nobody was ended for.
MAX_DEATHS = 1000
# A kill by the kernel that belongs to no death within them was of another process.
FRESH_SECONDS = 10.0
# Without the `_total` behind it.
METRIC = "serving_model_deaths"

# What a process dies of by its own fault; SIGKILL may be anybody's.
_CRASHES = [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS]
_CURRENT_STACK = re.compile(r"^Current thread 0x([0-9a-f]+)[^\n]*\n((?:  [^\n]*(?:\n|$))*)", re.MULTILINE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker process ended. `signal` or `code`: what its parent was told; both None where that was missed.
    `crash`: what faulthandler wrote. `is_aborted`: its parent ended it, for it no longer gave a sign of life."""

    signal: int | None = None
    code: int | None = None
    crash: str = ""
    is_aborted: bool = False


class OomKills:
    """Whether the kernel has killed a process for want of memory, as its counters tell."""

    def __init__(
        self, count: Callable[[], int | None] = oom_kills, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._clock = clock
        self._seen = count()
        self._fresh = 0
        self._fresh_until = 0.0

    def poll(self) -> None:
        """To be called every second or so: what nobody died of is forgotten after a while."""
        now, count = self._clock(), self._count()
        if now > self._fresh_until:
            self._fresh = 0
        if count is not None and self._seen is not None and count > self._seen:
            self._fresh += count - self._seen
            self._fresh_until = now + FRESH_SECONDS
        self._seen = count

    def claim(self) -> bool:
        """For a process that has just been killed: whether it was by the kernel. Each kill is of one process."""
        self.poll()
        if not self._fresh:
            return False
        self._fresh -= 1
        return True


class Deaths:
    """Kept by the first process, which outlives all workers."""

    def __init__(self, memory: SharedMemory, kills: OomKills | None = None) -> None:
        self._memory = memory
        self._kills = kills or OomKills()
        self._marks = Areas(memory, Kind.MARKS)
        self._records = Areas(memory, Kind.VERSION)
        self._counts = Areas(memory, Kind.COUNT)
        # Of each death, the places of the records of those that may be to blame, and how often they were pardoned then.
        self._deaths: list[dict[int, int]] = []

    def poll(self) -> None:
        self._kills.poll()

    def worker_ended(self, slot: int, ending: Ending) -> None:
        """To be called once for each, before its slot is another's."""
        if found := _CURRENT_STACK.search(ending.crash):
            logger.error("a worker process crashed; Python was at (most recent call first):\n%s", found[2].rstrip())
        rows = under_way(self._memory, self._marks, slot)
        how = self._violence(ending)
        if how is None or not rows:
            return
        self._records.refresh()
        records = {area.start: area for area in self._records.found.values()}
        places = self._suspects(rows, ending, records)
        suspects = [records[place] for place in sorted(places) if place in records]
        if not suspects:
            return
        names = " or ".join(map(_name, suspects))
        logger.error("a worker process died of %s (%s)", names, how)
        self._deaths = [death for death in self._deaths if self._is_held_against(death, records)]
        self._deaths.append({area.start: self._words(area)[PARDONS] for area in suspects})
        del self._deaths[:-MAX_DEATHS]
        for area in suspects:
            self._count(area, 1 / len(suspects))
        self._end_the_most_blamed(suspects)
        for area in records.values():
            others = [len(death) - 1 for death in self._deaths if area.start in death]
            self._words(area)[SUSPECT] = 0 if not others else 1 if min(others) else 2

    def _violence(self, ending: Ending) -> str | None:
        """What it died of, where a version may be to blame. None: it was to end, or an operator killed it."""
        if ending.is_aborted:
            return None
        if ending.signal in _CRASHES:
            return signal.Signals(ending.signal).name
        if ending.crash:
            return ending.crash.partition("\n")[0]
        if ending.signal in (signal.SIGKILL, None) and ending.code is None:
            return "killed by the kernel, for it took too much memory" if self._kills.claim() else None
        # It was not told to, and did not say that it would.
        return f"it exited with code {ending.code}" if ending.code is not None else None

    def _suspects(self, rows: list[UnderWay], ending: Ending, records: dict[int, Area]) -> set[int]:
        if found := _CURRENT_STACK.search(ending.crash):
            # One that neither ran nor loaded anything crashed by a fault of ours.
            return {row.running or row.loading for row in rows if row.thread == int(found[1], 16)}
        if loading := {row.loading for row in rows if row.loading}:
            # Since the last death they are loaded one by one.
            return {place for place in loading if self._words(records[place])[SUSPECT]} or loading
        running = {row.running for row in rows if row.running}
        return {place for place in running if not self._words(records[place])[HAS_RUN]} or running

    def _end_the_most_blamed(self, suspects: Collection[Area]) -> None:
        blame, _, area = max((self._blame(area), self._words(area)[BEGAN], area) for area in suspects)
        if blame < DEATHS_TO_END - ROUNDING:
            return
        deaths = sum(area.start in death for death in self._deaths)
        self._words(area)[ENDED] = deaths
        logger.error("%s is ended: %d worker processes died of it", _name(area), deaths)
        # What others were suspected of was its doing.
        self._deaths = [death for death in self._deaths if area.start not in death]

    def _is_held_against(self, death: dict[int, int], records: dict[int, Area]) -> bool:
        return all(self._words(records[place])[PARDONS] == pardons for place, pardons in death.items())

    def _blame(self, area: Area) -> float:
        return sum(1 / len(death) for death in self._deaths if area.start in death)

    def _count(self, area: Area, share: float) -> None:
        model, version = version_of(area.key)
        try:
            count = self._counts.take(FIRST_PROCESS, series_key(METRIC, (model, str(version))), 8)
        except MemoryFull as error:
            logger.error("%s; %s_total is left out", error.strerror, METRIC)
        else:
            self._memory.doubles_of(count)[0] += share

    def _words(self, area: Area) -> "memoryview[int]":
        return self._memory.words_of(area)


def _name(area: Area) -> str:
    model, version = version_of(area.key)
    return f"{model} version {version}"
