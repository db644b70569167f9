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

TEN = tensor("DT_FLOAT", -1, 10)
SIGMOID = tensor("DT_FLOAT", -1, 1)
FLAT_SIGMOID = tensor("DT_FLOAT", -1)


def of(**outputs: TensorSpec) -> Signature:
    return signature({"x": any_shape("DT_FLOAT")}, outputs)


def labels(count: int) -> ServingConfig:
    return ServingConfig(labels=tuple(f"label {number}" for number in range(count)))


@pytest.mark.parametrize(
    ("count", "outputs", "message"),
    [
        (9, {"p": TEN}, "9 labels, and the output 'p' has 10 scores a row"),
        (11, {"p": TEN}, "11 labels, and the output 'p' has 10 scores a row"),
        (1, {"p": TEN}, "1 label, and the output 'p' has 10 scores a row"),
        (3, {"p": SIGMOID}, "3 labels, and the output 'p' has 1 score a row"),
        (3, {"p": FLAT_SIGMOID}, "3 labels, and the output 'p' has 1 score a row"),
        (9, {"p": TEN, "z": tensor("DT_FLOAT", -1, 64)}, "'p' has 10 scores a row and the output 'z' has 64 scores"),
    ],
)
def test_label_mismatch(count: int, outputs: dict[str, TensorSpec], message: str) -> None:
    assert message in (label_mismatch({DEFAULT_SIGNATURE: of(**outputs)}, labels(count)) or "")


@pytest.mark.parametrize(
    ("count", "outputs"),
    [
        (0, {"p": TEN}),
        (10, {"p": TEN}),
        (10, {"p": TEN, "z": tensor("DT_FLOAT", -1, 64)}),
        (2, {"p": SIGMOID}),
        (2, {"p": FLAT_SIGMOID}),
        (9, {"p": any_shape("DT_FLOAT")}),
        (9, {"p": tensor("DT_FLOAT", -1, -1)}),
        (9, {"boxes": tensor("DT_FLOAT", -1, 100, 4), "classes": tensor("DT_FLOAT", -1, 100)}),
        (9, {"class": tensor("DT_INT64", -1)}),
        (9, {"name": tensor("DT_STRING", -1)}),
    ],
)
def test_no_label_mismatch(count: int, outputs: dict[str, TensorSpec]) -> None:
    assert label_mismatch({DEFAULT_SIGNATURE: of(**outputs)}, labels(count)) is None


def test_labels_may_belong_to_any_signature() -> None:
    signatures = {DEFAULT_SIGNATURE: of(z=tensor("DT_FLOAT", -1, 64)), "classify": of(p=TEN)}
    assert label_mismatch(signatures, labels(10)) is None


@pytest.mark.parametrize(
    ("count", "outputs", "expected"),
    [
        (0, {"p": TEN}, None),
        (10, {"p": TEN}, "p"),
        (9, {"p": TEN}, None),
        (10, {"p": tensor("DT_FLOAT", 10)}, None),
        (10, {"p": tensor("DT_FLOAT", -1, 1, 10)}, None),
        (10, {"p": any_shape("DT_FLOAT")}, None),
        (10, {"p": TEN, "z": tensor("DT_FLOAT", -1, 64)}, "p"),
        (10, {"p": TEN, "q": TEN}, None),
        (10, {"p": TEN, "q": tensor("DT_STRING", -1, 10)}, "p"),
        (2, {"p": SIGMOID, "outlier score": FLAT_SIGMOID}, "p"),
        (2, {"p": SIGMOID, "q": FLAT_SIGMOID}, None),
    ],
)
def test_label_output(count: int, outputs: dict[str, TensorSpec], expected: str | None) -> None:
    score = OutlierScore(signature="scored", output="outlier score", threshold=1.0)
    config = ServingConfig(labels=labels(count).labels, outlier_score=score)
    assert label_output(of(**outputs), config) == expected


@pytest.mark.parametrize(
    ("array", "spec", "expected"),
    [
        (np.array([[0.75], [0.25]]), SIGMOID, [[0.25, 0.75], [0.75, 0.25]]),
        (np.array([0.75, 0.25]), FLAT_SIGMOID, [[0.25, 0.75], [0.75, 0.25]]),
        (np.array([[2.5]]), SIGMOID, None),
        (np.array([[-0.5]]), SIGMOID, None),
        (np.array([[0.5, 0.5]]), SIGMOID, None),
    ],
)
def test_probability_is_of_the_second_of_two_labels(
    array: Array, spec: TensorSpec, expected: list[list[float]] | None
) -> None:
    scores = label_scores(array, spec, 2)
    assert (None if scores is None else scores.tolist()) == expected


def test_nan_is_kept_as_a_probability() -> None:
    scores = label_scores(np.array([[nan]]), SIGMOID, 2)
    assert scores is not None
    assert np.isnan(scores).all()


def test_outlier_scores_are_relative_to_the_threshold() -> None:
    scores = relative_scores(np.array([0, 0.1234567, 21.0, 123456], np.float32), 0.5)
    assert outlier_score_headers(scores) == (("Outlier-Score", "0, 0.247, 42, 2.47e+05"),)


def test_outlier_score_that_is_not_finite_is_infinity() -> None:
    ((_, value),) = outlier_score_headers(relative_scores(np.array([nan, inf, -inf, 1e-300]), 1e-310))
    assert value == "Infinity, Infinity, Infinity, 1e+10"


@pytest.mark.parametrize(
    ("rows", "has_header"), [(0, False), (1, True), (MAX_HEADER_SCORES, True), (MAX_HEADER_SCORES + 1, False)]
)
def test_outlier_score_header_is_bounded(rows: int, has_header: bool) -> None:
    assert bool(outlier_score_headers([0.123456] * rows)) is has_header
