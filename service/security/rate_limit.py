"""How many requests a key may send, over all worker processes."""

import time
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING

from service.runtime.shared_memory import SharedMemory

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.strategies import MovingWindowRateLimiter

# A window keeps the time of each request in it, eight bytes, for each worker process that may let them all in.
MAX_REQUESTS = 1_000_000


class RateLimit:
    """Of one key. In any window of the length that it names, no more requests are let in than it says."""

    def __init__(self, rate: "RateLimitItem", name: str, limiter: "MovingWindowRateLimiter") -> None:
        self._rate = rate
        self._name = name
        self._limiter = limiter

    def __str__(self) -> str:
        return f"{self._rate.amount} requests in {self._rate.get_expiry()} s"

    def seconds_to_wait(self) -> int:
        """0: this request is let in, and counted."""
        if self._limiter.hit(self._rate, self._name):
            return 0
        ends = self._limiter.get_window_stats(self._rate, self._name).reset_time
        return max(1, ceil(ends - time.monotonic()))


class RateLimits:
    """`memory`: what the worker processes share, each with a slot of it; None for one that is alone."""

    def __init__(self, memory: SharedMemory | None = None, slot: int = 0) -> None:
        self._memory = memory
        self._slot = slot

    def of(self, name: str, text: str) -> RateLimit | None:
        """`text` as `parse` takes it; None where it is empty."""
        return RateLimit(parse(text), name, self._limiter) if text else None

    @cached_property
    def _limiter(self) -> "MovingWindowRateLimiter":
        from limits.strategies import MovingWindowRateLimiter

        from service.security.shared_windows import SharedWindows

        return MovingWindowRateLimiter(SharedWindows(self._memory or SharedMemory(), self._slot))


def parse(text: str) -> "RateLimitItem":
    """ "100/second", "5000 per hour", "10 per 2 minutes". Raises ValueError."""
    # It takes 0.1 s and 2 MB, which only who limits shall pay.
    from limits import parse_many

    try:
        rates = parse_many(text)
    except ValueError:
        rates = []
    if len(rates) != 1 or not 1 <= rates[0].amount <= MAX_REQUESTS:
        raise ValueError(f"{text!r}: expected a rate as 100/second or 5000/hour, of at most {MAX_REQUESTS} requests")
    return rates[0]
