"""Pace: how long a version's runs take, learned from them, and whether the event loop may run it.

What a version takes cannot be told by inputs that nobody has sent. It begins in threads, and moves to the event loop
once its runs, or those of the example that it brings, are quick; it goes back where they get slow.
"""

import time
from collections import deque
from collections.abc import Callable
from math import inf

# A version whose row takes less is run by the event loop itself.
QUICK_SECONDS = 0.001
# So many runs are remembered,
REMEMBERED_RUNS = 8
# and of those in threads so many have to be quick; a machine that is busy makes some of them slow.
QUICK_RUNS = 6
# On the event loop a run is slow that takes longer than this; by the wall's clock, than that, for another thread may
# have had the interpreter meanwhile,
SLOW_SECONDS = 2 * QUICK_SECONDS
SLOW_WALL_SECONDS = 20 * QUICK_SECONDS
# and a version that has held it up for so long, in such runs,
HELD_UP_SECONDS = 0.05
# within so many seconds, leaves it.
WINDOW_SECONDS = 1.0
# Each time it takes twice as many quick runs to come back, up to so many times.
MAX_DOUBLINGS = 10

Clock = Callable[[], float]


class Pace:
    """One version's, in this worker process. `row_seconds`: what a row takes; infinite as long as that is unknown."""

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
        """`row_seconds`: of the version's own example. `cpu_clock`: the processor time of the thread that asks, for an
        engine that runs on it; None for one that has threads of its own."""
        self.row_seconds = row_seconds
        self.is_quick = row_seconds < QUICK_SECONDS
        self._runs_on_caller = cpu_clock is not None
        self._cpu_clock = cpu_clock or time.perf_counter
        self._row_seconds: deque[float] = deque(maxlen=REMEMBERED_RUNS)
        self._run_seconds: deque[float] = deque(maxlen=REMEMBERED_RUNS)
        self._is_kept_off = False
        self._returns = 0
        # Until it may be judged.
        self._missing_runs = REMEMBERED_RUNS
        self._held_up_since = -inf
        self._held_up = 0.0

    def begin(self) -> tuple[float, float]:
        """To be handed to `end` by the same thread."""
        return time.perf_counter(), self._cpu_clock()

    def end(self, begun: tuple[float, float], rows: int) -> None:
        """A thread's run of so many rows is over."""
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
        """The median of those remembered, in seconds; 0 where there is none."""
        seconds = sorted(self._run_seconds)
        return seconds[len(seconds) // 2] if seconds else 0.0

    def held_up(self, seconds: float, cpu_seconds: float) -> None:
        """A run on the event loop has taken so long; its thread has had the processor for `cpu_seconds` at most."""
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
        """Threads run it from now on, however quick it is."""
        self._is_kept_off = True
        self.is_quick = False

    def _leave_loop(self, missing_runs: int) -> None:
        self._missing_runs = missing_runs
        self._row_seconds.clear()
        self._held_up = 0.0
        self.is_quick = False
