import logging
import math
from collections.abc import Callable

import numpy as np
import pytest

from service.lifecycle.warm_up import (
    MAX_MEASURE_SECONDS,
    MIN_MEASURED_SECONDS,
    RUNS_PER_BATCH_SIZE,
    Example,
    best_batch_size,
)
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service.fakes import Arrays, FakeEngine, echo, signature, tensor

OF = signature({"x": tensor("DT_FLOAT", -1, 2)}, {"y": tensor("DT_FLOAT", -1, 2)})
ROW_SECONDS = 0.01
EXAMPLE = Example(DEFAULT_SIGNATURE, {"x": np.ones((1, 2), np.float32)})

Cost = Callable[[int], float]


class Timed:
    """An engine whose runs take the seconds that `cost` makes of their rows, by the clock of its own."""

    def __init__(self, cost: Cost, of: Signature = OF) -> None:
        self.now = 0.0
        self._cost = cost
        self.engine = FakeEngine({DEFAULT_SIGNATURE: of}, self._answer)

    def best_batch_size(self, most: int = 32, row_seconds: float = ROW_SECONDS) -> int | None:
        return best_batch_size(self.engine, "model version 1", most, row_seconds, EXAMPLE, lambda: self.now)

    def rows_run(self) -> list[int]:
        return [len(inputs["x"]) for _, inputs in self.engine.asked]

    def _answer(self, inputs: Arrays) -> dict[str, Array]:
        self.now += self._cost(len(inputs["x"]))
        return echo(inputs)


def one_by_one(rows: int) -> float:
    return 0.01 * rows


def half_for_all(rows: int) -> float:
    return 0.005 + 0.005 * rows


def up_to_four(rows: int) -> float:
    return 0.01 * rows * (0.5 if rows >= 4 else 1)


@pytest.mark.parametrize(
    ("cost", "most", "expected"),
    [
        (one_by_one, 32, 1),
        (lambda rows: 0.0096 * rows if rows > 1 else 0.01, 32, 1),
        (lambda rows: 0.011 * rows if rows > 1 else 0.01, 32, 1),
        (half_for_all, 32, 16),
        (half_for_all, 16, 16),
        (half_for_all, 5, 4),
        (half_for_all, 3, 3),
        (up_to_four, 32, 4),
        (lambda _rows: 0.01, 32, 32),
        (lambda _rows: 0.01, 2, 2),
        (lambda _rows: 0.01, 1, 1),
    ],
)
def test_the_largest_size_counts_whose_rows_take_clearly_less_than_those_of_the_one_before(
    cost: Cost, most: int, expected: int
) -> None:
    assert Timed(cost).best_batch_size(most) == expected


def test_no_larger_batch_is_run_than_the_first_that_does_not_pay_and_the_last_run_is_of_what_pays() -> None:
    timed = Timed(up_to_four)
    timed.best_batch_size(100)
    assert timed.rows_run() == [4, 1] * RUNS_PER_BATCH_SIZE + [16, 4] * RUNS_PER_BATCH_SIZE
    assert timed.engine.releases == 1


def test_the_best_of_several_runs_counts() -> None:
    """Whether a batch or a row was held up, in all runs but one."""
    for held_up in (1, 4):
        runs: list[int] = []

        def cost(rows: int, held_up: int = held_up, runs: list[int] = runs) -> float:
            runs.append(rows)
            return half_for_all(rows) * (3 if rows == held_up and runs.count(rows) < RUNS_PER_BATCH_SIZE else 1)

        assert Timed(cost).best_batch_size(4) == 4


@pytest.mark.parametrize("row_seconds", [MIN_MEASURED_SECONDS * 0.9, MAX_MEASURE_SECONDS / 4, math.inf])
def test_a_version_that_is_quick_or_would_be_judged_for_long_is_not(row_seconds: float) -> None:
    timed = Timed(one_by_one)
    assert timed.best_batch_size(row_seconds=row_seconds) is None
    assert timed.rows_run() == []


def test_where_time_is_over_before_batches_stop_to_pay_nothing_is_told() -> None:
    timed = Timed(half_for_all)
    assert timed.best_batch_size(row_seconds=MAX_MEASURE_SECONDS / RUNS_PER_BATCH_SIZE / 24) is None
    assert timed.rows_run() == [4, 1] * RUNS_PER_BATCH_SIZE
    assert timed.engine.releases == 1


def test_an_engine_whose_runs_are_on_threads_of_its_own_is_not_judged() -> None:
    timed = Timed(one_by_one)
    timed.engine.runs_on_caller = False
    assert timed.best_batch_size() is None
    assert timed.rows_run() == []


def test_the_log_says_once_what_was_found(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service.lifecycle.warm_up"):
        Timed(one_by_one).best_batch_size()
        Timed(up_to_four).best_batch_size()
        Timed(one_by_one).best_batch_size(1)
        Timed(one_by_one).best_batch_size(row_seconds=0)
    assert [record.getMessage() for record in caplog.records] == [
        "model version 1: a row takes 10.0 ms in a batch of 4, 10.0 in one of 1; batches are of 1 at most",
        "model version 1: a row takes 5.0 ms in a batch of 16, 5.0 in one of 4; batches are of 4 at most",
    ]
