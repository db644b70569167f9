from math import inf

import pytest

from service.inference.pace import (
    HELD_UP_SECONDS,
    QUICK_RUNS,
    QUICK_SECONDS,
    REMEMBERED_RUNS,
    SLOW_SECONDS,
    SLOW_WALL_SECONDS,
    WINDOW_SECONDS,
    Pace,
)
from tests.unit.service.clocks import FakeClock

QUICK, SLOW = 0.5 * QUICK_SECONDS, 2 * QUICK_SECONDS


def run(pace: Pace, clock: FakeClock, *seconds: float, rows: int = 1) -> Pace:
    for each in seconds:
        begun = pace.begin()
        clock.now += each
        pace.end(begun, rows)
    return pace


@pytest.fixture
def learned(clock: FakeClock) -> Pace:
    """Quick by its runs in threads."""
    return run(Pace(), clock, *[QUICK] * REMEMBERED_RUNS)


def test_unknown_pace_is_not_quick(clock: FakeClock) -> None:
    pace = Pace()
    assert (pace.is_quick, pace.row_seconds, pace.usual_run) == (False, inf, 0.0)
    assert not run(pace, clock, *[QUICK] * (REMEMBERED_RUNS - 1)).is_quick


def test_example_shows_the_pace_at_once() -> None:
    assert Pace(QUICK).is_quick
    assert not Pace(QUICK_SECONDS).is_quick


@pytest.mark.parametrize(("more", "is_quick"), [(-REMEMBERED_RUNS, True), (0, True), (1, False)])
def test_most_of_the_last_runs_have_to_be_quick(clock: FakeClock, more: int, is_quick: bool) -> None:
    slow = max(0, REMEMBERED_RUNS - QUICK_RUNS + more)
    assert run(Pace(), clock, *[SLOW] * slow, *[QUICK] * (REMEMBERED_RUNS - slow)).is_quick is is_quick


def test_pace_is_of_rows_not_of_runs(clock: FakeClock) -> None:
    pace = run(Pace(), clock, *[10 * QUICK] * REMEMBERED_RUNS, rows=10)
    assert pace.is_quick
    assert pace.row_seconds == pytest.approx(QUICK)


def test_pace_is_by_the_threads_processor_time(clock: FakeClock) -> None:
    cpu = FakeClock()
    pace = Pace(cpu_clock=cpu)
    for _ in range(REMEMBERED_RUNS):
        begun = pace.begin()
        clock.now += SLOW
        cpu.now += QUICK
        pace.end(begun, 1)
    assert pace.is_quick
    assert pace.usual_run == pytest.approx(SLOW)


def test_version_that_holds_up_the_loop_leaves_it_each_time_for_longer(clock: FakeClock, learned: Pace) -> None:
    learned.held_up(0.9 * HELD_UP_SECONDS, inf)
    assert learned.is_quick
    learned.held_up(0.5 * HELD_UP_SECONDS, inf)
    assert not learned.is_quick
    for times in (1, 2, 4):
        assert not run(learned, clock, *[QUICK] * (times * REMEMBERED_RUNS - 1)).is_quick
        assert run(learned, clock, QUICK).is_quick
        learned.held_up(HELD_UP_SECONDS, inf)


def test_rare_slow_runs_are_forgotten(clock: FakeClock, learned: Pace) -> None:
    for _ in range(10):
        learned.held_up(0.9 * HELD_UP_SECONDS, inf)
        clock.now += 1.1 * WINDOW_SECONDS
    assert learned.is_quick


@pytest.mark.parametrize(
    ("runs_on_caller", "seconds", "cpu_seconds", "is_quick"),
    [
        (True, HELD_UP_SECONDS, HELD_UP_SECONDS, False),
        (True, HELD_UP_SECONDS, QUICK, True),
        (True, SLOW_SECONDS, SLOW_SECONDS, True),
        (False, HELD_UP_SECONDS, QUICK, False),
        (False, SLOW_WALL_SECONDS, SLOW_WALL_SECONDS, True),
    ],
    ids=["own work", "interpreter taken", "little own work", "own threads", "little in own threads"],
)
def test_held_up_is_by_the_processor_time_where_that_is_known(
    clock: FakeClock, runs_on_caller: bool, seconds: float, cpu_seconds: float, is_quick: bool
) -> None:
    pace = Pace(QUICK, clock if runs_on_caller else None)
    for _ in range(10):
        pace.held_up(seconds, cpu_seconds)
    assert pace.is_quick is is_quick


def test_version_kept_off_the_loop_stays_off(clock: FakeClock, learned: Pace) -> None:
    learned.keep_off_loop()
    assert not run(learned, clock, *[QUICK] * 10 * REMEMBERED_RUNS).is_quick
