"""What a fitted model is worth, in numbers. Needs numpy only."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]


def accuracy(matrix: Integers) -> float:
    return float(np.trace(matrix) / matrix.sum())


def cross_entropy(truth: Integers, probabilities: Floats) -> float:
    """Mean of −log(probability of the true class), as Keras computes it. [n] and [n, classes]."""
    of_the_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(np.clip(of_the_truth, 1e-7, 1)).mean())


def confusion_matrix(truth: Integers, predicted: Integers, classes: int) -> Integers:
    """How often class `row` was called class `column`: [classes, classes]."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def per_class(matrix: Integers, names: tuple[str, ...]) -> dict[str, dict[str, float | int | None]]:
    """Precision (of what was called so, how much is) and recall (of what is so, how much was called so).

    None where there is nothing to divide by: a class that was never called, or that has no examples.
    """
    right, called, support = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    return {
        name: {
            "precision": round(float(right[i] / called[i]), 4) if called[i] else None,
            "recall": round(float(right[i] / support[i]), 4) if support[i] else None,
            "support": int(support[i]),
        }
        for i, name in enumerate(names)
    }


def confusions(matrix: Integers, names: tuple[str, ...], top: int = 5) -> list[tuple[str, str, int]]:
    """The most frequent errors: (what it is, what it was called, how often), most frequent first."""
    errors = matrix - np.diag(np.diag(matrix))
    order = np.argsort(errors, axis=None, kind="stable")[::-1][:top]
    pairs = [np.unravel_index(place, errors.shape) for place in order]
    return [(names[i], names[j], int(errors[i, j])) for i, j in pairs if errors[i, j]]
