"""Memory that the first process maps before it forks, and its workers inherit: without any path that could be lost.

It begins with a table of slots, one for each worker process, and goes on with areas, only ever appended to:

    five words   length of it all, kind, owner, length of the key, where the content begins
    key          bytes, filled up to a multiple of eight
    content      zeros at first

A worker owns the areas of its slot and is the only one who writes into them; who takes over the slot of a worker that
died goes on with them. Appending takes a lock that the kernel gives back when its holder is killed, and an area counts
once the memory's end is behind it: whoever is killed at any moment leaves nothing half.
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

# Address space, of which only what is used takes memory. Less where the system does not have so much.
CAPACITY = 8 * 2**30
MIN_CAPACITY = 16 * 2**20
SLOTS = 1024

# Owners that are no slot: what is everybody's, written under the lock, and the first process.
COMMON, FIRST_PROCESS = -1, -2

_WORD = 8
# Words: the end of the last area, the end of what somebody has begun to write behind it; then three for each slot.
_END, _DRAFT_END, _SLOTS = 0, 1, 2
_PID, _BEAT, _LISTENS = 0, 1, 2
_SLOT_WORDS = 3
_AREA_WORDS = 5
# Python 3.11 and 3.12 do not name it: pages are accounted for when they are used.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform == "linux" else 0


class Kind(IntEnum):
    """Counts are added up over all slots, gauges over those whose workers live."""

    COUNT = 1
    GAUGE = 2
    VALUE = 3
    WINDOW = 4
    RING = 5
    VERSION = 6
    MARKS = 7


class MemoryFull(OSError):
    """There is no room for a new area; what is there goes on."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "the memory that worker processes share is full")


class Area(NamedTuple):
    """`start`: the first byte of its content; `size`: of that, in bytes, a multiple of eight."""

    kind: int
    owner: int
    key: bytes
    start: int
    size: int


