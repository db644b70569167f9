"""Whether a version answers. One whose runs do not end is unhealthy: it is asked no more until it is seen to run."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import perf_counter

from service.batch import Arrays, Run
from service.errors import Unavailable
from service.tensors import Array

RETRY_SECONDS = 5

logger = logging.getLogger(__name__)


class Unhealthy(Unavailable):
    headers = (("retry-after", str(RETRY_SECONDS)),)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`deadlines`: in a row, until a version is unhealthy; 0: it never is. `seconds`: what a request may take."""

    deadlines: int = 0
    seconds: float = inf

    @property
    def long_run_seconds(self) -> float:
        return self.seconds / 2


class Health:
    """One version's, in this worker process. Threads run it; the event loop tells which deadlines pass meanwhile.

    Only those count that pass while a run has taken long: what merely stood in a long queue, or was given little time
    by its client, says nothing about the model.
    """

    def __init__(
        self,
        name: str = "",
        tolerance: Tolerance | None = None,
        probe: Callable[[], float | None] = lambda: None,
        on_change: Callable[[bool], None] = lambda _is_healthy: None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`probe` runs the version and says how many seconds a run took, infinity where it cannot tell; None once the
        version is no more."""
        self.is_healthy = True
        # In a row.
        self.deadlines_passed = 0
        self._name = name
        self._tolerance = tolerance or Tolerance()
        self._probe = probe
        self._on_change = on_change
        self._retry_seconds = retry_seconds
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

    def check(self) -> None:
        """Raises Unhealthy."""
        if not self.is_healthy:
            raise self.error()

    def error(self) -> Unhealthy:
        return Unhealthy(
            f"{self._name} is unhealthy: its runs do not end; it is tried again every {self._retry_seconds:g} s"
        )

    def deadline_passed(self) -> None:
        """That of a request which the version has."""
        if not (self._tolerance.deadlines and self.is_healthy and self._has_long_run()):
            return
        self.deadlines_passed += 1
        if self.deadlines_passed >= self._tolerance.deadlines:
            self.is_healthy = False
            logger.error(
                "%s is unhealthy: its runs do not end, and the deadlines of %d requests in a row have passed. Requests "
                "for it get 503 until all its runs have ended and it answers a try",
                self._name,
                self.deadlines_passed,
            )
            self._on_change(False)
            threading.Thread(target=self._recover, name=f"recovery of {self._name}", daemon=True).start()

    def answered(self) -> None:
        """A request in time."""
        # If another run hangs meanwhile, that counts on: else one after the other could take all threads.
        if self.deadlines_passed and not self._has_long_run():
            self.deadlines_passed = 0

    def _has_long_run(self) -> bool:
        # A list, for threads begin and end runs meanwhile.
        began = list(self._runs.values())
        return bool(began) and perf_counter() - min(began) >= self._tolerance.long_run_seconds

    def _recover(self) -> None:
        pause = threading.Event()
        while not self._is_recovered():
            pause.wait(self._retry_seconds)

    def _is_recovered(self) -> bool:
        """Or no more."""
        if self._runs:
            return False
        try:
            seconds = self._probe()
        # It does run.
        except Exception:
            seconds = 0.0
        if seconds is not None and self._tolerance.seconds < seconds < inf:
            return False
        self.deadlines_passed = 0
        self.is_healthy = True
        if seconds is not None:
            logger.info("%s is healthy again", self._name)
        self._on_change(True)
        return True
