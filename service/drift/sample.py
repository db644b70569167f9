"""Which requests are looked at for drift: all, unless they are many or large."""

from collections.abc import Callable

# Of each version in each process. More would tell no more, only take longer, and a window would be a moment's.
REQUESTS_PER_SECOND = 500
# How often it is counted what comes.
COUNT_SECONDS = 1.0


class Sample:
    """Drawn at random, so that requests of no kind are left out."""

    def __init__(self, most: float, per_second: float, draw: Callable[[], float], clock: Callable[[], float]) -> None:
        """`most`: the share, where they are few. `draw`: a number of [0, 1) for each request."""
        self._most = self._share = most
        self._per_second = per_second
        self._draw = draw
        self._clock = clock
        self._came = 0
        self._since = clock()

    def takes(self) -> bool:
        # What threads that count at once lose does not matter.
        self._came += 1
        now = self._clock()
        if (passed := now - self._since) >= COUNT_SECONDS:
            self._share = min(self._most, self._per_second * passed / self._came)
            self._came, self._since = 0, now
        return self._draw() < self._share
