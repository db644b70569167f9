"""A version that hangs. Its runs are held at will, the clock is the test's."""

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from service.inference.deadline import Deadline
from service.inference.health import Health, Tolerance, Unhealthy
from service.tensors.dtypes import Array
from tests.unit.service.clocks import FakeClock
from tests.unit.service.fakes import Arrays
from tests.unit.service.held import MAX_SECONDS, Held


@dataclass
class Version:
    pool: ThreadPoolExecutor
    clock: FakeClock
    changes: list[bool] = field(default_factory=list)
    held: Held = field(default_factory=Held)

    def __post_init__(self) -> None:
        self.health = Health("model version 1", Tolerance(3, 30), self.changes.append)

    def hang(self, seconds: float = 0.0) -> "Future[dict[str, Array]]":
        """A run that began so long ago, and ends with `held.release`."""

        def hang(_signature: str, _inputs: Arrays) -> dict[str, Array]:
            self.held()
            return {}

        run = self.pool.submit(self.health.run, hang, "serving_default", {})
        self.held.wait_for_calls()
        self.clock.now += seconds
        return run

    def run(self) -> None:
        """One that ends at once."""
        self.health.run(lambda _signature, _inputs: {}, "serving_default", {})

    def end(self, *runs: "Future[dict[str, Array]]") -> None:
        self.held.release()
        for run in runs:
            run.result(MAX_SECONDS)
        self.held.hold_again()

    def pass_deadlines(self, times: int, run_began: float = 0.0) -> None:
        """Of requests that wait, or whose own run began then."""
        for _ in range(times):
            deadline = Deadline.unlimited()
            deadline.run_began = run_began
            self.health.deadline_expired(deadline)


@pytest.fixture
def at(clock: FakeClock) -> Iterator[Version]:
    with ThreadPoolExecutor(8) as pool:
        version = Version(pool, clock)
        yield version
        version.held.release()


def test_unhealthy_after_some_deadlines_in_a_row(at: Version, caplog: pytest.LogCaptureFixture) -> None:
    at.hang(45)
    at.pass_deadlines(2)
    at.health.check()
    at.pass_deadlines(5)
    with pytest.raises(Unhealthy, match=r"^model version 1 is unhealthy: its runs do not end") as raised:
        at.health.check()
    assert (raised.value.status, raised.value.headers) == (503, (("retry-after", "5"),))
    assert at.changes == [False]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the deadlines of 3 requests in a row have passed" in record.getMessage()


@pytest.mark.parametrize("runs", [0, 2])
def test_deadlines_do_not_count_while_no_run_is_endless(at: Version, runs: int) -> None:
    for _ in range(runs):
        at.hang()
    at.clock.now += 44.9
    at.pass_deadlines(100)
    at.health.check()


@pytest.mark.parametrize(("seconds", "is_healthy"), [(14.9, True), (15, False)])
def test_deadlines_count_once_their_own_run_took_half_of_what_it_may(
    at: Version, seconds: float, is_healthy: bool
) -> None:
    at.hang(seconds)
    at.pass_deadlines(3, run_began=at.clock.now - seconds)
    assert at.health.is_healthy is is_healthy


def test_late_end_of_a_run_starts_the_count_anew(at: Version) -> None:
    for _ in range(10):
        run = at.hang(45)
        at.pass_deadlines(2)
        at.end(run)
    at.health.check()


def test_end_of_a_run_beside_an_endless_one_does_not(at: Version) -> None:
    """Else one request after the other could hang, each in a thread of its own."""
    for _ in range(3):
        at.hang(45)
        at.pass_deadlines(1)
        at.run()
    with pytest.raises(Unhealthy):
        at.health.check()


def test_always_healthy_without_a_tolerance(at: Version) -> None:
    at.health = Health("model version 1", Tolerance(0, 30))
    at.hang(45)
    at.pass_deadlines(100)
    at.health.check()


def test_healthy_again_once_all_runs_have_ended(at: Version, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    runs = [at.hang(15) for _ in range(3)]
    at.pass_deadlines(3)
    at.run()
    assert at.changes == [False]
    at.end(*runs)
    at.health.check()
    assert at.changes == [False, True]
    assert "model version 1 is healthy again" in caplog.text
    at.hang(45)
    at.pass_deadlines(2)
    at.health.check()
