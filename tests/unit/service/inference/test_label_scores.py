"""Labels and the outputs that have a score for each of them; two labels and one probability."""

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.inference.classification import classify
from service.inference.scores import label_mismatch, label_output
from service.inference.version import LoadedVersion
from service.serving_config import OutlierScore, ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.unit.service.fakes import any_shape, loaded_version, signature, tensor

TEN = tensor("DT_FLOAT", -1, 10)
SIGMOID = tensor("DT_FLOAT", -1, 1)
FLAT_SIGMOID = tensor("DT_FLOAT", -1)


def of(**outputs: TensorSpec) -> Signature:
    return signature({"x": any_shape("DT_FLOAT")}, outputs)


def labels(count: int) -> ServingConfig:
    return ServingConfig(labels=tuple(f"label {number}" for number in range(count)))


def binary(spec: TensorSpec = SIGMOID) -> LoadedVersion:
    return loaded_version(of(p=spec), config=ServingConfig(labels=("cat", "dog")))


@pytest.mark.parametrize(
    ("count", "outputs", "words"),
    [
        (9, {"p": TEN}, "9 labels, and the output 'p' has 10 scores a row"),
        (11, {"p": TEN}, "11 labels, and the output 'p' has 10 scores a row"),
        (1, {"p": TEN}, "1 label, and the output 'p' has 10 scores a row"),
        (3, {"p": SIGMOID}, "3 labels, and the output 'p' has 1 score a row"),
        (3, {"p": FLAT_SIGMOID}, "3 labels, and the output 'p' has 1 score a row"),
        (9, {"p": TEN, "z": tensor("DT_FLOAT", -1, 64)}, "'p' has 10 scores a row and the output 'z' has 64 scores"),
    ],
)
def test_labels_of_another_number_than_the_scores_misfit(
    count: int, outputs: dict[str, TensorSpec], words: str
) -> None:
    assert words in (label_mismatch({DEFAULT_SIGNATURE: of(**outputs)}, labels(count)) or "")


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
def test_labels_that_may_belong_to_the_outputs_fit(count: int, outputs: dict[str, TensorSpec]) -> None:
    assert label_mismatch({DEFAULT_SIGNATURE: of(**outputs)}, labels(count)) is None


def test_labels_may_belong_to_another_signature_than_the_default_one() -> None:
    assert (
        label_mismatch({DEFAULT_SIGNATURE: of(z=tensor("DT_FLOAT", -1, 64)), "classify": of(p=TEN)}, labels(10)) is None
    )


def test_an_outlier_score_is_no_probability() -> None:
    score = OutlierScore(signature="scored", output="strange", threshold=1.0)
    config = ServingConfig(labels=("cat", "dog"), outlier_score=score)
    assert label_output(of(p=SIGMOID, strange=FLAT_SIGMOID), config) == "p"


def test_of_two_probabilities_neither_has_the_labels() -> None:
    assert label_output(of(p=SIGMOID, q=FLAT_SIGMOID), labels(2)) is None


@pytest.mark.parametrize(
    ("spec", "array"),
    [(SIGMOID, np.array([[0.75], [0.25]])), (FLAT_SIGMOID, np.array([0.75, 0.25]))],
)
def test_a_probability_is_that_of_the_second_of_two_labels(spec: TensorSpec, array: Array) -> None:
    assert classify(binary(spec), DEFAULT_SIGNATURE, {"p": array}, None) == [
        [["dog", 0.75], ["cat", 0.25]],
        [["cat", 0.75], ["dog", 0.25]],
    ]


def test_a_number_that_is_no_probability_is_not_classified() -> None:
    with pytest.raises(InvalidRequest, match=r"or a probability of 'dog' from 0 to 1 \(end the model in a sigmoid\)"):
        classify(binary(), DEFAULT_SIGNATURE, {"p": np.array([[2.5]])}, None)
    assert binary().label_scores(DEFAULT_SIGNATURE, {"p": np.array([[2.5]])}) is None


def test_no_number_is_passed_on_as_such() -> None:
    scores = binary().label_scores(DEFAULT_SIGNATURE, {"p": np.array([[np.nan]])})
    assert scores is not None
    assert np.isnan(scores).all()
