from random import Random

import pytest

from service.drift.window import Sample


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(sample: Sample, clock: Clock, requests: int, seconds: float) -> int:
    """Of so many, evenly spread over that time."""
    count = 0
    for _ in range(requests):
        clock.now += seconds / requests
        count += sample.takes()
    return count


def of(most: float, per_second: float, clock: Clock) -> Sample:
    return Sample(most, per_second, Random(0).random, clock)


@pytest.mark.parametrize("requests", [1, 50, 99])
def test_of_few_all_are_taken(requests: int) -> None:
    clock = Clock()
    assert taken(of(1.0, 100, clock), clock, 10 * requests, 10) == 10 * requests


def test_of_many_about_as_many_as_may_be_are_taken() -> None:
    clock = Clock()
    sample = of(1.0, 100, clock)
    # Within the first second it is not known yet how many come.
    assert taken(sample, clock, 999, 0.999) == 999
    assert taken(sample, clock, 10_000, 10) == pytest.approx(1_000, rel=0.1)


def test_of_large_ones_a_share_is_taken_however_few_they_are() -> None:
    clock = Clock()
    assert taken(of(0.4, 100, clock), clock, 500, 50) == pytest.approx(200, rel=0.2)


def test_after_a_pause_all_are_taken_again() -> None:
    clock = Clock()
    sample = of(1.0, 100, clock)
    taken(sample, clock, 20_000, 10)
    clock.now += 3_600
    assert taken(sample, clock, 500, 0.5) == 500
