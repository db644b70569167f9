"""What the proof of independent rows accepts and refuses; the models are functions."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from training.export.independence import ROWS, RowsDepend, check, pick_rows

Array = np.ndarray[Any, Any]
X = np.random.default_rng(1).normal(size=(ROWS, 3)).astype(np.float32)
ODD = X[:5]


def run_of(answer: Any) -> Any:
    def run(_signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": np.asarray(answer(inputs["x"]))}

    return run


def softmax_over_the_list(x: Array) -> Array:
    powers: Array = np.exp(x.sum(axis=1))
    powers /= powers.sum()
    return powers


calls = itertools.count()
random = np.random.default_rng(2)


@pytest.mark.parametrize("x", [X, ODD, X[:1]], ids=["many", "an odd number", "one"])
def test_independent_rows_pass(x: Array) -> None:
    assert check(run_of(lambda x: np.tanh(x).sum(axis=1)), "serving_default", {"x": x}) < 1e-6
    assert check(run_of(lambda x: x.argmax(axis=1)), "serving_default", {"x": x}) == 0


def test_small_differences_by_batch_size_pass() -> None:
    assert 1e-6 < check(run_of(lambda x: x * (1 + 1e-5 * (len(x) > 1))), "serving_default", {"x": X}) < 1e-4


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (softmax_over_the_list, "together"),
        (lambda x: x - x.mean(axis=0), "together"),
        (lambda x: np.cumsum(x, axis=0), "together"),
        (lambda x: x.sum(), "one row"),
        (lambda x: x[x.sum(axis=1) > 0], "one row"),
        (lambda x: np.concatenate([x, x[:1]]), "one row"),
        (lambda x: x if len(x) == 1 else x[1:], "together"),
        (lambda x: x + next(calls), "together"),
        (lambda x: x + random.normal(size=x.shape), "together"),
        (lambda x: x * np.nan, "together"),
        (lambda x: x + (len(x) == 2), "in pairs"),
        (lambda x: x + np.arange(len(x))[:, None] * (len(x) == ROWS) * (x[0] != X[0]).any(), "in another order"),
    ],
    ids=[
        "a softmax over the list",
        "the mean of all is taken off",
        "sums from the first on",
        "one number for all",
        "detections",
        "a row too many",
        "a row too few",
        "a counter",
        "chance",
        "no number",
        "pairs",
        "order",
    ],
)
def test_dependent_rows_are_an_error(answer: Any, where: str) -> None:
    with pytest.raises(RowsDepend, match=f"'serving_default': y of ({ROWS} rows )?{where}"):
        check(run_of(answer), "serving_default", {"x": X})


def test_rows_are_picked_from_first_to_last() -> None:
    assert pick_rows(np.arange(1_000))[[0, -1]].tolist() == [0, 999]
    assert len(pick_rows(np.arange(1_000))) == ROWS
    assert pick_rows(np.arange(3)).tolist() == [0, 1, 2]
