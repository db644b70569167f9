"""The loop watchdog: no model may hold up the event loop.

The event loop itself runs versions that are quick. A later request may take any time all the same: a graph may loop as
often as an input says.
"""

import logging
import os
import threading
from collections.abc import Callable

from service.inference.context import Prediction
from service.inference.version import LoadedVersion

# Time is counted in polls, not by the clock: while the process is stopped, or something else holds the interpreter,
# there are no polls either.
POLL_SECONDS = 0.25
POLLS_UNTIL_SLOW = 4
POLLS_UNTIL_HANGING = 20

logger = logging.getLogger(__name__)


class LoopWatchdog:
    """`running`: the prediction that the event loop runs at this moment; of a batch the first."""

    def __init__(
        self,
        on_slow: Callable[[LoadedVersion], None] = lambda _loaded: None,
        end_process: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        """`on_slow`: called with a version that the event loop should not run any more."""
        self.running: Prediction | None = None
        self._on_slow = on_slow
        self._end_process = end_process
        self._seen: Prediction | None = None
        self._polls = 0

    def start(self) -> None:
        threading.Thread(target=self._watch, name="loop watch", daemon=True).start()

    def poll(self) -> None:
        running = self.running
        if running is None or running is not self._seen:
            self._seen, self._polls = running, 0
            return
        self._polls += 1
        name = f"{running.loaded.model} version {running.loaded.version}"
        if self._polls == POLLS_UNTIL_SLOW:
            logger.warning("%s has held up everybody for a second; from now on threads run it", name)
            self._on_slow(running.loaded)
        elif self._polls == POLLS_UNTIL_HANGING:
            logger.critical(
                "%s has held up everybody for %g s and cannot be stopped: this worker process ends, for another to "
                "take its place",
                name,
                POLLS_UNTIL_HANGING * POLL_SECONDS,
            )
            self._end_process()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(POLL_SECONDS):
            self.poll()
