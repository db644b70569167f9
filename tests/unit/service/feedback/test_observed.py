from collections.abc import Callable
from dataclasses import dataclass

import pytest

from service.feedback.observed import MIN_OBSERVED_ROWS, GivenRow, Observation, Observed, Taken
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.forked import Forked


@dataclass(frozen=True)
class Version:
    digest: int


ONE, TWO = Version(1), Version(2)


def row(
    request: int, *, answered: int = 0, given: int = 0, confidence: float = 0.5, version: Version = ONE
) -> GivenRow:
    return GivenRow(request, version.digest, 0, confidence, answered, given)


def right_and_wrong(right: int, wrong: int, **parts: float) -> list[GivenRow]:
    return [row(number, given=int(number >= right), **parts) for number in range(right + wrong)]  # type: ignore[arg-type]


@pytest.fixture
def observed() -> Observed:
    return Observed(2_000, SharedMemory())


def test_accuracy_is_the_share_of_right_answers(observed: Observed) -> None:
    observed.take(right_and_wrong(30, 10))
    assert (observed.of(ONE).rows, observed.of(ONE).accuracy) == (40, 0.75)
    assert observed.of(TWO) == Observation(0)


def test_few_rows_have_no_accuracy(observed: Observed) -> None:
    observed.take(right_and_wrong(MIN_OBSERVED_ROWS - 1, 0))
    assert observed.of(ONE) == Observation(29)


def test_calibration_error_is_the_mean_over_bins(observed: Observed) -> None:
    surer = [row(number + 100, confidence=0.75, given=int(number >= 20)) for number in range(20)]
    observed.take(right_and_wrong(10, 10, confidence=0.5) + surer)
    assert observed.of(ONE).calibration_error == pytest.approx(0.125)


@pytest.mark.parametrize("confidence", [1.5, -0.5, float("nan")])
def test_scores_that_are_no_probabilities_have_no_calibration_error(observed: Observed, confidence: float) -> None:
    observed.take(right_and_wrong(30, 0, confidence=confidence))
    assert (observed.of(ONE).accuracy, observed.of(ONE).calibration_error) == (1.0, None)


def test_same_feedback_counts_once(observed: Observed) -> None:
    rows = right_and_wrong(30, 0)
    assert observed.take([*rows, rows[0]]) == [Taken.NEW] * 30 + [Taken.SAME]
    assert observed.take(rows) == [Taken.SAME] * 30
    assert observed.of(ONE).rows == 30


def test_another_label_replaces_the_first(observed: Observed) -> None:
    observed.take(right_and_wrong(40, 0))
    assert observed.take([row(3, given=1)]) == [Taken.CHANGED]
    assert (observed.of(ONE).rows, observed.of(ONE).accuracy) == (40, 0.975)


def test_last_rows_count(observed: Observed) -> None:
    observed.take([row(number, given=1) for number in range(1_500)])
    observed.take([row(number, version=TWO) for number in range(100)])
    observed.take([row(number) for number in range(5_000, 5_900)])
    assert (observed.of(ONE).rows, observed.of(ONE).accuracy) == (1_000, 0.9)
    assert observed.of(TWO).rows == 100


def test_overwritten_row_is_new_again() -> None:
    observed = Observed(2, SharedMemory())
    assert observed.take([row(1), row(2), row(3), row(1), row(3)]) == [Taken.NEW] * 4 + [Taken.SAME]


def test_feedback_in_two_processes_at_once_counts_once() -> None:
    memory = SharedMemory()
    rows = right_and_wrong(300, 0)
    observed = Observed(1_000, memory)

    def take(_: Callable[[], None]) -> None:
        for each in rows:
            Observed(1_000, memory).take([each])

    children = [Forked(take), Forked(take)]
    assert [child.join() for child in children] == [0, 0]
    assert (observed.of(ONE).rows, observed.of(ONE).accuracy) == (300, 1.0)


def test_without_shared_memory_this_process_counts() -> None:
    observed = Observed(1_000_000, SharedMemory(16 * 2**20))
    assert observed.take([row(1), row(1)]) == [Taken.NEW, Taken.SAME]
