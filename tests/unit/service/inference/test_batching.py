"""Batches without an engine: the model is a function that the test holds at will."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.inference.batching import Arrays, Batcher, BatchLimits, Independence, Rows, TickBatcher
from service.inference.deadline import Deadline, DeadlineExceeded
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.unit.service.clocks import FakeClock
from tests.unit.service.fakes import Unobserved, any_shape, independent, signature, tensor
from tests.unit.service.held import MAX_SECONDS

Y = {"y": tensor("DT_FLOAT", -1)}
ROWS = signature({"x": tensor("DT_FLOAT", -1)}, Y)
PAIRS = signature({"x": tensor("DT_FLOAT", -1, -1)}, Y)
Call = Future[list[float]]
Row = float | list[float]


@dataclass
class Model(Unobserved):
    """Doubles its rows, or sums them where they are lists. Raises for negative values, with all that is beside them.

    Where it `is_held`, its runs begin, `running`, and go on when the test lets them. `sizes`: what the batcher reports.
    """

    runs: list[list[float]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    is_held: bool = False
    running: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _length: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, _name: str, inputs: Arrays) -> dict[str, Array]:
        if self.is_held:
            self.running.release()
            assert self.go_on.acquire(timeout=MAX_SECONDS)
        x = inputs["x"]
        self.runs.append(x.ravel().tolist())
        if (x < 0).any():
            raise InvalidRequest("negative")
        return {"y": 2 * x if x.ndim == 1 else x.sum(axis=1)}

    def ran(self, rows: int) -> None:
        self.sizes.append(rows)

    def queued(self, rows: int) -> None:
        with self._changed:
            self._length = rows
            self._changed.notify_all()

    def wait_for_length(self, rows: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._length == rows, MAX_SECONDS), self._length


@pytest.fixture
def model() -> Model:
    return Model()


def run_tick(model: Model, of: Signature, *requests: object, max_batch_size: int = 8) -> list[Rows]:
    signatures = {"of": of}
    batcher = TickBatcher(model.run, signatures, independent(signatures), max_batch_size, model)
    return batcher.run([("of", {"x": np.array(request, np.float32)}) for request in requests])


def outcomes(ran: list[Rows]) -> list[object]:
    return [str(rows.outcome) if isinstance(rows.outcome, Exception) else rows.outcome["y"].tolist() for rows in ran]


def test_tick_runs_together(model: Model) -> None:
    first, second, third = ran = run_tick(model, ROWS, [1], [2, 3], [4] * 8)
    assert outcomes(ran) == [[2], [4, 6], [8] * 8]
    assert (model.runs, model.sizes) == ([[1, 2, 3], [4] * 8], [3, 8])
    assert [rows.batch_size for rows in ran] == [3, 3, 8]
    assert (first.run_began, first.run_seconds) == (second.run_began, second.run_seconds)
    assert third.run_began >= second.run_began + second.run_seconds


def test_batch_is_bounded_and_no_request_is_split(model: Model) -> None:
    run_tick(model, ROWS, [1, 2], [3], [4, 5], [6, 7, 8, 9], max_batch_size=3)
    assert model.runs == [[1, 2, 3], [4, 5], [6, 7, 8, 9]]


NOT_HELD = TensorSpec("x:0", "DT_FLOAT", (-1,), is_held=False)


@pytest.mark.parametrize(
    ("of", "requests", "runs", "expected"),
    [
        (PAIRS, ([[1, 2]], [[1, 2, 3]], [[4, 5]]), [[1, 2, 4, 5], [1, 2, 3]], [[3], [6], [9]]),
        (signature({"x": NOT_HELD}, Y), ([1], [[2, 3]], [4]), [[1, 4], [2, 3]], [[2], [5], [8]]),
        (signature({"x": tensor("DT_FLOAT", 2)}, Y), ([1, 2], [3, 4]), [[1, 2], [3, 4]], [[2, 4], [6, 8]]),
        (signature({"x": any_shape("DT_FLOAT")}, Y), ([1], [2]), [[1], [2]], [[2], [4]]),
        (signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT")}), ([1], [2]), [[1], [2]], [[2], [4]]),
        (ROWS, ([], [1, 2], []), [[1, 2]], [[], [2, 4], []]),
    ],
    ids=["shapes", "shapes left to the graph", "fixed size", "any rank", "output without rows", "no rows"],
)
def test_only_rows_of_one_shape_run_together(
    model: Model, of: Signature, requests: tuple[object, ...], runs: list[list[float]], expected: list[list[float]]
) -> None:
    assert outcomes(run_tick(model, of, *requests)) == expected
    assert model.runs == runs


def test_bad_request_fails_alone(model: Model) -> None:
    good, bad, _ = ran = run_tick(model, ROWS, [1, 2], [-2], [3])
    assert outcomes(ran) == [[2, 4], "negative", [6]]
    assert model.runs == [[1, 2, -2, 3], [1, 2], [-2], [3]]
    assert [rows.batch_size for rows in ran] == [2, 1, 1]
    assert bad.run_began >= good.run_began + good.run_seconds > 0


def test_outputs_without_a_row_for_each_end_the_batching(model: Model) -> None:
    contradictions: list[str] = []
    independence = Independence(["of"], contradictions.append)

    def mean(name: str, inputs: Arrays) -> dict[str, Array]:
        return {"y": model.run(name, inputs)["y"].mean(keepdims=True)}

    batcher = TickBatcher(mean, {"of": ROWS}, independence, 8, model)
    for _ in range(2):
        ran = batcher.run([("of", {"x": np.array([row], np.float32)}) for row in (1, 3)])
        assert outcomes(ran) == [[2], [6]]
    # Together once, then alone, for good.
    assert (model.runs, contradictions) == ([[1, 3], [1], [3], [1], [3]], ["of"])
    independence.contradict("of")
    independence.declare(["of", "other"])
    assert (independence.signatures, contradictions) == (frozenset({"other"}), ["of"])


@dataclass
class Bench:
    model: Model
    batcher: Batcher
    pool: ThreadPoolExecutor
    queued: int = 0

    def submit(self, *rows: Row, deadline: Deadline | None = None) -> Call:
        x = np.array(rows, np.float32)
        return self.pool.submit(lambda: self.batcher.run(DEFAULT_SIGNATURE, {"x": x}, deadline).outputs()["y"].tolist())

    def hold(self, *rows: Row) -> Call:
        """Make the model busy, with a row of 50 unless others are given, until `release`."""
        self.model.is_held = True
        busy = self.submit(*rows or (50.0,))
        assert self.model.running.acquire(timeout=MAX_SECONDS)
        self.queued = 0
        return busy

    def queue(self, *rows: Row, deadline: Deadline | None = None) -> Call:
        """Submit to the busy model; returns once the rows wait."""
        call = self.submit(*rows, deadline=deadline)
        self.queued += len(rows)
        self.model.wait_for_length(self.queued)
        return call

    def release(self) -> None:
        self.model.is_held = False
        self.model.go_on.release()


def results(*calls: Call) -> list[list[float]]:
    return [call.result(MAX_SECONDS) for call in calls]


def expired(*calls: Call) -> bool:
    return all(isinstance(call.exception(MAX_SECONDS), DeadlineExceeded) for call in calls)


Make = Callable[..., Bench]


@pytest.fixture
def make(model: Model) -> Iterator[Make]:
    with ThreadPoolExecutor(64) as pool:

        def make_bench(
            of: Signature = ROWS,
            max_batch_size: int = 8,
            timeout_seconds: float = 0,
            independence: Independence | None = None,
            usual_run: float = 0.0,
        ) -> Bench:
            signatures, limits = {DEFAULT_SIGNATURE: of}, BatchLimits(max_batch_size, timeout_seconds)
            rows = independence or independent(signatures)
            return Bench(model, Batcher(model.run, signatures, rows, limits, model, lambda: usual_run), pool)

        yield make_bench


@pytest.fixture
def at(make: Make) -> Bench:
    return make()


def test_request_for_an_idle_model_runs_at_once(at: Bench) -> None:
    assert [results(at.submit(row)) for row in (1.0, 2.0)] == [[[2.0]], [[4.0]]]
    assert at.model.runs == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("settings", "requests", "runs"),
    [
        ({}, [(1, 9), (2, 8), (3, 7)], [[1, 9, 2, 8, 3, 7]]),
        ({"max_batch_size": 3}, [(row,) for row in range(8)], [[0, 1, 2], [3, 4, 5], [6, 7]]),
        ({"max_batch_size": 3}, [(1, 2), (3, 4), (5,)], [[1, 2], [3, 4, 5]]),
        ({"max_batch_size": 3}, [(1, 2, 3, 4), (5,)], [[1, 2, 3, 4], [5]]),
        ({"of": PAIRS}, [([1, 2],), ([3],), ([4, 5],)], [[1, 2, 4, 5], [3]]),
        ({"independence": Independence()}, [(1, 2), (3,)], [[1, 2], [3]]),
    ],
    ids=["together", "bounded", "whole", "longer than a batch", "shapes", "dependent"],
)
def test_requests_for_a_busy_model_are_its_next_batches(
    make: Make, settings: dict[str, Any], requests: list[tuple[Row, ...]], runs: list[list[float]]
) -> None:
    at = make(**settings)
    calls = [at.hold(*requests[0]), *(at.queue(*rows) for rows in requests)]
    at.release()
    expected = [[sum(row) if isinstance(row, list) else 2 * row for row in rows] for rows in requests]
    assert results(*calls) == [expected[0], *expected]
    assert at.model.runs[1:] == runs
    at.model.wait_for_length(0)


def test_error_reaches_its_own_request_alone(at: Bench) -> None:
    bad, *calls, worse = at.hold(-50.0), at.queue(1.0), at.queue(3.0), at.queue(-1.0)
    at.release()
    for call in (bad, worse):
        with pytest.raises(InvalidRequest, match="negative"):
            call.result(MAX_SECONDS)
    assert results(*calls, at.submit(4.0)) == [[2.0], [6.0], [8.0]]


@pytest.mark.parametrize("report", ["waited", "ran"])
def test_error_of_the_observer_reaches_its_batch_alone(at: Bench, report: str) -> None:
    calls = [at.hold(), at.queue(1.0), at.queue(2.0)]

    def fail(_value: float) -> None:
        setattr(at.model, report, lambda _value: None)
        raise OSError("no room for metrics")

    setattr(at.model, report, fail)
    at.release()
    assert any(isinstance(call.exception(MAX_SECONDS), OSError) for call in calls)
    assert results(at.submit(4.0)) == [[8.0]]
    at.model.wait_for_length(0)


def test_error_while_a_batch_is_formed_reaches_its_leader(at: Bench) -> None:
    at.batcher._usual_run = lambda: 1 / 0
    assert isinstance(at.submit(1.0).exception(MAX_SECONDS), ZeroDivisionError)
    at.model.wait_for_length(0)
    at.batcher._usual_run = lambda: 0.0
    assert results(at.submit(4.0)) == [[8.0]]


def test_idle_model_waits_for_a_full_batch_where_it_is_set_to(make: Make) -> None:
    at = make(max_batch_size=3, timeout_seconds=MAX_SECONDS)
    assert results(*[at.submit(float(row)) for row in range(3)]) == [[0.0], [2.0], [4.0]]
    assert at.model.sizes == [3]


def test_idle_model_runs_a_smaller_batch_at_the_timeout(make: Make) -> None:
    assert results(make(timeout_seconds=0.001).submit(1.0)) == [[2.0]]


def test_request_cancelled_in_the_queue_is_not_run(at: Bench) -> None:
    busy, deadline = at.hold(), Deadline.unlimited()
    cancelled, stays = at.queue(1.0, 2.0, deadline=deadline), at.queue(3.0)
    deadline.cancel()
    # Its thread is free at once.
    assert expired(cancelled)
    at.model.wait_for_length(1)
    # Nor is one that comes too late.
    assert expired(at.submit(1.0, deadline=deadline))
    at.release()
    assert results(busy, stays) == [[100.0], [6.0]]
    assert expired(at.submit(1.0, deadline=deadline))
    assert at.model.runs == [[50.0], [3.0]]


def test_next_leader_that_is_cancelled_hands_on(at: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled at the very moment at which it is woken to lead."""
    busy, deadline = at.hold(), Deadline.unlimited()
    # As when its thread does not get to run.
    monkeypatch.setattr(Deadline, "on_cancel", lambda _deadline, _wake: None)
    leader, behind = at.queue(1.0, deadline=deadline), at.queue(2.0)
    deadline.cancel()
    at.release()
    assert results(busy, behind) == [[100.0], [4.0]]
    assert expired(leader)
    assert at.model.runs == [[50.0], [2.0]]
    at.model.wait_for_length(0)


