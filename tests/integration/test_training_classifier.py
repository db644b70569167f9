import dataclasses
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import keras
import tensorflow as tf

from training.evaluation import calibration, classifier, outliers
from training.evaluation.classifier import Classifier, Examples
from training.export.saved_model import classifier_graph

NAMES = ("hat", "sock", "glove")


def examples(count: int, seed: int) -> Examples:
    """Three overlapping clouds in four dimensions, as bytes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centers = np.array([[60, 60, 60, 200], [60, 200, 60, 60], [200, 60, 60, 60]])
    return Examples(generator.normal(centers[labels], 45).clip(0, 255).astype(np.uint8), labels)


def network(policy: str = "float32", *, several: bool = False) -> Any:
    """With one tensor of features, or several."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,), name="values")
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    first = keras.layers.Dense(16, activation="relu", dtype=policy)(scaled)
    last = keras.layers.Dense(6, activation="relu")(first) if several else first
    features = [first, last] if several else last
    return keras.Model(inputs, {"features": features, "logits": keras.layers.Dense(3)(last)})


@pytest.fixture(scope="module")
def fitted() -> Classifier:
    training, validation = examples(900, 0), examples(600, 1)
    net = network()
    model = keras.Model(net.inputs, net.output["logits"])
    model.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(training.inputs.astype(np.float32), training.labels, epochs=10, batch_size=64, verbose=0)
    return classifier.assemble(net, NAMES, training, validation)


@pytest.fixture(scope="module")
def of_several() -> Classifier:
    return classifier.assemble(network(several=True), NAMES, examples(300, 0), examples(300, 1))


@pytest.mark.parametrize("which", ["fitted", "of_several"])
def test_graph_computes_what_was_measured(which: str, request: pytest.FixtureRequest) -> None:
    measured: Classifier = request.getfixturevalue(which)
    ends = np.array([[0] * 4, [255] * 4], np.uint8)
    inputs = np.concatenate([examples(50, 3).inputs, ends])
    expected = measured.predict(inputs)
    found = classifier_graph(measured, "values").function(tf.constant(inputs, tf.float32))
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(found["outlier_score"], expected.scores, rtol=1e-4)


def test_one_in_100_held_out_examples_is_flagged(fitted: Classifier) -> None:
    assert (fitted.predict_held_out().scores > 1).mean() == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize(
    ("inputs", "least", "most"),
    [
        (np.array([[255] * 4, [0] * 4]), 1, 1),
        (examples(300, 3).inputs, 0, 0.05),
        (0.05 * examples(300, 3).inputs, 0.9, 1),
        (9.81 * examples(300, 3).inputs, 0.9, 1),
    ],
    ids=["unlike any", "like all", "in larger units", "in smaller units"],
)
def test_unlike_inputs_are_flagged(fitted: Classifier, inputs: Any, least: float, most: float) -> None:
    assert least <= (fitted.predict(inputs).scores > 1).mean() <= most


def test_probabilities_use_the_temperature(fitted: Classifier) -> None:
    answers = fitted.predict(examples(50, 3).inputs)
    _, logits = classifier.run(fitted.network, examples(50, 3).inputs)
    np.testing.assert_allclose(answers.probabilities, calibration.softmax(logits, fitted.temperature))
    assert fitted.temperature != 1


def test_slices_of_inputs_give_the_same(fitted: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = examples(50, 3).inputs
    whole = classifier.run(fitted.network, inputs)
    monkeypatch.setattr(classifier, "SLICE_BYTES", 16 * 7)
    for part, expected in zip(classifier.run(fitted.network, inputs), whole, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-5)


def test_place_is_direction_and_length_of_features() -> None:
    first, second = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), np.array([[2.0], [-1.0]], np.float32)
    found = classifier.places([tf.constant(first), tf.constant(second)]).numpy()
    np.testing.assert_allclose(found[0], [0.6, 0.8, np.log(5), 1, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(found[1], [0, 0, np.log(1e-6), -1, 0], rtol=1e-6)
    np.testing.assert_array_equal(classifier.places(tf.constant(first)), found[:, :3])


def test_folds_are_joined(fitted: Classifier) -> None:
    distance = fitted.distance
    joined = classifier.join([classifier.hold_out(fitted.network, distance, examples(60, seed)) for seed in (5, 6)])
    assembled = classifier.assemble_cross_validated(fitted.network, NAMES, distance, joined)
    assert len(joined.labels) == len(joined.logits) == len(joined.distances) == 120
    assert assembled.threshold == outliers.threshold(joined.distances)


def test_metrics(fitted: Classifier) -> None:
    test = examples(300, 2)
    found = classifier.metrics(fitted, test, {"white": np.full((9, 4), 255)})
    json.dumps(found, allow_nan=False)
    answers = fitted.predict(test.inputs)
    error = calibration.expected_calibration_error(test.labels, answers.probabilities)
    assert found["accuracy"] == (answers.probabilities.argmax(axis=1) == test.labels).mean()
    assert found["ece"] == pytest.approx(error, abs=1e-6)
    assert found["outliers_flagged"] == {"test": pytest.approx((answers.scores > 1).mean(), abs=1e-4), "white": 1.0}
    assert (found["validation_examples"], found["test_examples"]) == (600, 300)
    assert (found["outlier_fit_size"], found["test_size"]) == (600, 300)
    assert found["parameters"] == 4 * 16 + 16 + 16 * 3 + 3
    assert np.sum(found["confusion_matrix"]) == 300


def test_network_below_float32_is_an_error(fitted: Classifier) -> None:
    half = dataclasses.replace(fitted, network=network("mixed_bfloat16"))
    with pytest.raises(ValueError, match="computes in bfloat16, expected float32"):
        classifier_graph(half, "values")
