"""Find out which version killed a worker process, and end it.

Workers mark what each thread loads and runs (`Marks`). When one dies, the first process reads its marks (`Deaths`).

The version that the crashed thread ran or loaded, by faulthandler's report, is to blame. If the thread is not known (it
was TensorFlow's, or the OOM killer came), the blame is shared by all versions that were being loaded; else by the
running ones that have never finished a run; else by all running ones. A version whose blame amounts to two deaths is
ended, unless another suspect has more; of two with the same blame, the one that was loaded later.
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

# A single death may be a cosmic ray.
DEATHS_TO_END = 2
# Of added shares.
ROUNDING = 1e-9
# How many unexplained deaths are kept.
MAX_DEATHS = 1000
# A kill by the kernel without a death within this time was of another process.
FRESH_SECONDS = 10.0
# The metric's name, without `_total`.
METRIC = "serving_model_deaths"

# The record that all processes share of a version with its present files, in words:
#
#     ended        number of deaths that it was ended for; 0: it may be loaded and run
#     suspect      2 if it is the only suspect of a death, 1 if one of several, else 0
#     pardons      how often an operator loaded it again in spite of deaths
#     began        when it was first loaded, in ns by the monotonic clock
#     loader       the process that loads it, or loaded it last
#     has_loaded   1 once a worker has loaded it
#     has_run      1 once it has finished a run
ENDED, SUSPECT, PARDONS, BEGAN, LOADER, HAS_LOADED, HAS_RUN = range(7)
RECORD_BYTES = 8 * 7

# The marks of a worker, in words: whether it ended in order, then for each of its threads
#
#     thread    its id, as `threading.get_ident` and faulthandler give it; 0: none
#     loading   the version that it loads, as the place of its record; 0: none
#     running   the version that it runs; 0: none
_ENDED_IN_ORDER, _FIRST = 0, 1
_THREAD, LOADING, RUNNING = 0, 1, 2
_ROW = 3
# Threads that load or run versions; further ones are not marked.
MAX_THREADS = 256
_BYTES = 8 * (_FIRST + _ROW * (MAX_THREADS + 1))

# Signals of a process that crashed by itself. SIGKILL may come from anybody.
_CRASHES = [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS]
_CURRENT_STACK = re.compile(r"^Current thread 0x([0-9a-f]+)[^\n]*\n((?:  [^\n]*(?:\n|$))*)", re.MULTILINE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker process ended. `signal`, `code`: as its parent learned; both None if it missed that. `crash`:
    faulthandler's report. `is_aborted`: its parent killed it, since it hung."""

    signal: int | None = None
    code: int | None = None
    crash: str = ""
    is_aborted: bool = False


class Deaths:
    """Deaths of workers, in the first process, which outlives them."""

    def __init__(self, memory: SharedMemory, kills: "OomKills | None" = None) -> None:
        self._memory = memory
        self._kills = kills or OomKills()
        self._marks = Areas(memory, Kind.MARKS)
        self._records = Areas(memory, Kind.VERSION)
        self._counts = Areas(memory, Kind.COUNT)
        # For each death the places of the suspects' records, with their pardons at that time.
        self._deaths: list[dict[int, int]] = []

    def poll(self) -> None:
        self._kills.poll()

    def worker_ended(self, slot: int, ending: Ending) -> None:
        """Find who is to blame. Call it once for each worker, before another one gets its slot."""
        if found := _CURRENT_STACK.search(ending.crash):
            logger.error("a worker process crashed; Python was at (most recent call first):\n%s", found[2].rstrip())
        rows = under_way(self._memory, self._marks, slot)
        cause = self._cause(ending)
        if cause is None or not rows:
            return
        self._records.refresh()
        records = {area.start: area for area in self._records.found.values()}
        places = self._suspects(rows, ending, records)
        suspects = [records[place] for place in sorted(places) if place in records]
        if not suspects:
            return
        names = " or ".join(map(_name, suspects))
        logger.error("a worker process died of %s (%s)", names, cause)
        self._deaths = [death for death in self._deaths if self._still_counts(death, records)]
        self._deaths.append({area.start: self._words(area)[PARDONS] for area in suspects})
        del self._deaths[:-MAX_DEATHS]
        for area in suspects:
            self._count(area, 1 / len(suspects))
        self._end_the_most_blamed(suspects)
        for area in records.values():
            others = [len(death) - 1 for death in self._deaths if area.start in death]
            self._words(area)[SUSPECT] = 0 if not others else 1 if min(others) else 2

    def _cause(self, ending: Ending) -> str | None:
        """The cause of a death that a version may be to blame for; None if the worker was told to end or killed."""
        if ending.is_aborted:
            return None
        if ending.signal in _CRASHES:
            return signal.Signals(ending.signal).name
        if ending.crash:
            return ending.crash.partition("\n")[0]
        if ending.signal in (signal.SIGKILL, None) and ending.code is None:
            return "killed by the kernel, for it took too much memory" if self._kills.claim() else None
        # Without being told to, and without saying so.
        return f"it exited with code {ending.code}" if ending.code is not None else None

    def _suspects(self, rows: "list[UnderWay]", ending: Ending, records: dict[int, Area]) -> set[int]:
        if found := _CURRENT_STACK.search(ending.crash):
            # Nobody, if that thread neither loaded nor ran a version: the fault is ours.
            return {row.running or row.loading for row in rows if row.thread == int(found[1], 16)}
        if loading := {row.loading for row in rows if row.loading}:
            # Suspects are loaded one at a time.
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
        # The other suspects of these deaths are cleared.
        self._deaths = [death for death in self._deaths if area.start not in death]

    def _still_counts(self, death: dict[int, int], records: dict[int, Area]) -> bool:
        """Whether no suspect has been pardoned since."""
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


