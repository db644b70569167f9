"""Rate limits: how many requests a key may send, over all worker processes together."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from math import ceil

from service.runtime.shared_memory import COMMON, Areas, FileLock, Kind, MemoryFull, SharedMemory
from service.settings import Rate, parse_rate

Clock = Callable[[], float]

logger = logging.getLogger(__name__)


class RateLimits:
    """Makes the limits of keys. `memory`: shared by the worker processes; None for a process that is alone."""

    def __init__(self, memory: SharedMemory | None = None, clock: Clock = time.monotonic) -> None:
        """`clock`: the same in all processes. By default one that nobody sets."""
        self._given_memory = memory
        self._clock = clock

    def of(self, name: str, text: str) -> "RateLimit | None":
        """The limit of the key `name`. `text` as `parse_rate` accepts it; None if it is empty."""
        return RateLimit(parse_rate(text), name, self._ring, self._clock) if text else None

    def _ring(self, name: str, rate: Rate) -> "_Ring":
        size = 8 * (1 + rate.requests)
        try:
            area = self._areas.take(COMMON, f"{name} {rate}".encode(), size)
        except MemoryFull as error:
            logger.error("%s; each worker process limits %s on its own", error.strerror, name or "all clients")
            return _Ring(memoryview(bytearray(size)), nullcontext())
        return _Ring(self._memory.bytes_of(area)[:size], FileLock(self._memory, area.start))

    @cached_property
    def _memory(self) -> SharedMemory:
        return self._given_memory or SharedMemory()

    @cached_property
    def _areas(self) -> Areas:
        return Areas(self._memory, Kind.RING)


class RateLimit:
    """One key's limit. It is exact: no window of `rate.seconds`, wherever it begins, has more than `rate.requests`.

    To be used by one thread of each process.
    """

    def __init__(self, rate: Rate, name: str, make_ring: Callable[[str, Rate], "_Ring"], clock: Clock) -> None:
        self._rate = rate
        self._name = name
        self._make_ring = make_ring
        self._clock = clock

    def __str__(self) -> str:
        return str(self._rate)

    def seconds_to_wait(self) -> int:
        """Count this request and return 0; or the seconds until the next one is accepted, and count nothing."""
        requests, seconds = self._rate
        ring = self._ring
        counts, times = ring.counts, ring.times
        with ring.lock:
            now, count = self._clock(), counts[0]
            place = count % requests
            wait = times[place] + seconds - now
            if wait > 0 and count >= requests:
                return max(1, ceil(wait))
            # In this order: a worker that is killed in between leaves an old time behind, which rejects nobody.
            counts[0] = count + 1
            times[place] = now
        return 0

    @cached_property
    def _ring(self) -> "_Ring":
        return self._make_ring(self._name, self._rate)


class _Ring:
    """The times of the last N accepted requests: a word that counts all requests so far, then N doubles, of which each
    request overwrites the oldest."""

    def __init__(self, content: memoryview, lock: AbstractContextManager[object]) -> None:
        self.counts = content.cast("q")
        self.times = content.cast("d")[1:]
        self.lock = lock
