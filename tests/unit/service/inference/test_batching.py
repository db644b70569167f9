"""Batches without an engine: the model is a function that the test holds up at will."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.inference.batching import Batcher, BatchLimits, Independence
from service.inference.deadline import Deadline, DeadlineExceeded
from service.tensors.dtypes import Array
from service.tensors.signature import Signature
from tests.unit.service.fakes import Arrays, Unobserved, any_shape, independent, signature, tensor

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


class Observer(Unobserved):
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

    def ask(self, *rows: float | list[float], deadline: Deadline | None = None) -> "Future[list[float]]":
        x = np.array(rows, np.float32)
        return self.pool.submit(
            lambda: list(self.batcher.run("serving_default", {"x": x}, deadline).outputs()["y"].tolist())
        )

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
def bench(
    of: Signature = ROWS,
    max_batch_size: int = 8,
    timeout_seconds: float = 0,
    independence: Independence | None = None,
    usual_run: Callable[[], float] = lambda: 0.0,
) -> Iterator[Bench]:
    model, observer = Model(), Observer()
    limits = BatchLimits(max_batch_size, timeout_seconds)
    signatures = {"serving_default": of}
    batcher = Batcher(model.run, signatures, independence or independent(signatures), limits, observer, usual_run)
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


def test_what_waits_when_its_deadline_is_over_is_never_run_and_its_thread_is_free_at_once() -> None:
    with bench() as at:
        busy = at.hold()
        deadline = Deadline.unlimited()
        expired, stays = at.ask(1.0, 2.0, deadline=deadline), at.ask(3.0)
        at.observer.wait_for_length(3)
        deadline.cancel()
        with pytest.raises(DeadlineExceeded):
            expired.result(DEADLINE)
        at.observer.wait_for_length(1)
        at.let_go()
        assert (busy.result(DEADLINE), stays.result(DEADLINE)) == ([200.0], [6.0])
        assert at.model.runs == [[100.0], [3.0]]


def test_a_request_that_is_over_before_it_comes_is_never_run_either() -> None:
    with bench() as at:
        deadline = Deadline.unlimited()
        deadline.cancel()
        with pytest.raises(DeadlineExceeded):
            at.ask(1.0, deadline=deadline).result(DEADLINE)
        assert at.ask(2.0).result(DEADLINE) == [4.0]
        assert at.model.runs == [[2.0]]


def test_who_would_lead_next_and_is_over_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over at the very moment at which it is woken to lead: nothing may get stuck behind it."""
    with bench() as at:
        busy = at.hold()
        deadline = Deadline.unlimited()
        # Not told at once, as when its thread does not get to run.
        monkeypatch.setattr(Deadline, "on_cancel", lambda _deadline, _wake: None)
        leads, behind = at.ask(1.0, deadline=deadline), at.ask(2.0)
        at.observer.wait_for_length(2)
        deadline.cancel()
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        with pytest.raises(DeadlineExceeded):
            leads.result(DEADLINE)
        assert behind.result(DEADLINE) == [4.0]
        assert at.model.runs == [[100.0], [2.0]]
        at.observer.wait_for_length(0)


def test_of_a_batch_that_hangs_only_one_thread_hangs() -> None:
    with bench() as at:
        busy = at.hold()
        deadlines = [Deadline.unlimited() for _ in range(3)]
        batch = []
        for deadline in deadlines:
            batch.append(at.ask(1.0, deadline=deadline))
            at.observer.wait_for_length(len(batch))
        at.model.go_on.release()
        assert busy.result(DEADLINE) == [200.0]
        assert at.model.running.acquire(timeout=DEADLINE)
        for deadline in deadlines:
            deadline.cancel()
        for call in batch[1:]:
            with pytest.raises(DeadlineExceeded):
                call.result(DEADLINE)
        assert not batch[0].done()
        at.let_go()
        assert batch[0].result(DEADLINE) == [2.0]
        assert at.model.runs == [[100.0], [1.0, 1.0, 1.0]]


def test_an_engine_that_breaks_in_a_batch_breaks_nothing_for_others() -> None:
    """Not by a refusal, but by a bug: each of the batch is then run alone, and hears of its own error."""
    with bench() as at:
        honest = at.model.run

        def buggy(name: str, inputs: Arrays) -> dict[str, Array]:
            if (inputs["x"] == 13).any():
                raise RuntimeError("out of luck")
            return honest(name, inputs)

        at.batcher._run = buggy
        busy = at.hold()
        waiting = [at.ask(1.0), at.ask(13.0), at.ask(3.0)]
        at.observer.wait_for_length(3)
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert (waiting[0].result(DEADLINE), waiting[2].result(DEADLINE)) == ([2.0], [6.0])
        with pytest.raises(RuntimeError, match="out of luck"):
            waiting[1].result(DEADLINE)
        assert at.ask(4.0).result(DEADLINE) == [8.0]


