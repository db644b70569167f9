import numpy as np
import pytest

from service.errors import InvalidRequest
from service.inference.classification import Ranking, classify, regress
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import any_shape, loaded_version, signature, tensor

X = {"x": any_shape("DT_FLOAT")}


def rank(scores: Array, top_k: int | None = None) -> list[Ranking]:
    of = signature(X, {"scores": tensor("DT_FLOAT", -1, 3)})
    loaded = loaded_version(of, config=ServingConfig(labels=("cat", "dog", "cow")))
    return classify(loaded, DEFAULT_SIGNATURE, {"scores": scores}, top_k)


def classify_unlabelled(outputs: dict[str, Array], top_k: int | None = None) -> list[Ranking]:
    loaded = loaded_version(signature(X, {name: any_shape("DT_FLOAT") for name in outputs}))
    return classify(loaded, DEFAULT_SIGNATURE, outputs, top_k)


def test_labels_come_best_first_for_each_row() -> None:
    assert rank(np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]])) == [
        [["dog", 0.5], ["cow", 0.3], ["cat", 0.2]],
        [["cat", 0.7], ["cow", 0.2], ["dog", 0.1]],
    ]


@pytest.mark.parametrize(
    ("scores", "top_k", "expected"),
    [
        (np.array([[0.2, 0.5, 0.3]]), 1, ["dog"]),
        (np.array([[0.2, 0.5, 0.3]]), 2, ["dog", "cow"]),
        (np.array([[0.2, 0.5, 0.3]]), 99, ["dog", "cow", "cat"]),
        (np.full((1, 3), 0.5), None, ["cat", "dog", "cow"]),
        (np.array([[np.nan, -np.inf, 0.1]]), None, ["cow", "dog", "cat"]),
        (np.array([[-128, 0, 127]], np.int8), None, ["cow", "dog", "cat"]),
        *(
            (np.array([[0, 100, 50]], dtype), None, ["dog", "cow", "cat"])
            for dtype in (np.uint8, np.int8, np.int64, np.uint64, np.float16, np.float32)
        ),
    ],
)
def test_order_of_labels(scores: Array, top_k: int | None, expected: list[str]) -> None:
    assert [[label for label, _ in row] for row in rank(scores, top_k)] == [expected]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5), "model gave 'scores' of the shape [1, 5] for this input; expected [-1, 3], a score for each label"),
        ((0, 3), "Cannot convert empty ClassificationResults to JSON: model gave no row"),
    ],
)
def test_scores_that_cannot_be_ranked(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        rank(np.zeros(shape))
    assert message in str(raised.value)


def test_probability_is_classified_by_two_labels() -> None:
    of = signature(X, {"p": tensor("DT_FLOAT", -1, 1)})
    loaded = loaded_version(of, config=ServingConfig(labels=("cat", "dog")))
    assert classify(loaded, DEFAULT_SIGNATURE, {"p": np.array([[0.75]])}, None) == [[["dog", 0.75], ["cat", 0.25]]]
    with pytest.raises(InvalidRequest, match=r"or a probability of 'dog' from 0 to 1 \(end the model in a sigmoid\)"):
        classify(loaded, DEFAULT_SIGNATURE, {"p": np.array([[2.5]])}, None)


CLASSES = np.array([[b"a", "ü".encode()]], object)


@pytest.mark.parametrize(
    ("outputs", "top_k", "expected"),
    [
        ({"classes": CLASSES, "scores": np.array([[0.1, 0.9]])}, None, [["a", 0.1], ["ü", 0.9]]),
        ({"classes": CLASSES, "scores": np.array([[0.1, 0.9]])}, 1, [["a", 0.1]]),
        ({"scores": np.array([[0.5, 0.25]])}, None, [["", 0.5], ["", 0.25]]),
        ({"classes": np.array([[b"a", b"\xff"]], object)}, None, [["a", 0.0], ["\ufffd", 0.0]]),
        ({"classes": np.array([[3]]), "scores": np.array([[0.5]])}, None, [["3", 0.5]]),
    ],
    ids=["both", "top 1", "scores", "classes", "numbers"],
)
def test_classes_and_scores_come_as_the_model_gives_them(
    outputs: dict[str, Array], top_k: int | None, expected: Ranking
) -> None:
    assert classify_unlabelled(outputs, top_k) == [expected]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"scores": np.zeros(3)}, "scores [3]"),
        ({"scores": np.zeros((1, 1, 3))}, "scores [1, 1, 3]"),
        ({"classes": np.zeros((1, 2), object), "scores": np.zeros((1, 3))}, "classes [1, 2] and scores [1, 3]"),
    ],
)
def test_classes_and_scores_of_other_shapes(outputs: dict[str, Array], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        classify_unlabelled(outputs)
    expected = f"expected 'classes' and 'scores' of one shape [batch, classes], the model gave {message}"
    assert str(raised.value) == expected


def test_model_without_labels_cannot_classify() -> None:
    of = signature(X, {"y": tensor("DT_FLOAT", -1, 2), "z": any_shape("DT_INT8")})
    with pytest.raises(InvalidRequest) as raised:
        classify(loaded_version(of), DEFAULT_SIGNATURE, {"y": np.zeros((1, 2)), "z": np.zeros(1)}, None)
    assert str(raised.value) == (
        "model cannot classify: its serving.json names no labels for 'y' [-1, 2], 'z' of any shape, and the "
        "outputs are not 'classes' and 'scores'; ask with :predict"
    )
    with pytest.raises(InvalidRequest, match="cannot classify"):
        classify_unlabelled({})


def regression(*arrays: Array) -> Array:
    outputs = {f"y{number}": array for number, array in enumerate(arrays)}
    of = signature(X, {name: any_shape("DT_FLOAT") for name in outputs})
    return regress(loaded_version(of), DEFAULT_SIGNATURE, outputs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_regression_is_a_number_for_each_row(dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    assert regression(np.array([3, 4], dtype).reshape(shape)).tolist() == [3, 4]


@pytest.mark.parametrize(
    "arrays",
    [
        (np.zeros((2, 2)),),
        (np.zeros((2, 1, 1)),),
        (np.float32(1).reshape(()),),
        (np.array([b"x"], object),),
        (np.zeros(2), np.zeros(2)),
        (),
    ],
    ids=["two columns", "three dimensions", "scalar", "strings", "two outputs", "no output"],
)
def test_other_outputs_cannot_regress(arrays: tuple[Array, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"^model cannot regress: expected one output .*; ask with :predict$"):
        regression(*arrays)


@pytest.mark.parametrize("shape", [(0,), (0, 1)])
def test_no_rows_cannot_regress(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"^Cannot convert empty RegressionResults to JSON: model gave no row$"):
        regression(np.zeros(shape))
