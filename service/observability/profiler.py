"""A profile: what the requests of a while took, stage by stage, in the form of TensorFlow's profiler (XSpace)."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from service.errors import Unavailable
from service.http import Request
from service.inference.context import RequestContext

# They are written at once, by a thread that shares the processor with requests.
MAX_REQUESTS = 10_000
# How long a profile goes on after somebody has ended it.
POLL_SECONDS = 0.05

# The name that tools look for.
_PLANE = "/host:CPU"
_PROFILE = "profile"
_STATS = ("request_id", "model", "version", "status", "batch_size")


class Answered(NamedTuple):
    """A response that was sent."""

    name: str
    context: RequestContext
    status: int


class Profiler:
    """Profiles of one worker process, one at a time."""

    def __init__(self) -> None:
        self._answered: list[Answered] | None = None
        self._is_busy = threading.Lock()
        self._session = ""
        self._is_terminated = threading.Event()

    def answered(self, request: Request, status: int) -> None:
        """Keep it, if a profile is being taken; called for every response by the event loop."""
        kept = self._answered
        if kept is not None and len(kept) < MAX_REQUESTS:
            match = request.match
            name = f"{match.route.protocol} {match.route.verb}" if match is not None else "no route"
            kept.append(Answered(name, request.context, status))

    def take(self, seconds: float, session: str, is_over: Callable[[], bool]) -> dict[str, Any]:
        """The XSpace of the next seconds, or of those until it is terminated or over; takes as long.

        Raises Unavailable while another is taken.
        """
        if not self._is_busy.acquire(blocking=False):
            raise Unavailable("this process takes another profile; try again later")
        try:
            self._is_terminated.clear()
            self._session = session
            kept: list[Answered] = []
            self._answered = kept
            began = time.perf_counter()
            while (left := began + seconds - time.perf_counter()) > 0 and not is_over():
                if self._is_terminated.wait(min(left, POLL_SECONDS)):
                    break
        finally:
            self._answered = None
            self._is_busy.release()
        return _space(kept, began, time.perf_counter())

    def terminate(self, session: str) -> None:
        """End the profile of this session; nothing where there is none."""
        if self._is_busy.locked() and session == self._session:
            self._is_terminated.set()


def _space(answered: Sequence[Answered], began: float, ended: float) -> dict[str, Any]:
    # What perf_counter counts from is not known.
    epoch_ns = time.time_ns() - time.perf_counter_ns()
    numbers: dict[str, int] = {}

    def event(name: str, start: float, end: float, stats: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        return {
            "metadata_id": numbers.setdefault(name, len(numbers) + 1),
            "offset_ps": max(int((start - first) * 1e12), 0),
            "duration_ps": max(int((end - start) * 1e12), 0),
            "stats": stats,
        }

    # Requests may have arrived before.
    first = min([began, *(each.context.arrived for each in answered)])
    rows = [[event(_PROFILE, began, ended)]]
    for row in _rows(answered):
        events = []
        for name, context, status in row:
            values = (context.request_id, context.model, context.version, status, context.batch_size)
            events.append(event(name, context.arrived, context.answered, _stats(values)))
            events += [event(*stage) for stage in _stages(context)]
        rows.append(events)
    lines = [
        {
            "id": number,
            "name": _PROFILE if not number else f"requests {number}",
            "timestamp_ns": epoch_ns + int(first * 1e9),
            "events": events,
        }
        for number, events in enumerate(rows)
    ]
    plane = {
        "id": 1,
        "name": _PLANE,
        "lines": lines,
        "event_metadata": {number: {"id": number, "name": name} for name, number in numbers.items()},
        "stat_metadata": {number: {"id": number, "name": name} for number, name in enumerate(_STATS, 1)},
    }
    full = [f"only the first {MAX_REQUESTS} requests are kept"] if len(answered) >= MAX_REQUESTS else []
    return {"planes": [plane], "warnings": full, "hostnames": [socket.gethostname()]}


def _rows(answered: Sequence[Answered]) -> list[list[Answered]]:
    """In as few rows as it takes so that no two in a row overlap."""
    rows: list[list[Answered]] = []
    for each in sorted(answered, key=lambda each: each.context.arrived):
        for row in rows:
            if row[-1].context.answered <= each.context.arrived:
                row.append(each)
                break
        else:
            rows.append([each])
    return rows


def _stages(context: RequestContext) -> Iterator[tuple[str, float, float]]:
    """Name, beginning and end of what happened of it."""
    if context.began:
        yield "queue", context.arrived, context.began
    if context.decoded_at:
        yield "decode", context.began, context.decoded_at
    if context.run_began:
        yield "inference", context.run_began, context.run_began + context.run_seconds
    if context.inferred_at and context.ended:
        yield "encode", context.inferred_at, context.ended


def _stats(values: Sequence[str | int]) -> list[dict[str, Any]]:
    return [
        {"metadata_id": number, "int64_value" if isinstance(value, int) else "str_value": value}
        for number, value in enumerate(values, 1)
        if value
    ]