def test_many_that_are_over_at_any_moment_leave_nothing_stuck() -> None:
    with bench(max_batch_size=4) as at:
        deadlines = [Deadline.unlimited() for _ in range(600)]
        calls = [at.ask(float(row), deadline=deadline) for row, deadline in enumerate(deadlines)]
        for deadline in deadlines[::3]:
            deadline.cancel()
        for row, call in enumerate(calls):
            if row % 3:
                assert call.result(DEADLINE) == [2.0 * row]
            elif (error := call.exception(DEADLINE)) is not None:
                assert isinstance(error, DeadlineExceeded)
        assert at.ask(5.0).result(DEADLINE) == [10.0]
        at.observer.wait_for_length(0)


def test_rows_that_are_not_said_to_be_independent_are_never_run_together() -> None:
    with bench(independence=Independence()) as at:
        busy = at.hold()
        waiting = [at.ask(1.0, 2.0), at.ask(3.0)]
        at.observer.wait_for_length(3)
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert [call.result(DEADLINE) for call in waiting] == [[2.0, 4.0], [6.0]]
        assert sorted(at.model.runs) == [[1.0, 2.0], [3.0], [100.0]]


def test_outputs_that_contradict_what_was_said_end_the_batching_and_are_told_of_once() -> None:
    told: list[str] = []
    independence = Independence(["serving_default"], told.append)
    with bench(independence=independence) as at:
        honest = at.model.run
        at.batcher._run = lambda name, inputs: {"y": honest(name, inputs)["y"].sum(keepdims=True)}
        for _ in range(2):
            busy = at.hold()
            waiting = [at.ask(1.0), at.ask(3.0)]
            at.observer.wait_for_length(2)
            at.let_go()
            assert busy.result(DEADLINE) == [200.0]
            assert [call.result(DEADLINE) for call in waiting] == [[2.0], [6.0]]
        assert told == ["serving_default"]
        # Together once, then each alone, for ever.
        assert [len(run) for run in at.model.runs] == [1, 2, 1, 1, 1, 1, 1]


class Clock:
    """In seconds. Runs take 30 of them, as far as the batcher knows."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.inference.batching.time.perf_counter", clock)
    return clock


def until(seconds: float) -> Deadline:
    return Deadline(seconds, "as long as the test says")


def test_what_cannot_end_before_its_deadline_waits_for_what_can(clock: Clock) -> None:
    with bench(max_batch_size=1, usual_run=lambda: 30.0) as at:
        busy = at.hold()
        doomed = at.ask(1.0, deadline=until(140))
        at.observer.wait_for_length(1)
        can = at.ask(2.0, deadline=until(150))
        at.observer.wait_for_length(2)
        clock.now = 115
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert can.result(DEADLINE) == [4.0]
        # Alone it is run all the same: what it takes is not known for sure.
        assert doomed.result(DEADLINE) == [2.0]
        assert at.model.runs == [[100.0], [2.0], [1.0]]


def test_where_none_of_several_can_end_in_time_one_that_can_is_waited_for(clock: Clock) -> None:
    with bench(max_batch_size=1, usual_run=lambda: 30.0) as at:
        busy = at.hold()
        deadlines = [until(140), until(140)]
        doomed = [at.ask(1.0, deadline=deadline) for deadline in deadlines]
        at.observer.wait_for_length(2)
        clock.now = 115
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert at.ask(2.0, deadline=until(150)).result(DEADLINE) == [4.0]
        assert at.model.runs == [[100.0], [2.0]]
        for deadline in deadlines:
            deadline.cancel()
        for call in doomed:
            with pytest.raises(DeadlineExceeded):
                call.result(DEADLINE)
        at.observer.wait_for_length(0)


@pytest.mark.parametrize("usual_run", [30.0, 0.05], ids=["none that comes can, either", "nobody comes"])
def test_where_nothing_can_end_in_time_what_has_most_time_left_is_run(clock: Clock, usual_run: float) -> None:
    """Else a version that was slow once would never be run again."""
    with bench(max_batch_size=1, usual_run=lambda: usual_run) as at:
        busy = at.hold()
        calls = []
        for row, moment in ((1.0, 100.1), (2.0, 100.2)):
            calls.append(at.ask(row, deadline=until(moment)))
            at.observer.wait_for_length(len(calls))
        clock.now = 101
        at.let_go()
        assert busy.result(DEADLINE) == [200.0]
        assert [call.result(DEADLINE) for call in calls] == [[2.0], [4.0]]
        assert at.model.runs == [[100.0], [2.0], [1.0]]


@pytest.mark.parametrize("where", ["waited", "ran"])
def test_an_observer_that_fails_costs_those_it_was_told_of_and_nobody_else(where: str) -> None:
    with bench() as at:
        busy = at.hold()
        waiting = [at.ask(1.0), at.ask(2.0)]
        at.observer.wait_for_length(2)

        def fail(_value: float) -> None:
            setattr(at.observer, where, lambda _value: None)
            raise OSError("no room for metrics")

        setattr(at.observer, where, fail)
        at.let_go()
        outcomes = [call.exception(DEADLINE) for call in (busy, *waiting)]
        assert any(isinstance(outcome, OSError) for outcome in outcomes)
        assert at.ask(4.0).result(DEADLINE) == [8.0]
