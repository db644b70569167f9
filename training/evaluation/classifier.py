"""A classifier: a network, the temperature of its probabilities and the outlier score, assembled and measured.

The network is a keras.Model with outputs {"features": [n, d], "logits": [n, classes]}, both float32, and computes in
float32 (one that was fitted in mixed precision is built anew and given the weights). `features` may be a list of such
tensors, say the means over all places after each block of convolutions: early blocks see noise and strange textures
that the last one, made to tell classes apart, no longer does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from training.data import Floats, Integers
from training.evaluation import calibration, evaluate, outliers, plots, reference
from training.export.export import Graph

Array = np.ndarray[Any, Any]

OUTPUT = "probabilities"
OUTLIER_OUTPUT = "outlier_score"
SHORTEST = 1e-12  # square of the length of features: all may be 0
SLICE_BYTES = 32 * 2**20  # of float32 inputs that go through the network at once


@dataclass(frozen=True)
class Examples:
    """`inputs` [n, ...] of any type that float32 can hold (converted slice by slice), `labels` [n]."""

    inputs: Array
    labels: Integers


@dataclass(frozen=True)
class HeldOut:
    """What came out for examples that the network, or in cross-validation the fold's network, was not fitted to."""

    labels: Integers
    logits: Floats
    distances: Floats


