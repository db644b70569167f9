"""Health of a version: while its runs do not end it is unhealthy, and gets no requests."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import perf_counter

from service.errors import Unavailable
from service.inference.batching import Arrays, Run
from service.inference.deadline import Deadline
from service.tensors.dtypes import Array

RETRY_SECONDS = 5
# A run counts as one that does not end after this multiple of what a request may take. Busy machines make runs late.
ENDLESS_RATIO = 1.5

logger = logging.getLogger(__name__)


class Unhealthy(Unavailable):
    headers = (("retry-after", str(RETRY_SECONDS)),)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`deadlines`: how many expire in a row until a version is unhealthy; 0: it never is. `seconds`: what a request may
    take."""

    deadlines: int = 0
    seconds: float = inf


class Health:
    """The health of one version in this worker process. Threads run it; the event loop reports expired deadlines.

    A run that ends is proof of life, however late: a version that merely gets too many requests stays healthy. Expired
    deadlines count while a run takes 1.5 times as long as any request may, or while the request's own run has taken
    half of that. Other deadlines say nothing about the model: the request stood in a long queue, or its client gave it
    little time.
    """

    def __init__(
        self,
        name: str = "",
        tolerance: Tolerance | None = None,
        on_change: Callable[[bool], None] = lambda _is_healthy: None,
    ) -> None:
        self.is_healthy = True
        # In a row.
        self.deadlines_expired = 0
        self._name = name
        self._tolerance = tolerance or Tolerance()
        self._on_change = on_change
        # The runs under way, and when they began.
        self._runs: dict[object, float] = {}

    def run(self, run: Run, signature: str, inputs: Arrays) -> dict[str, Array]:
        """Run in this thread."""
        token = object()
        self._runs[token] = perf_counter()
        try:
            return run(signature, inputs)
        finally:
            del self._runs[token]
            self._run_ended()

    def check(self) -> None:
        """Raise Unhealthy where it is."""
        if not self.is_healthy:
            raise self.error()

    def error(self) -> Unhealthy:
        return Unhealthy(f"{self._name} is unhealthy: its runs do not end; it gets requests again once they have ended")

    def deadline_expired(self, deadline: Deadline) -> None:
        """The deadline of a request that the version has."""
        if not (self._tolerance.deadlines and self.is_healthy and self._hangs(deadline)):
            return
        self.deadlines_expired += 1
        if self.deadlines_expired >= self._tolerance.deadlines:
            self.is_healthy = False
            logger.error(
                "%s is unhealthy: its runs do not end, and the deadlines of %d requests in a row have passed. Requests "
                "for it get 503 until all its runs have ended",
                self._name,
                self.deadlines_expired,
            )
            self._on_change(False)

    def _hangs(self, deadline: Deadline) -> bool:
        own_run = perf_counter() - deadline.run_began if deadline.run_began else 0.0
        return own_run >= self._tolerance.seconds / 2 or self._has_endless_run()

    def _has_endless_run(self) -> bool:
        # A list: threads begin and end runs meanwhile.
        began = list(self._runs.values())
        return bool(began) and perf_counter() - min(began) >= ENDLESS_RATIO * self._tolerance.seconds

    def _run_ended(self) -> None:
        if self.is_healthy:
            # While another run hangs, keep counting: else one hanging run after the other could take all threads.
            if self.deadlines_expired and not self._has_endless_run():
                self.deadlines_expired = 0
        elif not self._runs:
            self.deadlines_expired = 0
            self.is_healthy = True
            logger.info("%s is healthy again: its runs have ended", self._name)
            self._on_change(True)
