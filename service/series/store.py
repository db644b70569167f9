"""Where one process counts: cells of eight bytes, in memory or in a file that the other processes can read.

A store is a row of records, only ever appended to:

    eight bytes   length of the record; 0 where there is none yet
    eight bytes   length of the key
    key           as JSON: kind, metric, label values; filled up to a multiple of eight bytes
    cells         doubles

The length is written last. So a reader sees a record whole or not at all, also when the writer was killed before it
was done, and a cell always holds either its old or its new value.
"""

import errno
import fcntl
import json
import logging
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

# A store begins with so much, and doubles: each area takes a file descriptor. A version with ten labels takes a
# kilobyte or two, and keeps it when it is gone.
CHUNK = 256 * 1024
# What is not kept for want of room, until there is a look whether there is some.
UNKEPT = 64 * 1024
SUFFIX = ".cells"

_HEADER = 16

Key = tuple[str, ...]
Cells: TypeAlias = "memoryview[float]"

logger = logging.getLogger(__name__)


class Record(NamedTuple):
    """`first`: the number of its first cell, counted in doubles from the store's beginning; `end`: in bytes."""

    key: bytes
    first: int
    size: int
    end: int


class Store:
    """In memory, for a process that is alone."""

    def __init__(self) -> None:
        # Taken by whoever changes a cell, once for all that it changes together.
        self.lock = threading.Lock()
        self.areas: list[memoryview] = []
        self._size = 0
        self._free = memoryview(b"")
        self._cells: dict[Key, Cells] = {}

    def cells(self, key: Key, size: int) -> Cells:
        """The cells of this series; 0 when they are asked for the first time."""
        with self.lock:
            if key not in self._cells:
                self._cells[key] = self._append(json.dumps(key).encode(), size)
            return self._cells[key]

    def _append(self, key: bytes, size: int) -> Cells:
        first = _HEADER + _rounded_up(len(key), 8)
        length = first + 8 * size
        if length > len(self._free):
            self._free = self._grow(length)
        record, self._free = self._free[:length], self._free[length:]
        record[_HEADER : _HEADER + len(key)] = key
        header = record[:_HEADER].cast("q")
        header[1] = len(key)
        header[0] = length
        return record[first:].cast("d")

    def _grow(self, least: int) -> memoryview:
        area = memoryview(bytearray(self._next_length(least)))
        self.areas.append(area)
        self._size += len(area)
        return area

    def _next_length(self, least: int) -> int:
        return max(_rounded_up(least, CHUNK), self._size)


class FileStore(Store):
    """In a file of its own in a folder that processes share. It is locked as long as the process lives, so that others
    know, whatever ends it."""

    def __init__(self, folder: Path, owner: str) -> None:
        super().__init__()
        # Nobody looks at a name with a dot. Seen unlocked, it would be taken for a dead process's.
        descriptor, hidden = tempfile.mkstemp(dir=folder, prefix=".")
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        self.path = folder / f"{owner}{Path(hidden).name}{SUFFIX}"
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._free = self._grow(CHUNK)
        Path(hidden).rename(self.path)

    def _grow(self, least: int) -> memoryview:
        try:
            return self._map(self._next_length(least))
        except OSError as error:
            # A full disk must not cost a request its answer.
            logger.error("%s cannot grow: %s; some metrics of this process are left out", self.path, error.strerror)
            return memoryview(bytearray(max(least, UNKEPT)))

    def _map(self, length: int) -> memoryview:
        # Written, not only made longer: to touch a hole in a file for which there is no room kills the process.
        if os.pwrite(self._file.fileno(), bytes(length), self._size) < length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        area = memoryview(mmap.mmap(self._file.fileno(), length, offset=self._size))
        self._size += length
        return area


def records(area: memoryview, position: int = 0) -> Iterator[Record]:
    """The records of a store from this byte on, as far as they are written."""
    words = area.cast("q")
    while position < len(area):
        if not words[position // 8]:
            # What did not fit into the rest of an area begins the next. Records are written in their order: if there is
            # one and still none here, here is none.
            further = range(_rounded_up(position + 1, CHUNK), len(area), CHUNK)
            begin = next((start for start in further if words[start // 8]), None)
            if begin is None:
                return
            if not words[position // 8]:
                position = begin
            continue
        length, key_length = words[position // 8], words[position // 8 + 1]
        key = position + _HEADER
        first = key + _rounded_up(key_length, 8)
        position += length
        yield Record(bytes(area[key : key + key_length]), first // 8, (position - first) // 8, position)


def parse_key(text: bytes) -> Key:
    """ValueError where it is not there yet: another processor may see a record's length before its key."""
    return tuple(json.loads(text.decode()))


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
