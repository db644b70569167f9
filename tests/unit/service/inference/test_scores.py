from math import inf, nan

import numpy as np
import pytest

from service.inference.scores import (
    MAX_HEADER_SCORES,
    label_mismatch,
    label_output,
    label_scores,
    outlier_score_headers,
    relative_scores,
)
from service.serving_config import OutlierScore, ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.unit.service.fakes import any_shape, signature, tensor

Outputs = dict[str, TensorSpec]
TEN, OTHER = tensor("DT_FLOAT", -1, 10), tensor("DT_FLOAT", -1, 64)
SIGMOID, FLAT_SIGMOID = tensor("DT_FLOAT", -1, 1), tensor("DT_FLOAT", -1)
BOXES = {"boxes": tensor("DT_FLOAT", -1, 100, 4), "classes": tensor("DT_FLOAT", -1, 100)}
SCORE = OutlierScore(signature="scored", output="outlier score", threshold=1.0)


def of(outputs: Outputs) -> Signature:
    return signature({"x": any_shape("DT_FLOAT")}, outputs)


def config(count: int) -> ServingConfig:
    return ServingConfig(labels=tuple(f"label {number}" for number in range(count)), outlier_score=SCORE)


@pytest.mark.parametrize(
    ("count", "outputs", "message"),
    [
        (9, {"p": TEN}, "9 labels, and the output 'p' has 10 scores a row"),
        (1, {"p": TEN}, "1 label, and the output 'p' has 10 scores a row"),
        (3, {"p": SIGMOID}, "3 labels, and the output 'p' has 1 score a row"),
        (3, {"p": FLAT_SIGMOID}, "3 labels, and the output 'p' has 1 score a row"),
        (9, {"p": TEN, "z": OTHER}, "'p' has 10 scores a row and the output 'z' has 64 scores"),
    ],
)
def test_label_mismatch(count: int, outputs: Outputs, message: str) -> None:
    assert message in (label_mismatch({DEFAULT_SIGNATURE: of(outputs)}, config(count)) or "")


@pytest.mark.parametrize(
    ("count", "outputs"),
    [
        *(
            (0, {"p": TEN}),
            (10, {"p": TEN}),
            (10, {"p": TEN, "z": OTHER}),
            (2, {"p": SIGMOID}),
            (2, {"p": FLAT_SIGMOID}),
        ),
        *((9, {"p": any_shape("DT_FLOAT")}), (9, {"p": tensor("DT_FLOAT", -1, -1)}), (9, BOXES)),
        *((9, {"class": tensor("DT_INT64", -1)}), (9, {"name": tensor("DT_STRING", -1)})),
    ],
)
def test_no_label_mismatch(count: int, outputs: Outputs) -> None:
    assert label_mismatch({DEFAULT_SIGNATURE: of(outputs)}, config(count)) is None


def test_labels_may_belong_to_any_signature() -> None:
    assert label_mismatch({DEFAULT_SIGNATURE: of({"z": OTHER}), "classify": of({"p": TEN})}, config(10)) is None


@pytest.mark.parametrize(
    ("count", "outputs", "expected"),
    [
        *((0, {"p": TEN}, None), (10, {"p": TEN}, "p"), (9, {"p": TEN}, None), (10, {"p": TEN, "q": TEN}, None)),
        *((10, {"p": tensor("DT_FLOAT", 10)}, None), (10, {"p": tensor("DT_FLOAT", -1, 1, 10)}, None)),
        *((10, {"p": any_shape("DT_FLOAT")}, None), (10, {"p": TEN, "z": OTHER}, "p")),
        (10, {"p": TEN, "q": tensor("DT_STRING", -1, 10)}, "p"),
        (2, {"p": SIGMOID, "outlier score": FLAT_SIGMOID}, "p"),
        (2, {"p": SIGMOID, "q": FLAT_SIGMOID}, None),
    ],
)
def test_label_output(count: int, outputs: Outputs, expected: str | None) -> None:
    assert label_output(of(outputs), config(count)) == expected


@pytest.mark.parametrize(
    ("values", "spec", "expected"),
    [
        ([[0.75], [0.25]], SIGMOID, [[0.25, 0.75], [0.75, 0.25]]),
        ([0.75, 0.25], FLAT_SIGMOID, [[0.25, 0.75], [0.75, 0.25]]),
        ([[nan]], SIGMOID, [[nan, nan]]),
        *(([[2.5]], SIGMOID, None), ([[-0.5]], SIGMOID, None), ([[0.5, 0.5]], SIGMOID, None)),
    ],
)
def test_probability_is_of_the_second_of_two_labels(
    values: list[object], spec: TensorSpec, expected: list[list[float]] | None
) -> None:
    scores = label_scores(np.array(values), spec, 2)
    if expected is None:
        assert scores is None
    else:
        np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize(
    ("scores", "threshold", "value"),
    [
        (np.array([0, 0.1234567, 21.0, 123456], np.float32), 0.5, "0, 0.247, 42, 2.47e+05"),
        (np.array([nan, inf, -inf, 1e-300]), 1e-310, "Infinity, Infinity, Infinity, 1e+10"),
    ],
)
def test_outlier_scores_are_relative_to_the_threshold(scores: Array, threshold: float, value: str) -> None:
    assert outlier_score_headers(relative_scores(scores, threshold)) == (("Outlier-Score", value),)


@pytest.mark.parametrize(("rows", "count"), [(0, 0), (1, 1), (MAX_HEADER_SCORES, 1), (MAX_HEADER_SCORES + 1, 0)])
def test_outlier_score_header_is_bounded(rows: int, count: int) -> None:
    assert len(outlier_score_headers([0.123456] * rows)) == count
