"""How many rows together pay: up to which size of a batch a row takes clearly less of the processor than in a smaller.

An engine may keep memory for each size that it has run. Where a row takes as long among others as by itself, that buys
nothing, and who waits for a batch to end only waits longer.
"""

import logging
import time
from collections.abc import Callable, Iterator

from service.batch import is_batchable
from service.engines import Engine
from service.errors import ServingError
from service.signature import DEFAULT_SIGNATURE
from service.warm_up import SECONDS_FOR_SIZES, made_up_inputs

logger = logging.getLogger(__name__)

# Quicker models take little memory for a size, and with them a request's other work counts, too.
JUDGED_SECONDS = 0.003
# A size is compared with a quarter of it: what a row gains at all it has gained by then for the most part.
STEP = 4
# The best of so many runs.
RUNS = 3
# At most so much of what a row takes in the smaller batch.
PAYING = 0.95


def paying_rows(
    engine: Engine, version: str, most: int, row_seconds: float, clock: Callable[[], float] = time.thread_time
) -> int | None:
    """The largest of 1, 4, 16 ... `most` that pays, each compared with the one before; None where that cannot be told.

    `row_seconds`: what a row takes by the wall's clock. `clock`: the processor's time of this thread, which other work
    on the machine hardly changes; but it says nothing about engines that run on threads of their own.
    """
    signature = engine.signatures.get(DEFAULT_SIGNATURE)
    is_judged = engine.runs_on_caller and row_seconds >= JUDGED_SECONDS
    if not is_judged or signature is None or not is_batchable(signature):
        return None
    paying, told = 1, ""
    seconds_left = SECONDS_FOR_SIZES
    try:
        for rows in _sizes(most):
            seconds_left -= RUNS * (rows + paying) * row_seconds
            if seconds_left < 0:
                return None
            among_many, among_few = _row_seconds(engine, (rows, paying), clock)
            told = (
                f"a row takes {among_many * 1e3:.1f} ms in a batch of {rows}, {among_few * 1e3:.1f} in one of {paying}"
            )
            if among_many > PAYING * among_few:
                break
            paying = rows
    # As in the warm-up: what is made up need not be what a model takes.
    except ServingError:
        return None
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


def _row_seconds(engine: Engine, sizes: tuple[int, int], clock: Callable[[], float]) -> tuple[float, float]:
    """Of a row in batches of these sizes, which are run in turns: what slows one down for a while slows the other."""
    inputs = [made_up_inputs(engine, rows) or {} for rows in sizes]
    best = [float("inf"), float("inf")]
    for _ in range(RUNS):
        for index, rows in enumerate(sizes):
            started = clock()
            engine.run(DEFAULT_SIGNATURE, inputs[index])
            best[index] = min(best[index], (clock() - started) / rows)
    return best[0], best[1]
