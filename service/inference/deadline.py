"""Deadlines: until when a request's answer is waited for, and whether anybody still does."""

import threading
from collections.abc import Callable
from enum import StrEnum
from math import inf
from time import perf_counter

from service.errors import InvalidRequest, ServingError

HEADER = b"x-request-timeout-ms"
# Three weeks; more is as good as no limit, and timers take it.
_MAX_MS = 2**31


class Stage(StrEnum):
    """What a request was doing when its time was up."""

    THREAD = "waiting for a free thread"
    TURN = "waiting for its turn"
    READING = "being read, or waiting for its model to be loaded"
    MODEL = "waiting for its model, which was busy with requests before it"
    RUN = "being run by its model"


class DeadlineExceeded(ServingError):
    status = 504


def _nobody_is_told() -> None: ...


class Deadline:
    """One request's. The event loop watches the time and the client, and ends it; a thread that works at the request
    asks whether it has ended, and says what the request is waiting for.

    `at`: in perf_counter's seconds; infinity: only the client's leaving ends it. `run_began`: so, too, while its model
    runs it; else 0. `batch_size`: rows that are run together, with these.
    """

    __slots__ = (
        "_is_claimed",
        "_wake",
        "at",
        "batch_size",
        "is_cancelled",
        "on_expired",
        "run_began",
        "stage",
        "time_allowed",
    )

    def __init__(self, at: float, time_allowed: str) -> None:
        self.at = at
        self.time_allowed = time_allowed
        self.stage = Stage.THREAD
        self.run_began = 0.0
        self.batch_size = 0
        self.is_cancelled = False
        # Told, by the event loop, where the time has passed.
        self.on_expired: Callable[[], None] = _nobody_is_told
        self._wake: Callable[[], object] | None = None
        self._is_claimed = threading.Lock()

    @classmethod
    def unlimited(cls) -> "Deadline":
        return cls(inf, "")

    def seconds_left(self) -> float | None:
        return None if self.at == inf else self.at - perf_counter()

    def has_expired(self) -> bool:
        return perf_counter() >= self.at

    def claim(self) -> bool:
        """True for the first who asks: he counts the request, and it is answered as he says."""
        return self._is_claimed.acquire(blocking=False)

    def runs(self, began: float, batch_size: int) -> None:
        """Its model has begun; for the thread that lets it."""
        self.stage, self.run_began, self.batch_size = Stage.RUN, began, batch_size

    def on_cancel(self, wake: Callable[[], object] | None) -> None:
        """It is called, by the event loop, once the deadline is over; at once where it is."""
        self._wake = wake
        if self.is_cancelled and wake is not None:
            wake()

    def end(self) -> None:
        self.is_cancelled = True
        if self._wake is not None:
            self._wake()

    def check(self) -> None:
        """Raises DeadlineExceeded once it is over. Nobody will see that: who waited is answered by then, or has
        left."""
        if self.is_cancelled:
            raise DeadlineExceeded(self.sentence)

    @property
    def sentence(self) -> str:
        return f"the request took longer than {self.time_allowed}; it was {self.stage}"


class Deadlines:
    """`longest_ms`: what a request may take that does not say; less if it says less. 0: as long as it takes."""

    def __init__(self, max_ms: int) -> None:
        self._max_ms = max_ms or _MAX_MS
        self._has_limit = max_ms > 0

    def default(self, arrived: float) -> Deadline:
        """`arrived`: in perf_counter's seconds."""
        if not self._has_limit:
            return Deadline.unlimited()
        return Deadline(arrived + self._max_ms / 1000, f"{self._max_ms} ms (SERVING_REQUEST_TIMEOUT_MS)")

    def asked(self, header: bytes, arrived: float) -> Deadline:
        """`header`: X-Request-Timeout-Ms. Raises InvalidRequest where it is no whole number of milliseconds."""
        if not header.isdigit() or not (milliseconds := int(header[:20])):
            raise InvalidRequest(
                f"X-Request-Timeout-Ms is {header[:40].decode('latin-1')!r}; expected a whole number of milliseconds, "
                "at least 1"
            )
        if milliseconds >= self._max_ms:
            return self.default(arrived)
        return Deadline(arrived + milliseconds / 1000, f"{milliseconds} ms (X-Request-Timeout-Ms)")
