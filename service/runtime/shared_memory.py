"""Memory that the first process maps before it forks, and that its workers inherit, without a file that could be lost.

It begins with a table of slots, one for each worker process. Behind it, areas are appended:

    five words   length of the area, kind, owner, length of the key, where the content begins
    key          bytes, padded to a multiple of eight
    content      zeros at first

Only the worker of a slot writes into the slot's areas; the next worker of the slot continues with them. Appending takes
a lock that the kernel releases if its holder is killed. An area is valid once the end of the memory is behind it, so a
process that is killed at any moment leaves nothing half-written.
"""

import errno
import fcntl
import json
import logging
import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NamedTuple, TypeAlias

# Address space; only used pages take memory. Less if the system does not have as much.
CAPACITY = 8 * 2**30
MIN_CAPACITY = 16 * 2**20
SLOTS = 1024

# Owners that are not slots: all processes, which write under the lock, and the first process.
COMMON, FIRST_PROCESS = -1, -2

_WORD = 8
# Words: the end of the last area, the end of an unfinished one behind it; then three for each slot.
_END, _DRAFT_END, _SLOTS = 0, 1, 2
_PID, _BEAT, _LISTENS = 0, 1, 2
_SLOT_WORDS = 3
_AREA_WORDS = 5
# Account for pages when they are used. Python 3.11 and 3.12 have no name for it.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform == "linux" else 0


Cells: TypeAlias = "memoryview[float]"

logger = logging.getLogger(__name__)


class Kind(IntEnum):
    """Kinds of areas. Metrics add up counts over all slots, gauges over those of living workers."""

    COUNT = 1
    GAUGE = 2
    VALUE = 3
    WINDOW = 4
    RING = 5
    VERSION = 6
    MARKS = 7
    ANSWERS = 8
    FEEDBACK = 9


class MemoryFull(OSError):
    """There is no room for a new area. Existing ones are not affected."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "the memory that worker processes share is full")


class Area(NamedTuple):
    """`start`: first byte of the content. `size`: of the content in bytes, a multiple of eight."""

    kind: int
    owner: int
    key: bytes
    start: int
    size: int


class SharedMemory:
    """Create it in the first process, and call `enter` in each worker. A single process may use it, too."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._map = _reserved(capacity)
        if hasattr(mmap, "MADV_DONTDUMP"):
            # Else a core dump would include all of it.
            self._map.madvise(mmap.MADV_DONTDUMP)
        self.view = memoryview(self._map)
        self._words = self.view.cast("q")
        self._seconds = self.view.cast("d")
        self._lock = threading.Lock()
        # Empty: it serves only for locks, which the kernel keeps by file and process.
        self.lock_file = nameless_file()
        self._free_slots = list(range(SLOTS - 1, -1, -1))
        self.first_process = os.getpid()
        self._words[_END] = _rounded_up((_SLOTS + _SLOT_WORDS * SLOTS) * _WORD, mmap.PAGESIZE)

    def __del__(self) -> None:
        if hasattr(self, "lock_file"):
            os.close(self.lock_file)

    # The first process reserves and frees slots, a worker writes its own.

    def reserve_slot(self) -> int:
        if not self._free_slots:
            raise RuntimeError(f"there are {SLOTS} worker processes already")
        return self._free_slots.pop()

    def free_slot(self, slot: int) -> None:
        """Its worker has ended: its gauges no longer count."""
        self._set(slot, _PID, 0)
        self._set(slot, _LISTENS, 0)
        self._free_slots.append(slot)

    def enter(self, slot: int) -> None:
        """This process is the slot's worker from now on."""
        for area in self.areas():
            if area.owner == slot and area.kind == Kind.GAUGE:
                self.clear(area)
        self._set(slot, _PID, os.getpid())

    def pid(self, slot: int) -> int:
        """Of the slot's worker; 0 if there is none."""
        return self._words[_SLOTS + _SLOT_WORDS * slot + _PID]

    def pids(self) -> list[int]:
        return self._of_all_slots(_PID)

    def note_listening(self, slot: int) -> None:
        """Its worker accepts connections from now on."""
        self._set(slot, _LISTENS, 1)

    def listens(self, slot: int) -> bool:
        return bool(self._of_all_slots(_LISTENS)[slot])

    def others_listen(self, slot: int) -> bool:
        """Whether another slot's worker accepts connections."""
        listens = self._of_all_slots(_LISTENS)
        return sum(listens) > listens[slot]

    def beat(self, slot: int, seconds: float) -> None:
        self._seconds[_SLOTS + _SLOT_WORDS * slot + _BEAT] = seconds

    def last_beat(self, slot: int) -> float:
        return self._seconds[_SLOTS + _SLOT_WORDS * slot + _BEAT]

    def _set(self, slot: int, word: int, value: int) -> None:
        self._words[_SLOTS + _SLOT_WORDS * slot + word] = value

    def _of_all_slots(self, word: int) -> list[int]:
        return self._words[_SLOTS + word : _SLOTS + _SLOT_WORDS * SLOTS : _SLOT_WORDS].tolist()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for microseconds, never while waiting. It is not reentrant."""
        with self._lock, FileLock(self, 0):
            yield

    @property
    def end(self) -> int:
        """The end of the last area."""
        return self._words[_END]

    def areas(self, start: int = 0) -> Iterator[Area]:
        """Areas from `start` on, which is 0 or an earlier `end`."""
        # Taking the lock makes everything visible that was written under it.
        with self.locked():
            end = self._words[_END]
        return self.areas_until(start, end)

    def areas_until(self, start: int, end: int) -> Iterator[Area]:
        """Requires the lock, now or when `end` was read."""
        place = start or _rounded_up((_SLOTS + _SLOT_WORDS * SLOTS) * _WORD, mmap.PAGESIZE)
        while place < end:
            first = place // _WORD
            length, kind, owner, key_length, content = self._words[first : first + _AREA_WORDS].tolist()
            key = place + _AREA_WORDS * _WORD
            yield Area(kind, owner, bytes(self.view[key : key + key_length]), content, place + length - content)
            place += length

    def append(self, kind: Kind, owner: int, key: bytes, size: int) -> Area:
        """Requires the lock. Raises MemoryFull."""
        start, draft_end = self._words[_END], self._words[_DRAFT_END]
        if draft_end > start:
            # Its writer was killed.
            self.view[start:draft_end] = bytes(draft_end - start)
        # Whole pages can be released.
        multiple = mmap.PAGESIZE if _rounded_up(size, _WORD) >= mmap.PAGESIZE else _WORD
        content = _rounded_up(start + _AREA_WORDS * _WORD + len(key), multiple)
        end = content + _rounded_up(size, multiple)
        if end > len(self.view):
            raise MemoryFull
        place = start + _AREA_WORDS * _WORD
        self._words[_DRAFT_END] = place + len(key)
        for number, word in enumerate((end - start, kind, owner, len(key), content), start // _WORD):
            self._words[number] = word
        self.view[place : place + len(key)] = key
        self._words[_END] = end
        return Area(kind, owner, key, content, end - content)

    def bytes_of(self, area: Area) -> memoryview:
        return self.view[area.start : area.start + area.size]

    def words_of(self, area: Area) -> "memoryview[int]":
        return self._words[area.start // _WORD : (area.start + area.size) // _WORD]

    def doubles_of(self, area: Area) -> "memoryview[float]":
        return self._seconds[area.start // _WORD : (area.start + area.size) // _WORD]

    def clear(self, area: Area) -> None:
        """Set it to zeros; a large one releases its pages."""
        if area.size >= mmap.PAGESIZE and hasattr(mmap, "MADV_REMOVE"):
            self._map.madvise(mmap.MADV_REMOVE, area.start, area.size)
        else:
            self.view[area.start : area.start + area.size] = bytes(area.size)


class Areas:
    """Areas of one kind, by owner and key; of several with the same key, the last."""

    def __init__(self, memory: SharedMemory, kind: Kind) -> None:
        self._memory = memory
        self._kind = kind
        self._end = 0
        self.found: dict[tuple[int, bytes], Area] = {}

    def refresh(self) -> bool:
        """Read new areas; whether there were any."""
        if self._memory.end == self._end:
            return False
        with self._memory.locked():
            return self.refresh_locked()

    def refresh_locked(self) -> bool:
        """Requires the memory's lock."""
        begin, self._end = self._end, self._memory.end
        for area in self._memory.areas_until(begin, self._end):
            if area.kind == self._kind:
                self.found[area.owner, area.key] = area
        return begin != self._end

    def take(self, owner: int, key: bytes, size: int) -> Area:
        """The area that all processes share, created if missing. `size`: in bytes. Raises MemoryFull."""
        with self._memory.locked():
            self.refresh_locked()
            area = self.found.get((owner, key))
            if area is None or area.size < size:
                area = self.found[owner, key] = self._memory.append(self._kind, owner, key, size)
            return area


