"""A version that hangs. Its runs are held up at will; the clock is told what time it is."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

import pytest

from service.health import Health, Tolerance, Unhealthy
from service.tensors import Array
from tests.unit.service.fakes import Arrays

SECONDS_AT_MOST = 10


@dataclass
class Version:
    """`trial`: what a try gives, or raises."""

    pool: ThreadPoolExecutor
    trial: float | Exception | None = 0.01
    tries: int = 0
    changes: list[bool] = field(default_factory=list)
    recovered: threading.Event = field(default_factory=threading.Event)
    running: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.health = Health("model version 1", Tolerance(3, 30), self._try, self._changed, retry_seconds=0.001)

    def _try(self) -> float | None:
        self.tries += 1
        if isinstance(self.trial, Exception):
            raise self.trial
        return self.trial

    def _changed(self, is_healthy: bool) -> None:
        self.changes.append(is_healthy)
        if is_healthy:
            self.recovered.set()

    def hang(self) -> "Future[dict[str, Array]]":
        """A run that has begun, and ends with `let_go`."""

        def held(_signature: str, _inputs: Arrays) -> dict[str, Array]:
            self.running.release()
            assert self.go_on.wait(SECONDS_AT_MOST)
            return {}

        run = self.pool.submit(self.health.run, held, "serving_default", {})
        assert self.running.acquire(timeout=SECONDS_AT_MOST)
        return run

    def answer(self) -> None:
        self.health.run(lambda _signature, _inputs: {}, "serving_default", {})
        self.health.answered()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.health.perf_counter", clock)
    return clock


@contextmanager
def version() -> Iterator[Version]:
    with ThreadPoolExecutor(8) as pool:
        at = Version(pool)
        yield at
        at.go_on.set()


def pass_deadlines(at: Version, times: int) -> None:
    for _ in range(times):
        at.health.deadline_passed()


def test_after_so_many_deadlines_in_a_row_it_is_unhealthy_and_says_so_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with version() as at:
        at.hang()
        clock.now += 30
        pass_deadlines(at, 2)
        at.health.check()
        pass_deadlines(at, 5)
        with pytest.raises(Unhealthy, match=r"^model version 1 is unhealthy: its runs do not end") as raised:
            at.health.check()
        assert (raised.value.status, raised.value.headers) == (503, (("retry-after", "5"),))
        assert at.changes == [False]
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "the deadlines of 3 requests in a row have passed" in record.getMessage()


def test_what_is_merely_slow_or_asked_too_much_is_healthy(clock: Clock) -> None:
    """Deadlines pass while it runs, of requests that stood in the queue for long or were given little time."""
    with version() as at:
        at.hang()
        clock.now += 14.9
        pass_deadlines(at, 100)
        at.health.check()


def test_deadlines_that_pass_while_nothing_runs_say_nothing_about_it(clock: Clock) -> None:
    with version() as at:
        clock.now += 60
        pass_deadlines(at, 100)
        at.health.check()


def test_an_answer_in_time_ends_the_row(clock: Clock) -> None:
    with version() as at:
        run = at.hang()
        clock.now += 30
        pass_deadlines(at, 2)
        at.go_on.set()
        run.result(SECONDS_AT_MOST)
        at.answer()
        at.go_on.clear()
        at.hang()
        clock.now += 30
        pass_deadlines(at, 2)
        at.health.check()


def test_answers_beside_what_hangs_do_not_end_the_row(clock: Clock) -> None:
    """Else one request after the other could hang, each in a thread of its own."""
    with version() as at:
        for _ in range(3):
            at.hang()
            clock.now += 30
            at.health.deadline_passed()
            at.answer()
        with pytest.raises(Unhealthy):
            at.health.check()


def test_without_a_tolerance_it_is_healthy_whatever_happens(clock: Clock) -> None:
    with version() as at:
        at.health = Health("model version 1", Tolerance(0, 30))
        at.hang()
        clock.now += 30
        pass_deadlines(at, 100)
        at.health.check()


def test_it_is_healthy_again_once_its_runs_have_ended_and_a_try_succeeds(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with version() as at:
        for _ in range(3):
            at.hang()
        clock.now += 30
        pass_deadlines(at, 3)
        assert not at.health._is_recovered()
        assert at.tries == 0
        at.go_on.set()
        assert at.recovered.wait(SECONDS_AT_MOST)
        at.health.check()
        assert at.tries >= 1
        assert at.changes[:2] == [False, True]
        assert "model version 1 is healthy again" in caplog.text
        pass_deadlines(at, 100)
        at.health.check()


def test_a_try_that_takes_longer_than_a_request_may_does_not_count(clock: Clock) -> None:
    with version() as at:
        at.trial = 31.0
        run = at.hang()
        clock.now += 30
        pass_deadlines(at, 3)
        at.go_on.set()
        run.result(SECONDS_AT_MOST)
        assert not at.health._is_recovered()
        with pytest.raises(Unhealthy):
            at.health.check()
        at.trial = 29.0
        assert at.recovered.wait(SECONDS_AT_MOST)


@pytest.mark.parametrize("trial", [inf, ValueError("refused"), None], ids=["cannot be tried", "raises", "is no more"])
def test_what_runs_or_cannot_be_tried_is_not_held_for_hanging(
    clock: Clock, trial: float | Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with version() as at:
        at.trial = trial
        run = at.hang()
        clock.now += 30
        pass_deadlines(at, 3)
        at.go_on.set()
        run.result(SECONDS_AT_MOST)
        assert at.recovered.wait(SECONDS_AT_MOST)
        assert at.changes == [False, True]
