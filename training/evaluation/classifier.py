"""A classifier: a network, the temperature of its probabilities and the outlier score, assembled and measured.

The network is a keras.Model with outputs {"features": [n, d], "logits": [n, classes]}, both float32, and computes in
float32 (one that was fitted in mixed precision is built anew and given the weights). `features` may be a list of such
tensors, say the means over all places after each block of convolutions: early blocks see noise and strange textures
that the last one, made to tell classes apart, no longer does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.data import Array, Floats, Integers
from training.evaluation import calibration, evaluate, outliers, reference

MIN_SQUARE = 1e-12  # of the length of features: all may be 0
SLICE_BYTES = 32 * 2**20  # of float32 inputs that go through the network at once


@dataclass(frozen=True)
class Examples:
    """`inputs` [n, ...] of any type that float32 can hold (converted slice by slice), `labels` [n]."""

    inputs: Array
    labels: Integers


@dataclass(frozen=True)
class HeldOut:
    """Outputs for examples that the network, or in cross-validation the fold's network, was not fitted to."""

    labels: Integers
    logits: Floats
    distances: Floats


@dataclass(frozen=True)
class Predictions:
    """`uncalibrated` are the probabilities without the temperature; a score above 1 is an outlier."""

    probabilities: Floats
    uncalibrated: Floats
    scores: Floats


@dataclass(frozen=True)
class Classifier:
    network: Any
    names: tuple[str, ...]
    temperature: float
    distance: outliers.Distance
    threshold: float
    held_out: HeldOut

    def predict(self, inputs: Array) -> Predictions:
        places, logits = run(self.network, inputs)
        return self._predictions(logits, self.distance(places))

    def predict_held_out(self) -> Predictions:
        return self._predictions(self.held_out.logits, self.held_out.distances)

    def reference(self, input_name: str, training_inputs: Array) -> dict[str, Any]:
        """For reference.json."""
        predictions = self.predict_held_out()
        return reference.reference(
            {input_name: training_inputs},
            predictions.probabilities,
            self.names,
            truth=self.held_out.labels,
            outlier_scores=predictions.scores,
        )

    def _predictions(self, logits: Floats, distances: Floats) -> Predictions:
        return Predictions(
            calibration.softmax(logits, self.temperature), calibration.softmax(logits), distances / self.threshold
        )


def assemble(network: Any, names: tuple[str, ...], training: Examples, validation: Examples) -> Classifier:
    """Temperature and threshold from the validation examples, the features' spread from the training examples."""
    distance = outliers.fit(run(network, training.inputs)[0], training.labels)
    return assemble_cross_validated(network, names, distance, hold_out(network, distance, validation))


def assemble_cross_validated(
    network: Any, names: tuple[str, ...], distance: outliers.Distance, held_out: HeldOut
) -> Classifier:
    """For a network that was fitted to all examples: `held_out` comes from the folds' networks, joined by `join`."""
    return Classifier(
        network,
        names,
        calibration.fit_temperature(held_out.logits, held_out.labels),
        distance,
        outliers.threshold(held_out.distances),
        held_out,
    )


def hold_out(network: Any, distance: outliers.Distance, examples: Examples) -> HeldOut:
    places, logits = run(network, examples.inputs)
    return HeldOut(examples.labels, logits, distance(places))


def join(folds: list[HeldOut]) -> HeldOut:
    return HeldOut(
        np.concatenate([each.labels for each in folds]),
        np.concatenate([each.logits for each in folds]),
        np.concatenate([each.distances for each in folds]),
    )


def run(network: Any, inputs: Array) -> tuple[Floats, Floats]:
    """Places and logits of all inputs, as numpy arrays."""
    import tensorflow as tf

    step = max(1, SLICE_BYTES // (4 * int(np.prod(inputs.shape[1:]))))
    outputs = [
        network(tf.constant(inputs[start : start + step].astype(np.float32)), training=False)
        for start in range(0, len(inputs), step)
    ]
    return (
        np.concatenate([places(each["features"]).numpy() for each in outputs]),
        np.concatenate([each["logits"].numpy() for each in outputs]),
    )


def places(features: Any) -> Any:
    """Direction and logarithm of the length of each tensor of features, side by side.

    Directions tell kinds of inputs apart better than the features themselves; the length tells what is too weak, too
    strong or in other units.
    """
    import tensorflow as tf

    parts = []
    for part in features if isinstance(features, list) else [features]:
        squares = tf.maximum(tf.reduce_sum(tf.square(part), axis=1, keepdims=True), MIN_SQUARE)
        parts += [part * tf.math.rsqrt(squares), tf.math.log(squares) / 2]
    return tf.concat(parts, axis=1)


def metrics(classifier: Classifier, test: Examples, probes: Mapping[str, Array] | None = None) -> dict[str, Any]:
    """What metrics.json states of every classifier; the only use of the test examples.

    `probes`: inputs that it should flag as outliers, by what they are.
    """
    predictions = classifier.predict(test.inputs)
    names = classifier.names
    matrix = evaluate.confusion_matrix(test.labels, predictions.probabilities.argmax(axis=1), len(names))
    return {
        **_quality("", test.labels, predictions),
        **_quality("validation_", classifier.held_out.labels, classifier.predict_held_out()),
        "temperature": round(classifier.temperature, 4),
        "outlier_threshold": round(classifier.threshold, 4),
        "outliers_flagged": {
            "test": _flagged(predictions.scores),
            **{name: _flagged(classifier.predict(inputs).scores) for name, inputs in (probes or {}).items()},
        },
        "parameters": classifier.network.count_params(),
        "validation_examples": len(classifier.held_out.labels),
        "test_examples": len(test.labels),
        # For whoever shows results: how much the accuracy and the outlier threshold rest on.
        "classes": evaluate.per_class(matrix, names),
        "confusion_matrix": matrix.tolist(),
    }


def _quality(prefix: str, truth: Integers, predictions: Predictions) -> dict[str, float]:
    probabilities, uncalibrated = predictions.probabilities, predictions.uncalibrated
    return {
        f"{prefix}accuracy": float((probabilities.argmax(axis=1) == truth).mean()),
        f"{prefix}loss": round(evaluate.cross_entropy(truth, probabilities), 6),
        f"{prefix}ece": round(calibration.expected_calibration_error(truth, probabilities), 6),
        f"{prefix}ece_uncalibrated": round(calibration.expected_calibration_error(truth, uncalibrated), 6),
    }


def _flagged(scores: Floats) -> float:
    return round(float((scores > 1).mean()), 4)
