"""What the proof of independent rows accepts and refuses; the models are functions."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from training.data import Array
from training.export.independence import ROWS, RowsDepend, check, pick_rows

X = np.random.default_rng(1).normal(size=(ROWS, 3)).astype(np.float32)

calls = itertools.count()
random = np.random.default_rng(2)


def difference(answer: Any, x: Array = X) -> float:
    def run(_signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": np.asarray(answer(inputs["x"]))}

    return check(run, "serving_default", {"x": x})


@pytest.mark.parametrize("count", [ROWS, 5, 1])
def test_independent_rows_pass(count: int) -> None:
    assert difference(lambda x: np.tanh(x).sum(axis=1), X[:count]) < 1e-6
    assert difference(lambda x: x.argmax(axis=1), X[:count]) == 0


def test_small_differences_by_batch_size_pass() -> None:
    assert 1e-6 < difference(lambda x: x * (1 + 1e-5 * (len(x) > 1))) < 1e-4


DEPENDENT: dict[str, tuple[Any, str]] = {
    "a softmax over the list": (lambda x: np.exp(x) / np.exp(x).sum(), "together"),
    "the mean of all is taken off": (lambda x: x - x.mean(axis=0), "together"),
    "sums from the first on": (lambda x: np.cumsum(x, axis=0), "together"),
    "one number for all": (lambda x: x.sum(), "one row"),
    "detections": (lambda x: x[x.sum(axis=1) > 0], "one row"),
    "a row too many": (lambda x: np.concatenate([x, x[:1]]), "one row"),
    "a row too few": (lambda x: x if len(x) == 1 else x[1:], "together"),
    "a counter": (lambda x: x + next(calls), "together"),
    "whole numbers": (lambda x: np.argsort(x[:, 0]), "together"),
    "chance": (lambda x: x + random.normal(size=x.shape), "together"),
    "no number": (lambda x: x * np.nan, "together"),
    "pairs": (lambda x: x + (len(x) == 2), "in pairs"),
    "order": (lambda x: x + np.arange(len(x))[:, None] * (len(x) == ROWS) * (x[0] != X[0]).any(), "in another order"),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_dependent_rows_are_an_error(name: str) -> None:
    answer, where = DEPENDENT[name]
    with pytest.raises(RowsDepend, match=f"'serving_default': y of ({ROWS} rows )?{where}"):
        difference(answer)


def test_rows_are_picked_from_first_to_last() -> None:
    assert pick_rows(np.arange(1_000))[[0, -1]].tolist() == [0, 999]
    assert len(pick_rows(np.arange(1_000))) == ROWS
    assert pick_rows(np.arange(3)).tolist() == [0, 1, 2]
