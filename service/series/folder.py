"""The folder in which processes share their stores: who is alive, and what becomes of the counts of the dead."""

import fcntl
import logging
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.series.store import CHUNK, SUFFIX, FileStore, parse_key, records

# The first part of a key. Counts are added up over all processes there ever were, gauges over those that live.
COUNT, GAUGE = "count", "gauge"

RETIRED = "retired"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SharedFile:
    """One process's store. `area` is what it has written up to now, and goes on changing."""

    name: str
    area: memoryview
    is_locked: bool

    @property
    def pid(self) -> int | None:
        """None for the counts of dead processes."""
        owner = self.name.partition(".")[0]
        return None if owner == RETIRED else int(owner)


@contextmanager
def shared_files(folder: Path, *, to_change: bool = False) -> Iterator[Iterator[SharedFile]]:
    """Every store of the folder. Meanwhile none is taken away; `to_change`: nor read by others.

    Raises:
        BlockingIOError: `to_change`, and somebody reads.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if to_change else fcntl.LOCK_SH)
        yield (_look(path) for path in sorted(folder.glob(f"[!.]*{SUFFIX}")))
    finally:
        os.close(descriptor)


def _look(path: Path) -> SharedFile:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            is_locked = False
        except BlockingIOError:
            is_locked = True
        # Of a chunk that it is just adding there may be a part.
        length = path.stat().st_size // CHUNK * CHUNK
        # There is none where the disk was full from the beginning.
        area = memoryview(mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) if length else b"")
        return SharedFile(path.name, area, is_locked)


class Retired:
    """The counts of processes that ended, kept by the one that watches over them: so sums never fall, and a scrape
    takes no longer, however many have come and gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = FileStore(folder, RETIRED)
        self._waiting: set[int] = set()

    def take_in(self, pid: int) -> None:
        """Adds what this process counted, which has ended, and removes its store. While one reads, it waits for the
        next time: the living must not wait for who may be stuck.

        Not before its parent has noticed the end: until then whoever reads wants to know of the process."""
        self._waiting.add(pid)
        try:
            with shared_files(self._folder, to_change=True) as files:
                for file in files:
                    if file.pid in self._waiting and not file.is_locked:
                        self._add(file)
                        (self._folder / file.name).unlink()
                self._waiting.clear()
        except BlockingIOError:
            pass
        except OSError as error:
            # Whoever watches over the processes must go on, whatever becomes of their metrics.
            logger.error("%s: what ended processes counted cannot be taken in: %s", self._folder, error.strerror)

    def _add(self, file: SharedFile) -> None:
        numbers = file.area.cast("d")
        for record in records(file.area):
            key = parse_key(record.key)
            if key[0] == COUNT:
                cells = self._store.cells(key, record.size)
                for index in range(record.size):
                    cells[index] += numbers[record.first + index]
