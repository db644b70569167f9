"""Deadlines: until when a response is waited for, and whether anybody still waits."""

import re
import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import lru_cache
from math import inf
from time import perf_counter

from service.errors import InvalidRequest, ServingError

DEADLINE_HEADER = b"x-request-timeout-ms"
# gRPC's own: at most eight digits and a unit.
GRPC_TIMEOUT = b"grpc-timeout"
_GRPC_UNITS_MS = {"H": 3_600_000, "M": 60_000, "S": 1000, "m": 1, "u": 1e-3, "n": 1e-6}
_GRPC_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
# Three weeks; more is as good as no limit, and timers take it.
_MAX_MS = 2**31


class Stage(StrEnum):
    """What a request was doing when its deadline expired."""

    THREAD = "waiting for a free thread"
    TICK = "waiting for its turn"
    READING = "being read, or waiting for its model to be loaded"
    PICTURES = "waiting for memory to decode a picture, which others had"
    MODEL = "waiting for its model, which was busy with requests before it"
    RUN = "being run by its model"


class DeadlineExceeded(ServingError):
    status = 504


def _ignore() -> None: ...


class Deadline:
    """The deadline of one request.

    The event loop watches the clock and the client, and cancels the request when the one runs out or the other leaves;
    the thread that handles the request checks that, and keeps `stage` up to date.

    `at`: in perf_counter's seconds; infinity: only the client's leaving cancels the request. `run_began`: the same,
    while its model runs it; else 0. `batch_size`: rows of that run.
    """

    __slots__ = (
        "_is_claimed",
        "_on_cancel",
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
        # Called by the event loop when the time has run out.
        self.on_expired: Callable[[], None] = _ignore
        self._on_cancel: Callable[[], object] | None = None
        self._is_claimed = threading.Lock()

    @classmethod
    def unlimited(cls) -> "Deadline":
        return cls(inf, "")

    def seconds_left(self) -> float | None:
        return None if self.at == inf else self.at - perf_counter()

    def has_expired(self) -> bool:
        return perf_counter() >= self.at

    def claim(self) -> bool:
        """True for the first caller, whose response is sent and counted."""
        return self._is_claimed.acquire(blocking=False)

    def begin_run(self, began: float, batch_size: int) -> None:
        self.stage, self.run_began, self.batch_size = Stage.RUN, began, batch_size

    def on_cancel(self, callback: Callable[[], object] | None) -> None:
        """Call back when the request is cancelled; at once where it is."""
        self._on_cancel = callback
        if self.is_cancelled and callback is not None:
            callback()

    def cancel(self) -> None:
        """Nobody waits for the response any more; for the event loop."""
        self.is_cancelled = True
        if self._on_cancel is not None:
            self._on_cancel()

    def check(self) -> None:
        """Raise DeadlineExceeded once the request is cancelled. Its client has its response by then, or has left."""
        if self.is_cancelled:
            raise DeadlineExceeded(self.message)

    @property
    def message(self) -> str:
        return f"the request took longer than {self.time_allowed}; it was {self.stage}"


class Deadlines:
    """Deadlines of requests. `max_ms`: for those that name none, or a later one. 0: none."""

    def __init__(self, max_ms: int) -> None:
        self._max_ms = max_ms or _MAX_MS
        self._has_limit = max_ms > 0

    def default(self, arrived: float) -> Deadline:
        """`arrived`: in perf_counter's seconds."""
        if not self._has_limit:
            return Deadline.unlimited()
        return Deadline(arrived + self._max_ms / 1000, f"{self._max_ms} ms (SERVING_REQUEST_TIMEOUT_MS)")

    def from_headers(self, headers: Mapping[bytes, bytes], arrived: float) -> Deadline | None:
        """What the client allows; None where it says nothing. Raises InvalidRequest where that is not understood."""
        if (text := headers.get(GRPC_TIMEOUT)) is not None:
            return self._of(_grpc_milliseconds(text), "grpc-timeout", arrived)
        if (text := headers.get(DEADLINE_HEADER)) is not None:
            if not text.isdigit() or not int(text[:20]):
                raise InvalidRequest(
                    f"X-Request-Timeout-Ms is {_shown(text)}; expected a whole number of milliseconds, at least 1"
                )
            return self._of(int(text[:20]), "X-Request-Timeout-Ms", arrived)
        return None

    def _of(self, milliseconds: float, source: str, arrived: float) -> Deadline:
        if milliseconds >= self._max_ms:
            return self.default(arrived)
        return Deadline(arrived + milliseconds / 1000, _time_allowed(milliseconds, source))


# Clients send the same few again and again.
@lru_cache(1024)
def _grpc_milliseconds(text: bytes) -> float:
    if (match := _GRPC_TIMEOUT.fullmatch(text)) is None:
        raise InvalidRequest(f"grpc-timeout is {_shown(text)}; expected at most eight digits and H, M, S, m, u or n")
    return int(match[1]) * _GRPC_UNITS_MS[match[2].decode()]


@lru_cache(1024)
def _time_allowed(milliseconds: float, source: str) -> str:
    return f"{milliseconds:.10g} ms ({source})"


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("latin-1"))
