"""How many rows together pay: up to which size of a batch a row takes clearly less of the processor than in a smaller.

An engine may keep memory for each size that it has run. Where a row takes as long among others as by itself, that buys
nothing, and who waits for a batch to end only waits longer.
"""

import logging
import time
from collections.abc import Callable, Iterator

from service.engines.base import Engine
from service.lifecycle.warm_up_requests import Example

logger = logging.getLogger(__name__)

# What finding out may take.
SECONDS = 5.0
# Quicker models take little memory for a size, and with them a request's other work counts, too.
JUDGED_SECONDS = 0.003
# A size is compared with a quarter of it: what a row gains at all it has gained by then for the most part.
STEP = 4
# The best of so many runs.
RUNS = 3
# At most so much of what a row takes in the smaller batch.
PAYING = 0.95


def paying_rows(
    engine: Engine,
    version: str,
    most: int,
    row_seconds: float,
    example: Example,
    clock: Callable[[], float] = time.thread_time,
) -> int | None:
    """The largest of 1, 4, 16 ... `most` that pays, each compared with the one before; None where that cannot be told.

    `row_seconds`: what a row takes by the wall's clock. `clock`: the processor's time of this thread, which other work
    on the machine hardly changes; but it says nothing about engines that run on threads of their own.
    """
    if not engine.runs_on_caller or row_seconds < JUDGED_SECONDS:
        return None
    paying, told = 1, ""
    seconds_left = SECONDS
    try:
        for rows in _sizes(most):
            seconds_left -= RUNS * (rows + paying) * row_seconds
            if seconds_left < 0:
                return None
            among_many, among_few = _row_seconds(engine, example, (rows, paying), clock)
            told = (
                f"a row takes {among_many * 1e3:.1f} ms in a batch of {rows}, {among_few * 1e3:.1f} in one of {paying}"
            )
            if among_many > PAYING * among_few:
                break
            paying = rows
    finally:
        engine.release()
    if told:
        logger.info("%s: %s; batches are of %d at most", version, told, paying)
    return paying


def _sizes(most: int) -> Iterator[int]:
    rows = STEP
    while rows < most:
        yield rows
        rows *= STEP
    if most > 1:
        yield most


def _row_seconds(
    engine: Engine, example: Example, sizes: tuple[int, int], clock: Callable[[], float]
) -> tuple[float, float]:
    """Of a row in batches of these sizes, which are run in turns: what slows one down for a while slows the other."""
    inputs = [example.rows(rows) for rows in sizes]
    best = [float("inf"), float("inf")]
    for _ in range(RUNS):
        for index, rows in enumerate(sizes):
            started = clock()
            engine.run(example.signature_name, inputs[index])
            best[index] = min(best[index], (clock() - started) / rows)
    return best[0], best[1]
