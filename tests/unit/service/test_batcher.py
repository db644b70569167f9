"""Batches without an engine: the model is a function that the test holds up at will."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from service.batch import BatchObserver
from service.batcher import Batcher, BatchLimits
from service.errors import InvalidRequest
from service.signature import Signature
from service.tensors import Array
from tests.unit.service.fakes import Arrays, any_shape, signature, tensor

ROWS = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
PAIRS = signature({"x": tensor("DT_FLOAT", -1, -1)}, {"y": tensor("DT_FLOAT", -1)})
DEADLINE = 10


@dataclass
class Model:
    """Doubles its rows, or sums them where they are lists. A negative value is refused, with all that came with it."""

    runs: list[list[float]] = field(default_factory=list)
    is_held: bool = False
    running: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def run(self, _name: str, inputs: Arrays) -> dict[str, Array]:
        if self.is_held:
            self.running.release()
            assert self.go_on.acquire(timeout=DEADLINE)
        x = inputs["x"]
        self.runs.append(x.ravel().tolist())
        if (x < 0).any():
            raise InvalidRequest("negative")
        return {"y": 2 * x if x.ndim == 1 else x.sum(axis=1)}


class Observer(BatchObserver):
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.waits: list[float] = []
        self._length = 0
        self._changed = threading.Condition()

    def ran(self, rows: int) -> None:
        self.sizes.append(rows)

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def queued(self, rows: int) -> None:
        with self._changed:
            self._length = rows
            self._changed.notify_all()

    def wait_for_length(self, rows: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._length == rows, DEADLINE), self._length


@dataclass
class Bench:
    model: Model
    batcher: Batcher
    observer: Observer
    pool: ThreadPoolExecutor

    def ask(self, *rows: float | list[float]) -> "Future[list[float]]":
        x = np.array(rows, np.float32)
        return self.pool.submit(lambda: list(self.batcher.run("serving_default", {"x": x}).outputs()["y"].tolist()))

    def hold(self) -> "Future[list[float]]":
        """Makes the model busy, with a row of 100, until `let_go`."""
        self.model.is_held = True
        busy = self.ask(100.0)
        assert self.model.running.acquire(timeout=DEADLINE)
        return busy

    def let_go(self) -> None:
        self.model.is_held = False
        self.model.go_on.release()


@contextmanager
def bench(of: Signature = ROWS, max_batch_size: int = 8, timeout_seconds: float = 0) -> Iterator[Bench]:
    model, observer = Model(), Observer()
    batcher = Batcher(model.run, {"serving_default": of}, BatchLimits(max_batch_size, timeout_seconds), observer)
    with ThreadPoolExecutor(64) as pool:
        yield Bench(model, batcher, observer, pool)


def test_a_request_that_finds_its_model_idle_runs_at_once_and_alone() -> None:
    with bench() as at:
        for row in (1.0, 2.0):
            assert at.ask(row).result(DEADLINE) == [2 * row]
        assert at.model.runs == [[1.0], [2.0]]
        assert at.observer.sizes == [1, 1]


def test_requests_that_arrive_meanwhile_are_the_next_batch_and_each_gets_its_own_rows() -> None:
    with bench() as at:
        busy = at.hold()
        waiting = []
        for row in (1.0, 2.0, 3.0):
            waiting.append(at.ask(row, -row + 10))
            at.observer.wait_for_length(2 * len(waiting))
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert [call.result(DEADLINE) for call in waiting] == [[2.0, 18.0], [4.0, 16.0], [6.0, 14.0]]
        assert at.model.runs == [[100.0], [1.0, 9.0, 2.0, 8.0, 3.0, 7.0]]
        assert at.observer.sizes == [1, 6]
        assert len(at.observer.waits) == 4
        at.observer.wait_for_length(0)


def test_a_batch_never_grows_beyond_its_limit_and_nobody_is_forgotten() -> None:
    with bench(max_batch_size=3) as at:
        busy = at.hold()
        waiting = [at.ask(float(row)) for row in range(8)]
        at.observer.wait_for_length(8)
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert [call.result(DEADLINE) for call in waiting] == [[2.0 * row] for row in range(8)]
        assert [len(run) for run in at.model.runs] == [1, 3, 3, 2]


def test_a_request_with_more_rows_than_a_batch_runs_as_it_is() -> None:
    with bench(max_batch_size=2) as at:
        assert at.ask(1.0, 2.0, 3.0).result(DEADLINE) == [2.0, 4.0, 6.0]
        assert at.model.runs == [[1.0, 2.0, 3.0]]


def test_a_bad_request_fails_alone() -> None:
    with bench() as at:
        busy = at.hold()
        good, bad, fine = at.ask(1.0), at.ask(-1.0), at.ask(3.0)
        at.observer.wait_for_length(3)
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert (good.result(DEADLINE), fine.result(DEADLINE)) == ([2.0], [6.0])
        with pytest.raises(InvalidRequest, match="negative"):
            bad.result(DEADLINE)


def test_an_error_of_the_first_does_not_stop_those_behind_it() -> None:
    with bench() as at:
        at.model.is_held = True
        bad = at.ask(-1.0)
        assert at.model.running.acquire(timeout=DEADLINE)
        good = at.ask(1.0)
        at.observer.wait_for_length(1)
        at.let_go()
        with pytest.raises(InvalidRequest):
            bad.result(DEADLINE)
        assert good.result(DEADLINE) == [2.0]


def test_rows_of_different_shapes_are_not_run_together() -> None:
    with bench(PAIRS) as at:
        at.model.is_held = True
        busy = at.ask([100.0])
        assert at.model.running.acquire(timeout=DEADLINE)
        waiting = []
        for rows in ([1.0, 2.0], [3.0], [4.0, 5.0]):
            waiting.append(at.ask(rows))
            at.observer.wait_for_length(len(waiting))
        at.let_go()
        assert busy.result(DEADLINE) == [100.0]
        assert [call.result(DEADLINE) for call in waiting] == [[3.0], [3.0], [9.0]]
        assert at.model.runs == [[100.0], [1.0, 2.0, 4.0, 5.0], [3.0]]


@pytest.mark.parametrize(
    "of",
    [
        signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT")}),
        signature({"x": tensor("DT_FLOAT", 1)}, {"y": tensor("DT_FLOAT", -1)}),
        signature({"x": any_shape("DT_FLOAT")}, {"y": tensor("DT_FLOAT", -1)}),
    ],
    ids=["an output without rows", "an input of fixed size", "an input of any rank"],
)
def test_a_signature_that_has_no_rows_throughout_is_not_batched(of: Signature) -> None:
    with bench(of) as at:
        busy = at.hold()
        waiting = [at.ask(1.0), at.ask(2.0)]
        at.observer.wait_for_length(2)
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert sorted(call.result(DEADLINE) for call in waiting) == [[2.0], [4.0]]
        assert [len(run) for run in at.model.runs] == [1, 1, 1]


def test_outputs_that_lost_rows_are_never_handed_out() -> None:
    """A model may declare rows and not keep to it; then each request is run alone."""
    with bench() as at:
        honest = at.model.run

        def mean_of_all(name: str, inputs: Arrays) -> dict[str, Array]:
            return {"y": honest(name, inputs)["y"].mean(keepdims=True)}

        at.batcher._run = mean_of_all
        busy = at.hold()
        waiting = [at.ask(1.0), at.ask(3.0)]
        at.observer.wait_for_length(2)
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert [call.result(DEADLINE) for call in waiting] == [[2.0], [6.0]]


def test_an_idle_model_waits_for_a_fuller_batch_where_it_is_told_to() -> None:
    with bench(max_batch_size=3, timeout_seconds=DEADLINE) as at:
        calls = [at.ask(float(row)) for row in range(3)]
        assert [call.result(DEADLINE) for call in calls] == [[0.0], [2.0], [4.0]]
        assert [len(run) for run in at.model.runs] == [3]


def test_an_idle_model_does_not_wait_for_ever() -> None:
    with bench(timeout_seconds=0.001) as at:
        assert at.ask(1.0).result(DEADLINE) == [2.0]


def test_many_threads_at_once_all_get_their_own_rows() -> None:
    with bench(max_batch_size=16) as at:
        calls = [at.ask(float(row), row + 0.5) for row in range(2000)]
        assert [call.result(DEADLINE) for call in calls] == [[2.0 * row, 2 * row + 1.0] for row in range(2000)]
        assert sum(at.observer.sizes) == 4000
