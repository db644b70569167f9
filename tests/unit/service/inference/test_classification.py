from typing import Any

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.inference.classification import classify, regress
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import Signature, TensorSpec
from tests.unit.service.fakes import any_shape, loaded_version, signature, tensor

LABELS = ("cat", "dog", "cow")
SCORES = signature({"x": any_shape("DT_FLOAT")}, {"scores": tensor("DT_FLOAT", -1, 3)})


def rank(scores: Array, top_k: int | None = None) -> list[list[list[object]]]:
    loaded = loaded_version(SCORES, config=ServingConfig(labels=LABELS))
    return classify(loaded, "serving_default", {"scores": scores}, top_k)


def without_labels(outputs: dict[str, Array], top_k: int | None = None) -> Any:
    specs: dict[str, TensorSpec] = {name: any_shape("DT_FLOAT") for name in outputs}
    of: Signature = signature({"x": any_shape("DT_FLOAT")}, specs)
    return classify(loaded_version(of), "serving_default", outputs, top_k)


def names(rankings: list[list[list[object]]]) -> list[list[object]]:
    return [[label for label, _ in row] for row in rankings]


def test_labels_come_best_first_for_each_row() -> None:
    assert rank(np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]])) == [
        [["dog", 0.5], ["cow", 0.3], ["cat", 0.2]],
        [["cat", 0.7], ["cow", 0.2], ["dog", 0.1]],
    ]


@pytest.mark.parametrize(("top_k", "expected"), [(1, ["dog"]), (2, ["dog", "cow"]), (99, ["dog", "cow", "cat"])])
def test_at_most_so_many_labels_come_as_were_asked_for(top_k: int, expected: list[str]) -> None:
    assert names(rank(np.array([[0.2, 0.5, 0.3]]), top_k)) == [expected]


def test_labels_with_equal_scores_keep_the_models_order() -> None:
    assert names(rank(np.full((1, 3), 0.5))) == [["cat", "dog", "cow"]]


def test_a_score_that_is_no_number_comes_last() -> None:
    assert names(rank(np.array([[np.nan, -np.inf, 0.1]]))) == [["cow", "dog", "cat"]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64, np.float16, np.float32])
def test_scores_of_any_type_are_ranked(dtype: type[np.generic]) -> None:
    assert names(rank(np.array([[0, 100, 50]], dtype))) == [["dog", "cow", "cat"]]


def test_the_least_number_of_a_type_is_the_least_score() -> None:
    assert names(rank(np.array([[-128, 0, 127]], np.int8))) == [["cow", "dog", "cat"]]


def test_scores_of_another_shape_than_the_labels_cannot_be_classified() -> None:
    with pytest.raises(InvalidRequest, match=r"model gave 'scores' of the shape \[1, 5\] for this input"):
        rank(np.zeros((1, 5)))


def test_no_rows_cannot_be_classified() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^Cannot convert empty ClassificationResults to JSON: model gave no row$"
    ):
        rank(np.zeros((0, 3)))


def test_classes_and_scores_come_as_the_model_gives_them() -> None:
    classes = np.array([[b"a", "ü".encode()]], object)
    assert without_labels({"classes": classes, "scores": np.array([[0.1, 0.9]])}) == [[["a", 0.1], ["ü", 0.9]]]
    assert without_labels({"classes": classes, "scores": np.array([[0.1, 0.9]])}, top_k=1) == [[["a", 0.1]]]


def test_scores_alone_have_empty_labels() -> None:
    assert without_labels({"scores": np.array([[0.5, 0.25]])}) == [[["", 0.5], ["", 0.25]]]


def test_classes_alone_have_no_score() -> None:
    assert without_labels({"classes": np.array([[b"a", b"\xff"]], object)}) == [[["a", 0.0], ["\ufffd", 0.0]]]


def test_classes_may_be_numbers() -> None:
    assert without_labels({"classes": np.array([[3]]), "scores": np.array([[0.5]])}) == [[["3", 0.5]]]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"scores": np.zeros(3)}, "scores [3]"),
        ({"scores": np.zeros((1, 1, 3))}, "scores [1, 1, 3]"),
        (
            {"classes": np.zeros((1, 2), object), "scores": np.zeros((1, 3))},
            "classes [1, 2] and scores [1, 3]",
        ),
    ],
)
def test_classes_and_scores_of_other_shapes_are_refused_with_their_shapes(
    outputs: dict[str, Array], words: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        without_labels(outputs)
    assert str(raised.value) == (
        f"expected 'classes' and 'scores' of one shape [batch, classes], the model gave {words}"
    )


def test_a_model_without_labels_says_that_it_cannot_classify() -> None:
    of = signature({"x": any_shape("DT_FLOAT")}, {"y": tensor("DT_FLOAT", -1, 2), "z": any_shape("DT_INT8")})
    with pytest.raises(InvalidRequest) as raised:
        classify(loaded_version(of), "serving_default", {"y": np.zeros((1, 2)), "z": np.zeros(1)}, None)
    assert str(raised.value) == (
        "model cannot classify: its serving.json names no labels for 'y' [-1, 2], 'z' of any shape, and the "
        "outputs are not 'classes' and 'scores'; ask with :predict"
    )


def regression(*arrays: Array) -> Any:
    of = signature({"x": any_shape("DT_FLOAT")}, {f"y{number}": any_shape("DT_FLOAT") for number in range(len(arrays))})
    return regress(loaded_version(of), "serving_default", dict(zip(of.outputs, arrays, strict=True)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_regression_gives_a_number_for_each_row(dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    assert regression(np.array([3, 4], dtype).reshape(shape)).tolist() == [3, 4]


@pytest.mark.parametrize(
    "arrays",
    [
        (np.zeros((2, 2)),),
        (np.zeros((2, 1, 1)),),
        (np.float32(1).reshape(()),),
        (np.array([b"x"], object),),
        (np.zeros(2), np.zeros(2)),
    ],
    ids=["two columns", "three dimensions", "a scalar", "strings", "two outputs"],
)
def test_what_is_not_one_number_a_row_cannot_regress(arrays: tuple[Array, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"^model cannot regress: expected one output .*; ask with :predict$"):
        regression(*arrays)


@pytest.mark.parametrize("shape", [(0,), (0, 1)])
def test_no_rows_cannot_regress(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"^Cannot convert empty RegressionResults to JSON: model gave no row$"):
        regression(np.zeros(shape))


def test_a_model_without_outputs_can_neither_classify_nor_regress() -> None:
    with pytest.raises(InvalidRequest, match="cannot classify"):
        without_labels({})
    with pytest.raises(InvalidRequest, match="cannot regress"):
        regress(loaded_version(signature({"x": any_shape("DT_FLOAT")})), "serving_default", {})
