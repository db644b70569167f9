from typing import Any

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.inference.classification import Ranking, classify, regress
from service.inference.version import LoadedVersion
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, TensorSpec
from tests.unit.service.fakes import any_shape, loaded_version, signature, tensor

ANY = any_shape("DT_FLOAT")


def version(*labels: str, **outputs: TensorSpec) -> LoadedVersion:
    return loaded_version(signature({"x": ANY}, outputs), config=ServingConfig(labels=labels))


LABELLED = version("cat", "dog", "cow", p=tensor("DT_FLOAT", -1, 3))
SIGMOID = version("cat", "dog", p=tensor("DT_FLOAT", -1, 1))
PLAIN = version(classes=ANY, scores=ANY)
OTHER = version(y=tensor("DT_FLOAT", -1, 2), z=any_shape("DT_INT8"))
CLASSES, SCORES = np.array([[b"a", "ü".encode()]], object), np.array([[0.1, 0.9]])


@pytest.mark.parametrize(
    ("loaded", "outputs", "top_k", "expected"),
    [
        (LABELLED, {"p": np.array([[0.2, 0.5, 0.3]])}, 2, [["dog", 0.5], ["cow", 0.3]]),
        (LABELLED, {"p": np.array([[0.2, 0.5, 0.3]])}, 99, [["dog", 0.5], ["cow", 0.3], ["cat", 0.2]]),
        (LABELLED, {"p": np.full((1, 3), 0.5)}, None, [["cat", 0.5], ["dog", 0.5], ["cow", 0.5]]),
        (LABELLED, {"p": np.array([[np.nan, -np.inf, 0.1]])}, 2, [["cow", 0.1], ["dog", -np.inf]]),
        (LABELLED, {"p": np.array([[-128, 0, 127]], np.int8)}, None, [["cow", 127], ["dog", 0], ["cat", -128]]),
        (LABELLED, {"p": np.array([[0, 100, 50]], np.uint8)}, None, [["dog", 100], ["cow", 50], ["cat", 0]]),
        (SIGMOID, {"p": np.array([[0.75]])}, None, [["dog", 0.75], ["cat", 0.25]]),
        (PLAIN, {"classes": CLASSES, "scores": SCORES}, None, [["a", 0.1], ["ü", 0.9]]),
        (PLAIN, {"classes": CLASSES, "scores": SCORES}, 1, [["a", 0.1]]),
        (PLAIN, {"scores": SCORES}, None, [["", 0.1], ["", 0.9]]),
        (PLAIN, {"classes": np.array([[b"a", b"\xff"]], object)}, None, [["a", 0.0], ["\ufffd", 0.0]]),
        (PLAIN, {"classes": np.array([[3]]), "scores": np.array([[0.5]])}, None, [["3", 0.5]]),
    ],
)
def test_labels_come_best_first_and_classes_as_they_are_given(
    loaded: LoadedVersion, outputs: dict[str, Array], top_k: int | None, expected: Ranking
) -> None:
    assert classify(loaded, DEFAULT_SIGNATURE, outputs, top_k) == [expected]


def test_each_row_is_ranked() -> None:
    scores = np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]])
    assert classify(LABELLED, DEFAULT_SIGNATURE, {"p": scores}, 1) == [[["dog", 0.5]], [["cat", 0.7]]]


@pytest.mark.parametrize(
    ("loaded", "outputs", "message"),
    [
        (LABELLED, {"p": np.zeros((1, 5))}, "'p' of the shape [1, 5] for this input; expected [-1, 3], a score for ea"),
        (LABELLED, {"p": np.zeros((0, 3))}, "Cannot convert empty ClassificationResults to JSON: model gave no row"),
        (SIGMOID, {"p": np.array([[2.5]])}, "or a probability of 'dog' from 0 to 1 (end the model in a sigmoid)"),
        (PLAIN, {"scores": np.zeros(3)}, "of one shape [batch, classes], the model gave scores [3]"),
        (PLAIN, {"classes": CLASSES, "scores": np.zeros((1, 3))}, "gave classes [1, 2] and scores [1, 3]"),
        (OTHER, {"y": np.zeros((1, 2)), "z": np.zeros(1)}, "names no labels for 'y' [-1, 2], 'z' of any shape, and"),
        (PLAIN, {}, "model cannot classify"),
    ],
)
def test_outputs_that_cannot_be_classified(loaded: LoadedVersion, outputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        classify(loaded, DEFAULT_SIGNATURE, outputs, None)
    assert message in str(raised.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
@pytest.mark.parametrize("values", [[3, 4], [[3], [4]]])
def test_regression_is_a_number_for_each_row(dtype: type[np.generic], values: list[object]) -> None:
    assert regress(OTHER, DEFAULT_SIGNATURE, {"y": np.array(values, dtype)}).tolist() == [3, 4]


@pytest.mark.parametrize(
    "arrays",
    [(np.zeros((2, 2)),), (np.zeros((2, 1, 1)),), (np.array(1.0),), (CLASSES[0],), (np.zeros(2), np.zeros(2)), ()],
    ids=["two columns", "three dimensions", "scalar", "strings", "two outputs", "no output"],
)
def test_other_outputs_cannot_regress(arrays: tuple[Array, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"^model cannot regress: expected one output .*; ask with :predict$"):
        regress(OTHER, DEFAULT_SIGNATURE, {str(number): array for number, array in enumerate(arrays)})


def test_no_rows_cannot_regress() -> None:
    with pytest.raises(InvalidRequest, match=r"^Cannot convert empty RegressionResults to JSON: model gave no row$"):
        regress(OTHER, DEFAULT_SIGNATURE, {"y": np.zeros((0, 1))})
