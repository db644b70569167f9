"""A version that hangs. Its runs are held up at will; the clock is told what time it is."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from service.inference.deadline import Deadline
from service.inference.health import Health, Tolerance, Unhealthy
from service.tensors.dtypes import Array
from tests.unit.service.fakes import Arrays

SECONDS_AT_MOST = 10


@dataclass
class Version:
    pool: ThreadPoolExecutor
    changes: list[bool] = field(default_factory=list)
    running: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.health = Health("model version 1", Tolerance(3, 30), self.changes.append)

    def hang(self) -> "Future[dict[str, Array]]":
        """A run that has begun, and ends with `let_go`."""

        def held(_signature: str, _inputs: Arrays) -> dict[str, Array]:
            self.running.release()
            assert self.go_on.wait(SECONDS_AT_MOST)
            return {}

        run = self.pool.submit(self.health.run, held, "serving_default", {})
        assert self.running.acquire(timeout=SECONDS_AT_MOST)
        return run

    def run(self) -> None:
        """One that ends at once."""
        self.pool.submit(self.health.run, lambda _signature, _inputs: {}, "serving_default", {}).result(SECONDS_AT_MOST)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.inference.health.perf_counter", clock)
    return clock


@contextmanager
def version() -> Iterator[Version]:
    with ThreadPoolExecutor(8) as pool:
        at = Version(pool)
        yield at
        at.go_on.set()


def pass_deadlines(at: Version, times: int, run_began: float = 0.0) -> None:
    """Of requests that wait, or whose own run began then."""
    for _ in range(times):
        deadline = Deadline.unlimited()
        deadline.run_began = run_began
        at.health.deadline_expired(deadline)


def test_after_so_many_deadlines_in_a_row_it_is_unhealthy_and_says_so_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with version() as at:
        at.hang()
        clock.now += 45
        pass_deadlines(at, 2)
        at.health.check()
        pass_deadlines(at, 5)
        with pytest.raises(Unhealthy, match=r"^model version 1 is unhealthy: its runs do not end") as raised:
            at.health.check()
        assert (raised.value.status, raised.value.headers) == (503, (("retry-after", "5"),))
        assert at.changes == [False]
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "the deadlines of 3 requests in a row have passed" in record.getMessage()


def test_deadlines_of_waiting_requests_say_nothing_while_a_run_may_be_late(clock: Clock) -> None:
    with version() as at:
        at.hang()
        at.hang()
        clock.now += 44.9
        pass_deadlines(at, 100)
        at.health.check()


@pytest.mark.parametrize(("seconds", "is_healthy"), [(14.9, True), (15, False)])
def test_the_deadline_of_a_request_counts_whose_own_run_has_taken_half_of_what_it_may(
    clock: Clock, seconds: float, is_healthy: bool
) -> None:
    with version() as at:
        at.hang()
        clock.now += seconds
        pass_deadlines(at, 3, run_began=clock.now - seconds)
        assert at.health.is_healthy is is_healthy


def test_deadlines_that_pass_while_nothing_runs_say_nothing_about_it(clock: Clock) -> None:
    with version() as at:
        clock.now += 60
        pass_deadlines(at, 100)
        at.health.check()


def test_a_run_that_ends_late_ends_the_row(clock: Clock) -> None:
    with version() as at:
        for _ in range(10):
            run = at.hang()
            clock.now += 31
            pass_deadlines(at, 2)
            at.go_on.set()
            run.result(SECONDS_AT_MOST)
            at.go_on.clear()
        at.health.check()


def test_runs_that_end_beside_one_that_hangs_do_not_end_the_row(clock: Clock) -> None:
    """Else one request after the other could hang, each in a thread of its own."""
    with version() as at:
        for _ in range(3):
            at.hang()
            clock.now += 45
            pass_deadlines(at, 1)
            at.run()
        with pytest.raises(Unhealthy):
            at.health.check()


def test_without_a_tolerance_it_is_healthy_whatever_happens(clock: Clock) -> None:
    with version() as at:
        at.health = Health("model version 1", Tolerance(0, 30))
        at.hang()
        clock.now += 45
        pass_deadlines(at, 100)
        at.health.check()


def test_it_is_healthy_again_once_all_its_runs_have_ended(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with version() as at:
        runs = [at.hang() for _ in range(3)]
        clock.now += 45
        pass_deadlines(at, 3)
        at.run()
        assert at.changes == [False]
        at.go_on.set()
        for run in runs:
            run.result(SECONDS_AT_MOST)
        at.health.check()
        assert at.changes == [False, True]
        assert "model version 1 is healthy again" in caplog.text
        at.go_on.clear()
        at.hang()
        clock.now += 45
        pass_deadlines(at, 2)
        at.health.check()
