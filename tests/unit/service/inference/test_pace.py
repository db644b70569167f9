"""What is learned from runs, by clocks that the test sets."""

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

QUICK, SLOW = 0.5 * QUICK_SECONDS, 2 * QUICK_SECONDS


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.inference.pace.time.perf_counter", clock)
    return clock


def run(of: Pace, clock: Clock, *seconds: float, rows: int = 1) -> None:
    for each in seconds:
        begun = of.begin()
        clock.now += each
        of.end(begun, rows)


def learned(clock: Clock) -> Pace:
    of = Pace()
    run(of, clock, *[QUICK] * REMEMBERED_RUNS)
    assert of.is_quick
    return of


def test_what_is_unknown_is_not_quick(clock: Clock) -> None:
    of = Pace()
    assert (of.is_quick, of.row_seconds, of.usual_run) == (False, inf, 0.0)
    run(of, clock, *[QUICK] * (REMEMBERED_RUNS - 1))
    assert not of.is_quick


def test_what_its_example_shows_to_be_quick_is_so_at_once() -> None:
    assert Pace(QUICK).is_quick
    assert not Pace(QUICK_SECONDS).is_quick


@pytest.mark.parametrize("slow_runs", [0, REMEMBERED_RUNS - QUICK_RUNS])
def test_most_of_the_last_runs_have_to_be_quick(clock: Clock, slow_runs: int) -> None:
    of = Pace()
    run(of, clock, *[SLOW] * slow_runs, *[QUICK] * (REMEMBERED_RUNS - slow_runs))
    assert of.is_quick
    too_many = Pace()
    run(too_many, clock, *[SLOW] * (slow_runs + 1 + REMEMBERED_RUNS - QUICK_RUNS), *[QUICK] * (QUICK_RUNS - 1))
    assert not too_many.is_quick


def test_a_row_has_to_be_quick_not_a_run(clock: Clock) -> None:
    of = Pace()
    run(of, clock, *[10 * QUICK] * REMEMBERED_RUNS, rows=10)
    assert of.is_quick
    assert of.row_seconds == pytest.approx(QUICK)


def test_the_time_of_the_thread_counts_where_the_engine_runs_on_it(clock: Clock) -> None:
    cpu = Clock()
    of = Pace(cpu_clock=cpu)
    for _ in range(REMEMBERED_RUNS):
        begun = of.begin()
        clock.now += SLOW
        cpu.now += QUICK
        of.end(begun, 1)
    assert of.is_quick
    assert of.usual_run == pytest.approx(SLOW)


def test_what_holds_up_the_event_loop_leaves_it_until_it_is_quick_again_and_each_time_for_longer(clock: Clock) -> None:
    of = learned(clock)
    of.held_up(0.9 * HELD_UP_SECONDS, inf)
    assert of.is_quick
    of.held_up(0.5 * HELD_UP_SECONDS, inf)
    assert not of.is_quick
    for times in (1, 2, 4):
        run(of, clock, *[QUICK] * (times * REMEMBERED_RUNS - 1))
        assert not of.is_quick
        run(of, clock, QUICK)
        assert of.is_quick
        of.held_up(HELD_UP_SECONDS, inf)


def test_slow_runs_now_and_then_are_forgotten(clock: Clock) -> None:
    of = learned(clock)
    for _ in range(10):
        of.held_up(0.9 * HELD_UP_SECONDS, inf)
        clock.now += 1.1 * WINDOW_SECONDS
    assert of.is_quick


@pytest.mark.parametrize(
    ("on_caller", "seconds", "cpu_seconds", "is_quick"),
    [
        (True, HELD_UP_SECONDS, HELD_UP_SECONDS, False),
        (True, HELD_UP_SECONDS, QUICK, True),
        (True, SLOW_SECONDS, SLOW_SECONDS, True),
        (False, HELD_UP_SECONDS, QUICK, False),
        (False, SLOW_WALL_SECONDS, SLOW_WALL_SECONDS, True),
    ],
    ids=["its own work", "the interpreter was another's", "a little", "on threads of its own", "a little, on those"],
)
def test_a_run_that_only_waited_for_the_interpreter_has_held_up_nobody(
    clock: Clock, on_caller: bool, seconds: float, cpu_seconds: float, is_quick: bool
) -> None:
    of = Pace(QUICK, clock if on_caller else None)
    for _ in range(10):
        of.held_up(seconds, cpu_seconds)
    assert of.is_quick is is_quick


def test_what_is_kept_off_the_loop_stays_off_however_quick_it_is(clock: Clock) -> None:
    of = learned(clock)
    of.keep_off_loop()
    run(of, clock, *[QUICK] * 10 * REMEMBERED_RUNS)
    assert not of.is_quick