def test_hanging_batch_holds_one_thread(at: Bench) -> None:
    busy, deadlines = at.hold(), [Deadline.unlimited() for _ in range(3)]
    leader, *others = (at.queue(1.0, deadline=deadline) for deadline in deadlines)
    at.model.go_on.release()
    assert results(busy) == [[100.0]]
    assert at.model.running.acquire(timeout=MAX_SECONDS)
    for deadline in deadlines:
        deadline.cancel()
    assert expired(*others)
    assert not leader.done()
    at.release()
    assert results(leader) == [[2.0]]
    assert at.model.runs == [[50.0], [1.0, 1.0, 1.0]]


def test_many_requests_some_cancelled_at_any_moment_get_their_own_rows(make: Make) -> None:
    at = make(max_batch_size=4)
    deadlines = [Deadline.unlimited() for _ in range(600)]
    calls = [at.submit(float(row), row + 0.5, deadline=deadline) for row, deadline in enumerate(deadlines)]
    for deadline in deadlines[::3]:
        deadline.cancel()
    for row, call in enumerate(calls):
        if row % 3 or call.exception(MAX_SECONDS) is None:
            assert results(call) == [[2.0 * row, 2 * row + 1.0]]
        else:
            assert expired(call)
    at.model.wait_for_length(0)