@dataclass(frozen=True)
class Answers:
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

    def answers(self, inputs: Array) -> Answers:
        found, logits = run(self.network, inputs)
        return self._answers(logits, self.distance(found))

    def held_out_answers(self) -> Answers:
        return self._answers(self.held_out.logits, self.held_out.distances)

    def _constants(self) -> dict[str, Any]:
        """What `distance` is computed from, divided by the threshold. As variables: constants would lie in
        saved_model.pb, which every service reads before anything else."""
        distance = self.distance
        along, left = np.sqrt(distance.variances) * self.threshold, np.sqrt(distance.rest) * self.threshold
        values = {
            "directions": distance.directions / along,
            "scale": 1 / left,
            "back": distance.directions.T * along[:, np.newaxis] / left,
            "centers": np.concatenate(distance.split(distance.centers), axis=1) / self.threshold,
        }
        return {name: tf.Variable(value, trainable=False, dtype=tf.float32) for name, value in values.items()}

    def reference(self, input_name: str, training_inputs: Array) -> dict[str, Any]:
        """For reference.json."""
        return reference.reference({input_name: training_inputs}, self.held_out_answers().probabilities, self.names)

    def _answers(self, logits: Floats, distances: Floats) -> Answers:
        return Answers(
            calibration.softmax(logits, self.temperature), calibration.softmax(logits), distances / self.threshold
        )

    def graph(self, input_name: str) -> Graph:
        """What is exported: probabilities and outlier score, from the network's input."""
        check_precision(self.network)
        constants = self._constants()

        def answer(values: Any) -> dict[str, Any]:
            out = self.network(values, training=False)
            found = places(out["features"])
            inside = tf.matmul(found, constants["directions"])
            outside = found * constants["scale"] - tf.matmul(inside, constants["back"])
            away = tf.concat([inside, outside], axis=1)[:, tf.newaxis]
            distances = tf.reduce_sum(tf.math.squared_difference(away, constants["centers"]), axis=2)
            return {
                OUTPUT: tf.nn.softmax(out["logits"] / self.temperature),
                OUTLIER_OUTPUT: tf.sqrt(tf.reduce_min(distances, axis=1)),
            }

        return Graph(
            input_name=input_name,
            input_shape=tuple(self.network.inputs[0].shape),
            answer=answer,
            variables=[*(weight.value for weight in self.network.weights), *constants.values()],
            labels_output=OUTPUT,
            outlier_output=OUTLIER_OUTPUT,
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
    found, logits = run(network, examples.inputs)
    return HeldOut(examples.labels, logits, distance(found))


def join(folds: list[HeldOut]) -> HeldOut:
    return HeldOut(
        np.concatenate([each.labels for each in folds]),
        np.concatenate([each.logits for each in folds]),
        np.concatenate([each.distances for each in folds]),
    )


def run(network: Any, inputs: Array) -> tuple[Floats, Floats]:
    """Places and logits of all inputs, as numpy arrays."""
    step = max(1, SLICE_BYTES // (4 * int(np.prod(inputs.shape[1:]))))
    outs = [
        network(tf.constant(inputs[start : start + step].astype(np.float32)), training=False)
        for start in range(0, len(inputs), step)
    ]
    found = np.concatenate([places(out["features"]).numpy() for out in outs])
    return found, np.concatenate([out["logits"].numpy() for out in outs])


def places(features: Any) -> Any:
    """Of each tensor of features its direction and the logarithm of its length, side by side. Directions tell kinds of
    inputs apart better than the features themselves; the length tells what is too weak, too strong or in other units.
    """
    parts = []
    for part in features if isinstance(features, list) else [features]:
        squares = tf.maximum(tf.reduce_sum(tf.square(part), axis=1, keepdims=True), SHORTEST)
        parts += [part * tf.math.rsqrt(squares), tf.math.log(squares) / 2]
    return tf.concat(parts, axis=1)


def metrics(classifier: Classifier, test: Examples, unlike: Mapping[str, Array] | None = None) -> dict[str, Any]:
    """What metrics.json states of every classifier; the only look at the test examples. `unlike`: inputs that it should
    flag, by what they are."""
    answers = classifier.answers(test.inputs)
    names = classifier.names
    matrix = evaluate.confusion_matrix(test.labels, answers.probabilities.argmax(axis=1), len(names))
    return {
        **_quality("", test.labels, answers),
        **_quality("validation_", classifier.held_out.labels, classifier.held_out_answers()),
        "temperature": round(classifier.temperature, 4),
        "outlier_threshold": round(classifier.threshold, 4),
        "outliers_flagged": {
            "test": _flagged(answers.scores),
            **{name: _flagged(classifier.answers(inputs).scores) for name, inputs in (unlike or {}).items()},
        },
        "parameters": classifier.network.count_params(),
        "validation_examples": len(classifier.held_out.labels),
        "test_examples": len(test.labels),
        "classes": evaluate.per_class(matrix, names),
        "confusion_matrix": matrix.tolist(),
    }


def pictures(
    classifier: Classifier,
    metrics: dict[str, Any],
    history: dict[str, list[float]],
    folder: Path,
    examples: str = "pictures",
) -> None:
    """Learning curve, confusion matrix (test) and reliability diagram (validation)."""
    plots.learning_curve(history, folder / "learning_curve.png")
    matrix = np.array(metrics["confusion_matrix"])
    plots.confusion(matrix, classifier.names, folder / "confusion_matrix.png", examples)
    answers = classifier.held_out_answers()
    before, after = (
        calibration.reliability(classifier.held_out.labels, each)
        for each in (answers.uncalibrated, answers.probabilities)
    )
    plots.reliability(before, after, folder / "reliability.png", examples)


def _quality(prefix: str, truth: Integers, answers: Answers) -> dict[str, float]:
    return {
        f"{prefix}accuracy": float((answers.probabilities.argmax(axis=1) == truth).mean()),
        f"{prefix}loss": round(evaluate.cross_entropy(truth, answers.probabilities), 6),
        f"{prefix}ece": round(calibration.expected_calibration_error(truth, answers.probabilities), 6),
        f"{prefix}ece_uncalibrated": round(calibration.expected_calibration_error(truth, answers.uncalibrated), 6),
    }


def _flagged(scores: Floats) -> float:
    return round(float((scores > 1).mean()), 4)


def check_precision(network: Any) -> None:
    """ValueError where a layer computes in less than float32."""
    for layer in network._flatten_layers():
        if layer.compute_dtype != "float32":
            raise ValueError(
                f"layer {layer.name} computes in {layer.compute_dtype}, expected float32: "
                "build the network anew under that policy and give it the weights"
            )
