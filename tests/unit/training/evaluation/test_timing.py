import pytest

from training.evaluation import timing


class Clock:
    """Stands still but for what is timed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = 0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_neither_the_first_calls_count_nor_those_that_were_interrupted(clock: Clock) -> None:
    def predict() -> None:
        clock.calls += 1
        interrupted = clock.calls > timing.FIRST and clock.calls % 5 == 0
        clock.now += 9.0 if clock.calls <= timing.FIRST or interrupted else 3e-6

    assert timing.microseconds(predict) == pytest.approx(3)


def test_a_slow_prediction_is_timed_a_few_times_and_a_quick_one_not_for_ever(clock: Clock) -> None:
    def predict() -> None:
        clock.calls += 1
        clock.now += seconds

    seconds = 60.0
    timing.microseconds(predict)
    assert clock.calls == timing.FIRST + timing.LEAST
    seconds, clock.calls = 1e-9, 0
    timing.microseconds(predict)
    assert clock.calls == timing.FIRST + timing.MOST
