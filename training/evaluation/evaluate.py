"""What a fitted model is worth, in numbers: errors, cross-validation, the time of a prediction. Needs numpy only."""

import math
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from training.data import Floats, Integers

NORMAL_95 = 1.959964  # of normally distributed values 95 % are at most so many deviations from the mean
LARGE_TEST = 1_000  # examples from which on an accuracy is said as a number; of fewer as a count, with its interval

# Calls by which a prediction is timed. The first do not count: they plan buffers and choose kernels.
WARM_UP_CALLS = 10
MIN_CALLS, MAX_CALLS = 30, 5_000
SECONDS = 1.0


def cross_entropy(truth: Integers, probabilities: Floats) -> float:
    """Mean of −log(probability of the true class), as Keras computes it. [n] and [n, classes]."""
    of_the_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(np.clip(of_the_truth, 1e-7, 1)).mean())


def interval(right: int, count: int) -> tuple[float, float]:
    """Where the accuracy lies of which `right` of `count` examples are a sample, with 95 % (Wilson, 1927)."""
    share, spread = right / count, NORMAL_95**2 / count
    middle, reach = share + spread / 2, NORMAL_95 * math.sqrt((share * (1 - share) + spread / 4) / count)
    return (middle - reach) / (1 + spread), (middle + reach) / (1 + spread)


def describe_accuracy(accuracy: float, count: int) -> str:
    """A count with its interval, "9 of 9 (95 % interval 0.70 to 1.00)", or for a large test "0.9477 of 10,000"."""
    if count >= LARGE_TEST:
        return f"{accuracy:.4f} of {count:,}"
    right = round(accuracy * count)
    low, high = interval(right, count)
    return f"{right} of {count} (95 % interval {low:.2f} to {high:.2f})"


def confusion_matrix(truth: Integers, predicted: Integers, classes: int) -> Integers:
    """How often class `row` was predicted to be class `column`: [classes, classes]."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def per_class(matrix: Integers, names: tuple[str, ...]) -> dict[str, dict[str, float | int | None]]:
    """Precision, recall and support of each class.

    None where there is nothing to divide by: a class that was never predicted, or that has no examples.
    """
    right, predicted, support = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    return {
        name: {
            "precision": round(float(right[i] / predicted[i]), 4) if predicted[i] else None,
            "recall": round(float(right[i] / support[i]), 4) if support[i] else None,
            "support": int(support[i]),
        }
        for i, name in enumerate(names)
    }


def confusions(matrix: Integers, names: tuple[str, ...], top: int = 5) -> list[tuple[str, str, int]]:
    """The most frequent errors: (true class, predicted class, how often), most frequent first."""
    errors = matrix - np.diag(np.diag(matrix))
    order = np.argsort(errors, axis=None, kind="stable")[::-1][:top]
    pairs = [np.unravel_index(place, errors.shape) for place in order]
    return [(names[i], names[j], int(errors[i, j])) for i, j in pairs if errors[i, j]]


def stratified_folds(labels: Integers, count: int, seed: int) -> Iterator[tuple[Integers, Integers]]:
    """Cross-validation: `count` times (places to train on, places to validate on).

    Each place is validated on once, and every fold has the same share of each class, give or take one.
    """
    generator = np.random.default_rng(seed)
    fold = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        fold[generator.permutation(places)] = np.arange(len(places)) % count
    for held_out in range(count):
        yield np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)


def microseconds(predict: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a prediction takes: the median of many calls, so that what interrupts a few does not count. `clock`:
    time.process_time where other processes keep the machine busy."""
    for _ in range(WARM_UP_CALLS):
        predict()
    taken: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(taken) < MIN_CALLS or (len(taken) < MAX_CALLS and time.perf_counter() < end):
        started = clock()
        predict()
        taken.append(clock() - started)
    return 1e6 * statistics.median(taken)
