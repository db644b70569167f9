import numpy as np
import pytest

from training.evaluation import evaluate

NAMES = ("hat", "sock", "glove")
TRUTH = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 0])
MATRIX = evaluate.confusion_matrix(TRUTH, PREDICTED, 3)


def test_confusion_matrix_rows_are_the_truth() -> None:
    assert MATRIX.tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]


def test_precision_recall_and_support_of_each_class() -> None:
    classes = evaluate.per_class(MATRIX, NAMES)
    assert classes["hat"] == {"precision": 0.5, "recall": 0.6667, "support": 3}
    assert classes["sock"] == {"precision": 0.5, "recall": 0.5, "support": 2}


def test_class_never_predicted_has_no_precision() -> None:
    assert evaluate.per_class(MATRIX, NAMES)["glove"] == {"precision": None, "recall": 0.0, "support": 1}


def test_class_without_examples_has_no_recall() -> None:
    matrix = evaluate.confusion_matrix(np.array([0]), np.array([1]), 2)
    assert evaluate.per_class(matrix, ("hat", "sock"))["sock"] == {"precision": 0.0, "recall": None, "support": 0}


def test_cross_entropy() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)
    loss = evaluate.cross_entropy(np.array([0, 1]), probabilities)
    assert loss == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)


def test_probability_of_zero_gives_a_finite_loss() -> None:
    assert evaluate.cross_entropy(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(16.1, abs=0.1)


def test_confusions_come_most_frequent_first() -> None:
    matrix = np.array([[90, 7, 3], [0, 99, 1], [0, 0, 100]])
    assert evaluate.confusions(matrix, NAMES) == [("hat", "sock", 7), ("hat", "glove", 3), ("sock", "glove", 1)]


def test_folds_hold_out_each_example_once() -> None:
    labels = np.repeat([0, 1, 2, 3], 10)
    held_out: list[int] = []
    for train, validation in evaluate.stratified_folds(labels, 5, seed=3):
        assert sorted([*train, *validation]) == list(range(40))
        assert np.bincount(labels[validation]).tolist() == [2, 2, 2, 2]
        held_out += validation.tolist()
    assert sorted(held_out) == list(range(40))


def test_folds_follow_the_seed() -> None:
    def first(seed: int) -> list[int]:
        _, validation = next(evaluate.stratified_folds(np.repeat([0, 1], 20), 5, seed))
        return [int(place) for place in validation]

    assert first(1) == first(1) != first(2)


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
    monkeypatch.setattr(evaluate, "time", clock)
    return clock


def test_timing_ignores_warm_up_and_interrupted_calls(clock: Clock) -> None:
    def predict() -> None:
        clock.calls += 1
        interrupted = clock.calls > evaluate.WARM_UP_CALLS and clock.calls % 5 == 0
        clock.now += 9.0 if clock.calls <= evaluate.WARM_UP_CALLS or interrupted else 3e-6

    assert evaluate.microseconds(predict) == pytest.approx(3)


def test_timing_bounds_the_number_of_calls(clock: Clock) -> None:
    def predict() -> None:
        clock.calls += 1
        clock.now += seconds

    seconds = 60.0
    evaluate.microseconds(predict)
    assert clock.calls == evaluate.WARM_UP_CALLS + evaluate.MIN_CALLS
    seconds, clock.calls = 1e-9, 0
    evaluate.microseconds(predict)
    assert clock.calls == evaluate.WARM_UP_CALLS + evaluate.MAX_CALLS
