"""Where a worker process counts: cells of eight bytes in the memory that it shares with the others."""

import json
import logging
import threading
from typing import TypeAlias

from service.runtime.shared_memory import Kind, MemoryFull, SharedMemory

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
