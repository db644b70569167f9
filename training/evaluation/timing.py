"""How long a prediction takes."""

import statistics
import time
from collections.abc import Callable

FIRST = 10  # not counted: buffers are planned, kernels chosen
LEAST, MOST = 30, 5_000
SECONDS = 1.0


def microseconds(predict: Callable[[], object]) -> float:
    """The median of many calls, so that what else the machine does in between does not count."""
    for _ in range(FIRST):
        predict()
    taken: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(taken) < LEAST or (len(taken) < MOST and time.perf_counter() < end):
        started = time.perf_counter()
        predict()
        taken.append(time.perf_counter() - started)
    return 1e6 * statistics.median(taken)
