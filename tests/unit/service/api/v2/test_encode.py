"""The extension classification: the best classes of an output, as strings "score:index:label"."""

import numpy as np
import pytest

from service.api.v2.encode import classify
from service.errors import InvalidRequest
from service.inference.version import LoadedVersion
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import loaded_version, signature, tensor

SCORES = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1, 3), "z": tensor("DT_FLOAT", -1)})
UNLABELLED = loaded_version(SCORES)
LABELLED = loaded_version(SCORES, config=ServingConfig(labels=("a", "b", "c")))


def best(scores: Array, count: int, of: LoadedVersion = UNLABELLED, output: str = "y") -> object:
    return np.vectorize(bytes.decode, otypes=[object])(classify(of, DEFAULT_SIGNATURE, output, scores, count)).tolist()


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        (np.array([[0.1, 0.7, 0.2], [3, 2, 1]], np.float32), 2, [["0.7:1", "0.2:2"], ["3.0:0", "2.0:1"]]),
        (np.array([[5, 1]]), 2**63 - 1, [["5:0", "1:1"]]),
        (np.array([1.1, 3.3, 0.5, 2.4], np.float32), 2, ["3.3:1", "2.4:3"]),
        (np.arange(8).reshape(2, 2, 2), 1, [["3:3"], ["7:3"]]),
        (np.array([[1, 2, 2]], np.uint8), 3, [["2:1", "2:2", "1:0"]]),
        (np.array([[np.nan, 1, np.inf]], np.float32), 3, [["inf:2", "1.0:1", "nan:0"]]),
    ],
    ids=["rows", "a large count", "a vector", "more dimensions", "equal scores", "NaN"],
)
def test_best_of_each_row(scores: Array, count: int, expected: object) -> None:
    assert best(scores, count) == expected


def test_label_follows_the_index() -> None:
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    assert best(scores, 1, LABELLED) == [["0.7:1:b"]]
    assert best(scores, 1, LABELLED, "z") == [["0.7:1"]]
    # Not a score for each label
    assert best(np.array([[1, 2, 3, 4]]), 1, LABELLED) == [["4:3"]]


def test_probability_of_two_labels_gives_both() -> None:
    binary = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1, 1)})
    loaded = loaded_version(binary, config=ServingConfig(labels=("cat", "dog")))
    assert best(np.array([[0.25]]), 2, loaded) == [["0.75:0:cat", "0.25:1:dog"]]


@pytest.mark.parametrize(("shape", "expected"), [((0, 3), (0, 2)), ((2, 0), (2, 0)), ((0,), (0,))])
def test_no_scores(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert classify(UNLABELLED, DEFAULT_SIGNATURE, "y", np.empty(shape, np.float32), 2).shape == expected


@pytest.mark.parametrize("scores", [np.array([b"a"], object), np.array([True])])
def test_output_without_scores_is_400(scores: Array) -> None:
    with pytest.raises(InvalidRequest, match=f"output 'y' cannot be classified: it is of the type {scores.dtype.name}"):
        classify(UNLABELLED, DEFAULT_SIGNATURE, "y", scores, 1)
