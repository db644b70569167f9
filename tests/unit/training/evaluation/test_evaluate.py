from collections.abc import Callable

import numpy as np
import pytest

from training.evaluation import evaluate


def test_confusion_matrix_rows_are_the_truth() -> None:
    truth, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    assert evaluate.confusion_matrix(truth, predicted, 3).tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]


def test_precision_recall_and_support_of_each_class() -> None:
    """None where there is nothing to divide by."""
    matrix = np.array([[2, 1, 0, 0], [1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert evaluate.per_class(matrix, ("hat", "sock", "never predicted", "without examples")) == {
        "hat": {"precision": 0.5, "recall": 0.6667, "support": 3},
        "sock": {"precision": 0.5, "recall": 0.3333, "support": 3},
        "never predicted": {"precision": None, "recall": 0.0, "support": 1},
        "without examples": {"precision": 0.0, "recall": None, "support": 0},
    }


def test_cross_entropy_is_finite_for_a_probability_of_zero() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)
    assert evaluate.cross_entropy(np.array([0, 1]), probabilities) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)
    assert evaluate.cross_entropy(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(16.1, abs=0.1)


def test_confusions_come_most_frequent_first() -> None:
    matrix = np.array([[90, 7, 3], [0, 99, 1], [0, 0, 100]])
    found = evaluate.confusions(matrix, ("hat", "sock", "glove"))
    assert found == [("hat", "sock", 7), ("hat", "glove", 3), ("sock", "glove", 1)]


def test_folds_hold_out_each_example_once_by_the_seed() -> None:
    labels = np.repeat([0, 1, 2, 3], 10)

    def held_out(seed: int) -> list[int]:
        found: list[int] = []
        for train, validation in evaluate.stratified_folds(labels, 5, seed):
            assert sorted([*train, *validation]) == list(range(40))
            assert np.bincount(labels[validation]).tolist() == [2, 2, 2, 2]
            found += validation.tolist()
        return found

    assert sorted(held_out(1)) == list(range(40))
    assert held_out(1) == held_out(1) != held_out(2)


class Timed:
    """A clock that stands still but for the calls that are timed, and those calls."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        """`seconds`: of the call of this number, from 1."""
        self.seconds = seconds
        self.now = 0.0
        self.calls = 0

    def perf_counter(self) -> float:
        return self.now

    def predict(self) -> None:
        self.calls += 1
        self.now += self.seconds(self.calls)


def test_timing_ignores_warm_up_and_interrupted_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(lambda call: 9.0 if call <= evaluate.WARM_UP_CALLS or call % 5 == 0 else 3e-6)
    monkeypatch.setattr(evaluate, "time", timed)
    assert evaluate.microseconds(timed.predict, timed.perf_counter) == pytest.approx(3)


@pytest.mark.parametrize(("seconds", "calls"), [(60.0, evaluate.MIN_CALLS), (1e-9, evaluate.MAX_CALLS)])
def test_timing_bounds_the_number_of_calls(seconds: float, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(lambda _: seconds)
    monkeypatch.setattr(evaluate, "time", timed)
    evaluate.microseconds(timed.predict)
    assert timed.calls == evaluate.WARM_UP_CALLS + calls


@pytest.mark.parametrize(
    ("right", "count", "low", "high"), [(9, 9, 0.7009, 1), (0, 10, 0, 0.2775), (313, 341, 0.8839, 0.9426)]
)
def test_accuracy_of_a_small_test_is_a_count(right: int, count: int, low: float, high: float) -> None:
    assert evaluate.interval(right, count) == pytest.approx((low, high), abs=1e-4)
    told = f"{right} of {count} (95 % interval {low:.2f} to {high:.2f})"
    assert evaluate.describe_accuracy(right / count, count) == told
    assert evaluate.describe_accuracy(0.9477, 10_000) == "0.9477 of 10,000"
