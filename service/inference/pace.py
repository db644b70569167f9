"""Pace: how long the runs of a version take, and whether the event loop may run it.

How long a version takes is unknown until it is run with real inputs. It begins in threads, and moves to the event loop
once its runs, or those of the example that it brings, are quick; when they get slow it goes back.
"""

import time
from collections import deque
from collections.abc import Callable
from math import inf

# The event loop itself runs versions whose rows take less.
QUICK_SECONDS = 0.001
# The last runs in threads, of which this many have to be quick: a busy machine makes some of them slow.
REMEMBERED_RUNS = 8
QUICK_RUNS = 6
# On the event loop, a run is slow that takes longer than this in CPU time. By the clock it may take longer, since
# another thread may have had the interpreter.
SLOW_SECONDS = 2 * QUICK_SECONDS
SLOW_WALL_SECONDS = 20 * QUICK_SECONDS
# A version whose slow runs take this long within the window leaves the event loop.
HELD_UP_SECONDS = 0.05
WINDOW_SECONDS = 1.0
# Each time it needs twice as many quick runs to come back, up to this often.
MAX_DOUBLINGS = 10

Clock = Callable[[], float]


class Pace:
    """The pace of a version in this worker process. `row_seconds`: what a row takes; infinity while unknown."""

    __slots__ = (
        "_cpu_clock",
        "_held_up",
        "_held_up_since",
        "_is_kept_off",
        "_missing_runs",
        "_returns",
        "_row_seconds",
        "_run_seconds",
        "_runs_on_caller",
        "is_quick",
        "row_seconds",
    )

    def __init__(self, row_seconds: float = inf, cpu_clock: Clock | None = None) -> None:
        """`row_seconds`: measured with the version's own example. `cpu_clock`: CPU time of the calling thread, for an
        engine that runs on it; None for one that has threads of its own."""
        self.row_seconds = row_seconds
        self.is_quick = row_seconds < QUICK_SECONDS
        self._runs_on_caller = cpu_clock is not None
        self._cpu_clock = cpu_clock or time.perf_counter
        self._row_seconds: deque[float] = deque(maxlen=REMEMBERED_RUNS)
        self._run_seconds: deque[float] = deque(maxlen=REMEMBERED_RUNS)
        self._is_kept_off = False
        self._returns = 0
        # Runs until it may move to the event loop.
        self._missing_runs = REMEMBERED_RUNS
        self._held_up_since = -inf
        self._held_up = 0.0

    def begin(self) -> tuple[float, float]:
        """A run begins. Hand the result to `end`, in the same thread."""
        return time.perf_counter(), self._cpu_clock()

    def end(self, begun: tuple[float, float], rows: int) -> None:
        """A run of this many rows is over."""
        self._run_seconds.append(time.perf_counter() - begun[0])
        self._row_seconds.append((self._cpu_clock() - begun[1]) / rows)
        self._missing_runs -= 1
        row_seconds = sorted(self._row_seconds)
        if len(row_seconds) == REMEMBERED_RUNS:
            self.row_seconds = row_seconds[QUICK_RUNS - 1]
            if self._missing_runs <= 0 and self.row_seconds < QUICK_SECONDS and not self._is_kept_off:
                self.is_quick = True

    @property
    def usual_run(self) -> float:
        """The median of the remembered runs in seconds; 0 where there are none."""
        seconds = sorted(self._run_seconds)
        return seconds[len(seconds) // 2] if seconds else 0.0

    def held_up(self, seconds: float, cpu_seconds: float) -> None:
        """A run on the event loop took this long; its thread had the CPU for at most `cpu_seconds`."""
        if self._runs_on_caller:
            seconds = min(seconds, cpu_seconds)
        if seconds <= (SLOW_SECONDS if self._runs_on_caller else SLOW_WALL_SECONDS):
            return
        now = time.perf_counter()
        if now - self._held_up_since > WINDOW_SECONDS:
            self._held_up_since, self._held_up = now, 0.0
        self._held_up += seconds
        if self._held_up >= HELD_UP_SECONDS:
            self._leave_loop(REMEMBERED_RUNS << self._returns)
            self._returns = min(self._returns + 1, MAX_DOUBLINGS)

    def keep_off_loop(self) -> None:
        """Leave it to threads from now on, however quick it is."""
        self._is_kept_off = True
        self.is_quick = False

    def _leave_loop(self, missing_runs: int) -> None:
        self._missing_runs = missing_runs
        self._row_seconds.clear()
        self._held_up = 0.0
        self.is_quick = False