def until(seconds: float) -> Deadline:
    """By the fake clock, which begins at 100."""
    return Deadline(seconds, "as long as the test says")


@pytest.mark.parametrize(
    ("usual_run", "now", "deadlines"),
    [(30.0, 115, (140, 150)), (30.0, 101, (100.1, 100.2)), (0.05, 101, (100.1, 100.2))],
    ids=["one can end in time", "none can, nor one that comes", "none can"],
)
def test_request_with_most_time_left_runs_before_one_that_cannot_end_in_time(
    make: Make, clock: FakeClock, usual_run: float, now: float, deadlines: tuple[float, float]
) -> None:
    """Each is run all the same: else a version that was slow once would never be run again."""
    at = make(max_batch_size=1, usual_run=usual_run)
    first, second = map(until, deadlines)
    calls = [at.hold(), at.queue(1.0, deadline=first), at.queue(2.0, deadline=second)]
    clock.now = now
    at.release()
    assert results(*calls) == [[100.0], [2.0], [4.0]]
    assert at.model.runs == [[50.0], [2.0], [1.0]]


def test_request_that_can_end_in_time_is_awaited(make: Make, clock: FakeClock) -> None:
    at = make(max_batch_size=1, usual_run=30.0)
    busy, deadlines = at.hold(), [until(140), until(140)]
    late = [at.queue(1.0, deadline=deadline) for deadline in deadlines]
    clock.now = 115
    at.release()
    assert results(busy, at.submit(2.0, deadline=until(150))) == [[100.0], [4.0]]
    assert at.model.runs == [[50.0], [2.0]]
    for deadline in deadlines:
        deadline.cancel()
    assert expired(*late)
    at.model.wait_for_length(0)