class SharedMemory:
    """Also for a process that is alone. Made in the first process; `enter` is called in each that counts."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._map = _reserved(capacity)
        if hasattr(mmap, "MADV_DONTDUMP"):
            # Else who dumps a core goes through all of it.
            self._map.madvise(mmap.MADV_DONTDUMP)
        self.view = memoryview(self._map)
        self._words = self.view.cast("q")
        self._seconds = self.view.cast("d")
        self._lock = threading.Lock()
        # Of no length, and never read: the kernel keeps locks by file and process.
        self.lock_file = nameless_file()
        self._free_slots = list(range(SLOTS - 1, -1, -1))
        self.first_process = os.getpid()
        self._words[_END] = _rounded_up((_SLOTS + _SLOT_WORDS * SLOTS) * _WORD, mmap.PAGESIZE)

    def __del__(self) -> None:
        if hasattr(self, "lock_file"):
            os.close(self.lock_file)

    # Slots. The first process reserves and frees them, a worker fills its own.

    def reserve_slot(self) -> int:
        if not self._free_slots:
            raise RuntimeError(f"there are {SLOTS} worker processes already")
        return self._free_slots.pop()

    def free_slot(self, slot: int) -> None:
        """Its worker has ended: its gauges vanish, and nobody waits for it."""
        self._set(slot, _PID, 0)
        self._set(slot, _LISTENS, 0)
        self._free_slots.append(slot)

    def enter(self, slot: int) -> None:
        """This process counts from now on, in the areas of this slot."""
        for area in self.areas():
            if area.owner == slot and area.kind == Kind.GAUGE:
                self.clear(area)
        self._set(slot, _PID, os.getpid())

    def pid(self, slot: int) -> int:
        """Of the worker that has entered; 0 where there is none."""
        return self._words[_SLOTS + _SLOT_WORDS * slot + _PID]

    def pids(self) -> list[int]:
        return self._of_all_slots(_PID)

    def note_listening(self, slot: int) -> None:
        """Its worker takes connections from now on."""
        self._set(slot, _LISTENS, 1)

    def listens(self, slot: int) -> bool:
        return bool(self._of_all_slots(_LISTENS)[slot])

    def others_listen(self, slot: int) -> bool:
        """Whether any worker but this slot's takes connections."""
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

    # Areas.

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For microseconds, and never around anything that waits. Not to be taken twice by one thread."""
        with self._lock, FileLock(self, 0):
            yield

    @property
    def end(self) -> int:
        """Grows with each area."""
        return self._words[_END]

    def areas(self, start: int = 0) -> Iterator[Area]:
        """Those from this place on, which is 0 or what `end` was."""
        # What is written under the lock is seen by who has taken it since, on any processor.
        with self.locked():
            end = self._words[_END]
        return self.areas_until(start, end)

    def areas_until(self, start: int, end: int) -> Iterator[Area]:
        """For who holds the lock, or held it when that was the end."""
        place = start or _rounded_up((_SLOTS + _SLOT_WORDS * SLOTS) * _WORD, mmap.PAGESIZE)
        while place < end:
            first = place // _WORD
            length, kind, owner, key_length, content = self._words[first : first + _AREA_WORDS].tolist()
            key = place + _AREA_WORDS * _WORD
            yield Area(kind, owner, bytes(self.view[key : key + key_length]), content, place + length - content)
            place += length

    def append(self, kind: Kind, owner: int, key: bytes, size: int) -> Area:
        """For who holds the lock. Raises MemoryFull."""
        start, draft_end = self._words[_END], self._words[_DRAFT_END]
        if draft_end > start:
            # Whoever began it was killed.
            self.view[start:draft_end] = bytes(draft_end - start)
        # So that it can be given back.
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
        """Zeros again; of a large one the memory is given back."""
        if area.size >= mmap.PAGESIZE and hasattr(mmap, "MADV_REMOVE"):
            self._map.madvise(mmap.MADV_REMOVE, area.start, area.size)
        else:
            self.view[area.start : area.start + area.size] = bytes(area.size)


class Areas:
    """Those of one kind, by owner and key; of several with the same, the last."""

    def __init__(self, memory: SharedMemory, kind: Kind) -> None:
        self._memory = memory
        self._kind = kind
        self._end = 0
        self.found: dict[tuple[int, bytes], Area] = {}

    def refresh(self) -> bool:
        """Takes in what was appended since the last time; whether that was anything."""
        if self._memory.end == self._end:
            return False
        with self._memory.locked():
            return self.refresh_locked()

    def refresh_locked(self) -> bool:
        """For who holds the memory's lock."""
        begin, self._end = self._end, self._memory.end
        for area in self._memory.areas_until(begin, self._end):
            if area.kind == self._kind:
                self.found[area.owner, area.key] = area
        return begin != self._end

    def take(self, owner: int, key: bytes, size: int) -> Area:
        """The one that all processes have; made where there is none. `size`: in bytes. Raises MemoryFull."""
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


def nameless_file() -> int:
    """The descriptor of a file that has no name, and where the system can, no disk either. Raises OSError."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fitting-room", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _reserved(capacity: int) -> mmap.mmap:
    while True:
        try:
            return mmap.mmap(-1, capacity, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NORESERVE)
        except OSError:
            # `ulimit -v`, or a system that promises no more than it has.
            if capacity <= MIN_CAPACITY:
                raise
            capacity //= 2


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


# Where a worker process counts: cells of eight bytes in the memory that it shares with the others.

Cells: TypeAlias = "memoryview[float]"

logger = logging.getLogger(__name__)


class Store:
    """Of one slot, which one process has at a time: it goes on with the cells of the one before it."""

    def __init__(self, memory: SharedMemory, slot: int) -> None:
        # Taken by whoever changes a cell, once for all that it changes together.
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
        """The cells of this series; 0 when they are taken for the first time."""
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
