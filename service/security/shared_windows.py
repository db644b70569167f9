"""What `limits` counts in, for processes of one machine: it brings storages in one process's memory, and such that
need a server of their own.

Each process has a ring of its own for a key, which nobody else writes into, so none waits for another:

    word      how many entries there ever were
    doubles   the times of the last so many of them

Who lets something in enters it first, then counts what all have entered, and withdraws it where that is too much. Of
two who do so at once, the one who counts last sees both entries: never is more let in than the limit. Where each sees
both, both withdraw, and less is let in at that moment.
"""

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable

from limits.storage import MovingWindowSupport, Storage

from service.runtime.shared_memory import Areas, Kind, MemoryFull, SharedMemory

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


class SharedWindows(Storage, MovingWindowSupport):
    """Moving windows, and nothing else that a storage may offer.

    `slot`: this process's. `clock`: the same in all of them, and one that nobody sets; the times that this returns are
    of that clock. To be used by one thread.
    """

    STORAGE_SCHEME = None
    base_exceptions = OSError

    def __init__(self, memory: SharedMemory, slot: int = 0, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._memory = memory
        self._slot = slot
        self._clock = clock
        self._areas = Areas(memory, Kind.RING)
        self._own: dict[str, _Ring] = {}
        self._rings: dict[str, list[_Ring]] = {}
        # To take it is a fence: what was written before is seen by others before what is read after.
        self._fence = threading.Lock()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        if amount > limit:
            return False
        own = self._own.get(key) or self._new_ring(key, limit)
        now = self._clock()
        room = limit - amount - own.count_since(now - expiry)
        if room < 0:
            return False
        own.add(now, amount, self._fence)
        with self._fence:
            others = self._others(key, own)
        for ring in others:
            room -= ring.count_since(now - expiry)
        if room < 0:
            own.withdraw()
            return False
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest entry within the window was made, and how many there are."""
        now = self._clock()
        own = self._own.get(key) or self._new_ring(key, limit)
        rings = [own, *self._others(key, own)]
        counts = [ring.count_since(now - expiry) for ring in rings]
        oldest = min((ring.last(count) for ring, count in zip(rings, counts, strict=True) if count), default=now)
        return oldest, min(sum(counts), limit)

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

    def _new_ring(self, key: str, limit: int) -> "_Ring":
        size = 8 * (1 + limit)
        try:
            area = self._areas.take(self._slot, key.encode(), size)
        except MemoryFull as error:
            logger.error("%s; each worker process counts %s for itself", error.strerror, key)
            ring = _Ring(memoryview(bytearray(size)))
        else:
            ring = _Ring(self._memory.bytes_of(area)[:size])
        self._own[key] = ring
        # To take it may have found others' rings, too.
        self._rings = {}
        return ring

    def _others(self, key: str, own: "_Ring") -> list["_Ring"]:
        """The rings of other processes, also of those that ended: what they let in still counts."""
        if self._areas.refresh():
            self._rings = {}
        if key not in self._rings:
            encoded = key.encode()
            self._rings[key] = [
                _Ring(self._memory.bytes_of(area)[: own.length])
                for (owner, of), area in self._areas.found.items()
                if of == encoded and owner != self._slot
            ]
        return self._rings[key]


class _Ring:
    """One process's entries for a key, the oldest first."""

    def __init__(self, content: memoryview) -> None:
        self.length = len(content)
        self._counts = content.cast("q")
        self._times = content.cast("d")[1:]
        self._size = len(self._times)
        self._replaced: list[float] = []

    def count_since(self, moment: float) -> int:
        """How many are later than that."""
        count, size, times = self._counts[0], self._size, self._times
        if not count:
            return 0
        # The newest by itself: while it is withdrawn, an older one stands in its place. The others are in order.
        newest = count - 1
        others = range(max(count - size, 0), newest)
        over = bisect_right(others, moment, key=lambda place: times[place % size])
        return len(others) - over + (times[newest % size] > moment)

    def last(self, number: int) -> float:
        """The time of the last but so many."""
        return self._times[(self._counts[0] - number) % self._size]

    def add(self, now: float, amount: int, fence: threading.Lock) -> None:
        """In place of as many that are over."""
        count, size, times = self._counts[0], self._size, self._times
        self._replaced = [times[place % size] for place in range(count, count + amount)]
        for place in range(count, count + amount):
            times[place % size] = now
        with fence:
            self._counts[0] = count + amount

    def withdraw(self) -> None:
        """What was added last."""
        count = self._counts[0] - len(self._replaced)
        for place, moment in enumerate(self._replaced, count):
            self._times[place % self._size] = moment
        self._counts[0] = count
