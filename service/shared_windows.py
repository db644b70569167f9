"""What `limits` counts in, for processes of one machine: it brings storages in one process's memory, and such that
need a server of their own."""

import fcntl
import hashlib
import logging
import mmap
import os
import time
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

from limits.storage import MovingWindowSupport, Storage

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


class SharedWindows(Storage, MovingWindowSupport):
    """Moving windows, and nothing else that a storage may offer.

    `folder`: what the processes share; None for one that is alone. `clock`: the same in all of them, and one that
    nobody sets; the times that this gives are of that clock. To be used by one thread.
    """

    STORAGE_SCHEME = None
    base_exceptions = OSError

    def __init__(self, folder: Path | None = None, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._folder = folder
        self._clock = clock
        self._rings: dict[str, _Ring] = {}

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        if amount > limit:
            return False
        with self._ring(key, limit) as ring:
            now = self._clock()
            if ring.time_of(amount - 1) > now - expiry:
                return False
            for _ in range(amount):
                ring.add(now)
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest entry within the window was made, and how many there are."""
        with self._ring(key, limit) as ring:
            now = self._clock()
            gone = bisect_right(range(limit), now - expiry, key=ring.time_of)
            return (ring.time_of(gone) if gone < limit else now), limit - gone

    def clear(self, key: str) -> None:
        raise NotImplementedError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError

    def get(self, key: str) -> int:
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        raise NotImplementedError

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        raise NotImplementedError

    def _ring(self, key: str, limit: int) -> "_Ring":
        if (ring := self._rings.get(key)) is None:
            name = "rate-" + hashlib.sha256(key.encode()).hexdigest()
            ring = self._rings[key] = _Ring(self._folder / name if self._folder else None, limit)
        return ring


class _Ring:
    """The times of the last `size` entries; -infinity for those that there were not.

    In a file: how many there ever were, and then the times. Whoever writes holds its lock, which the system gives back
    when he is killed.
    """

    def __init__(self, path: Path | None, size: int) -> None:
        self._size = size
        self._file = -1
        length = 8 * (1 + size)
        area: mmap.mmap | None = None
        if path is not None:
            try:
                area = self._share(path, length)
            except OSError as error:
                # A full disk must cost nobody his answer.
                logger.error("%s cannot be made: %s; each worker process counts for itself", path, error.strerror)
        self._counts = memoryview(area or mmap.mmap(-1, length)).cast("q")
        self._times = memoryview(self._counts).cast("B").cast("d")

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def _share(self, path: Path, length: int) -> mmap.mmap:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with self:
            if os.fstat(self._file).st_size < length:
                # Not only made longer: to touch a hole for which there is no room kills the process.
                os.posix_fallocate(self._file, 0, length)
        return mmap.mmap(self._file, length)

    def __enter__(self) -> "_Ring":
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def time_of(self, place: int) -> float:
        """Of the entries that are kept, the oldest first."""
        count = self._counts[0]
        if place < self._size - count:
            return float("-inf")
        return self._times[1 + (count + place) % self._size]

    def add(self, now: float) -> None:
        count = self._counts[0]
        self._times[1 + count % self._size] = now
        self._counts[0] = count + 1