class FileLock:
    """Excludes other processes, not other threads of this one. The kernel releases it when its holder is killed.

    `place`: 0 for the memory's own lock, or where an area starts. Taking it costs 1 µs.
    """

    def __init__(self, memory: SharedMemory, place: int) -> None:
        # Also keeps the file open.
        self._memory = memory
        self._place = place

    def __enter__(self) -> None:
        fcntl.lockf(self._memory.lock_file, fcntl.LOCK_EX, 1, self._place)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._memory.lock_file, fcntl.LOCK_UN, 1, self._place)


class Store:
    """Metric series of a slot, as cells of eight bytes. The next worker of the slot continues with them."""

    def __init__(self, memory: SharedMemory, slot: int) -> None:
        # For changing cells, once for all that change together.
        self.lock = threading.Lock()
        self._memory = memory
        self._slot = slot
        self._is_full = False
        self._cells: dict[tuple[int, bytes], Cells] = {
            (area.kind, area.key): memory.doubles_of(area)
            for area in memory.areas()
            if area.owner == slot and area.kind in (Kind.COUNT, Kind.GAUGE)
        }

    def cells(self, kind: Kind, name: str, labels: tuple[str, ...], size: int) -> Cells:
        """The cells of a series, 0 at first."""
        key = series_key(name, labels)
        with self.lock:
            if (kind, key) not in self._cells:
                self._cells[kind, key] = self._append(kind, key, size)
            return self._cells[kind, key]

    def _append(self, kind: Kind, key: bytes, size: int) -> Cells:
        try:
            with self._memory.locked():
                return self._memory.doubles_of(self._memory.append(kind, self._slot, key, 8 * size))
        except MemoryFull as error:
            if not self._is_full:
                logger.error("%s; new metrics of this process are left out", error.strerror)
            self._is_full = True
            return memoryview(bytearray(8 * size)).cast("d")


def series_key(name: str, labels: tuple[str, ...]) -> bytes:
    return json.dumps((name, *labels)).encode()


def parse_series_key(key: bytes) -> tuple[str, tuple[str, ...]]:
    name, *labels = json.loads(key)
    return name, tuple(labels)


def nameless_file() -> int:
    """Descriptor of a file without a name, in memory if the system can. Raises OSError."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fitting-room", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _reserved(capacity: int) -> mmap.mmap:
    while True:
        try:
            return mmap.mmap(-1, capacity, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NORESERVE)
        except OSError:
            # `ulimit -v`, or a system without overcommit.
            if capacity <= MIN_CAPACITY:
                raise
            capacity //= 2


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