class OomKills:
    """Whether the kernel has killed a process for lack of memory, by its counters."""

    def __init__(
        self, count: Callable[[], int | None] = oom_kills, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._clock = clock
        self._last = count()
        self._fresh = 0
        self._fresh_until = 0.0

    def poll(self) -> None:
        """Call it about every second: kills that nobody claims expire."""
        now, count = self._clock(), self._count()
        if now > self._fresh_until:
            self._fresh = 0
        if count is not None and self._last is not None and count > self._last:
            self._fresh += count - self._last
            self._fresh_until = now + FRESH_SECONDS
        self._last = count

    def claim(self) -> bool:
        """Whether the kernel killed a process that has just died. Each kill can be claimed once."""
        self.poll()
        if not self._fresh:
            return False
        self._fresh -= 1
        return True


class Marks:
    """What this worker's threads load and run. Once a thread has called `place`, it may use `words` and `local.place`
    directly, which is faster."""

    def __init__(self, memory: SharedMemory, slot: int) -> None:
        try:
            area = Areas(memory, Kind.MARKS).take(slot, b"", _BYTES)
            # The previous worker's.
            memory.clear(area)
            self.words = memory.words_of(area)
        except MemoryFull:
            self.words = memoryview(bytearray(_BYTES)).cast("q")
        self.local = threading.local()
        self._free = list(range(_FIRST + _ROW * (MAX_THREADS - 1), 0, -_ROW))

    def place(self) -> int:
        """Where the row of this thread begins."""
        try:
            return int(self.local.place)
        except AttributeError:
            # All threads beyond MAX_THREADS share the last row, which is not read.
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
        """The worker ends because it was told to, or because something hangs: no version killed it."""
        self.words[_ENDED_IN_ORDER] = 1

    def free(self, place: int) -> None:
        self.words[place + _THREAD] = 0
        self._free.append(place)


class _Row:
    """Frees a row at the end of its thread."""

    def __init__(self, marks: Marks, place: int) -> None:
        self._marks = marks
        self._place = place

    def __del__(self) -> None:
        self._marks.free(self._place)


class UnderWay(NamedTuple):
    """The marks of one thread. Versions are the places of their records; 0: none."""

    thread: int
    loading: int
    running: int


def under_way(memory: SharedMemory, areas: Areas, slot: int) -> list[UnderWay]:
    """What the worker of a slot loaded and ran when it died; empty if it ended in order. `areas`: of the kind MARKS."""
    areas.refresh()
    area = areas.found.get((slot, b""))
    if area is None:
        return []
    words = memory.words_of(area)[: _BYTES // 8].tolist()
    if words[_ENDED_IN_ORDER]:
        return []
    rows = [UnderWay(*words[place : place + _ROW]) for place in range(_FIRST, len(words) - _ROW, _ROW)]
    return [row for row in rows if row.thread and (row.loading or row.running)]


def record_key(model: str, version: int, files: int) -> bytes:
    """`files`: fingerprint of the version's files."""
    return json.dumps((model, version, files)).encode()


def version_of(key: bytes) -> tuple[str, int]:
    model, version, _ = json.loads(key)
    return model, version


def _name(area: Area) -> str:
    model, version = version_of(area.key)
    return f"{model} version {version}"
