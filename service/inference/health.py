"""Whether a version answers. One whose runs do not end is unhealthy: it gets no requests until they have ended."""

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
# Of what a request may take, until a run counts as one that does not end. A busy machine may make a sound one late.
ENDLESS = 1.5

logger = logging.getLogger(__name__)


class Unhealthy(Unavailable):
    headers = (("retry-after", str(RETRY_SECONDS)),)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`deadlines`: in a row, until a version is unhealthy; 0: it never is. `seconds`: what a request may take."""

    deadlines: int = 0
    seconds: float = inf


class Health:
    """One version's, in this worker process. Threads run it; the event loop tells which deadlines pass meanwhile.

    A run that ends is proof of life, however late: a version that merely gets too much stays healthy. Deadlines count
    that pass while a run takes half as long again as any request may, or while the request's own run has taken half of
    that: what stood in a long queue, or was given little time by its client, says nothing about the model.
    """

    def __init__(
        self,
        name: str = "",
        tolerance: Tolerance | None = None,
        on_change: Callable[[bool], None] = lambda _is_healthy: None,
    ) -> None:
        self.is_healthy = True
        # In a row.
        self.deadlines_passed = 0
        self._name = name
        self._tolerance = tolerance or Tolerance()
        self._on_change = on_change
        # Those under way, and when they began.
        self._runs: dict[object, float] = {}

    def run(self, run: Run, signature: str, inputs: Arrays) -> dict[str, Array]:
        """For threads."""
        token = object()
        self._runs[token] = perf_counter()
        try:
            return run(signature, inputs)
        finally:
            del self._runs[token]
            self._run_ended()

    def check(self) -> None:
        """Raises Unhealthy."""
        if not self.is_healthy:
            raise self.error()

    def error(self) -> Unhealthy:
        return Unhealthy(f"{self._name} is unhealthy: its runs do not end; it gets requests again once they have ended")

    def deadline_passed(self, deadline: Deadline) -> None:
        """That of a request which the version has."""
        if not (self._tolerance.deadlines and self.is_healthy and self._hangs(deadline)):
            return
        self.deadlines_passed += 1
        if self.deadlines_passed >= self._tolerance.deadlines:
            self.is_healthy = False
            logger.error(
                "%s is unhealthy: its runs do not end, and the deadlines of %d requests in a row have passed. Requests "
                "for it get 503 until all its runs have ended",
                self._name,
                self.deadlines_passed,
            )
            self._on_change(False)

    def _hangs(self, deadline: Deadline) -> bool:
        own_run = perf_counter() - deadline.run_began if deadline.run_began else 0.0
        return own_run >= self._tolerance.seconds / 2 or self._has_endless_run()

    def _has_endless_run(self) -> bool:
        # A list, for threads begin and end runs meanwhile.
        began = list(self._runs.values())
        return bool(began) and perf_counter() - min(began) >= ENDLESS * self._tolerance.seconds

    def _run_ended(self) -> None:
        if self.is_healthy:
            # If another run hangs meanwhile, that counts on: else one after the other could take all threads.
            if self.deadlines_passed and not self._has_endless_run():
                self.deadlines_passed = 0
        elif not self._runs:
            self.deadlines_passed = 0
            self.is_healthy = True
            logger.info("%s is healthy again: its runs have ended", self._name)
            self._on_change(True)
