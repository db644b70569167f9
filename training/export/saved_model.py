"""The SavedModel: the graph to export and its signatures, written and read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from training.errors import RunError
from training.evaluation.classifier import Classifier, places

SCORED_SIGNATURE = "scored"
OUTPUT = "probabilities"
OUTLIER_OUTPUT = "outlier_score"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What is exported.

    `function` takes a float32 tensor [batch, ...] of `input_shape` and gives outputs by name, reading `variables`.
    With an `outlier_output`, the signature "scored" gives all outputs, serving_default all but that one.
    `labels_output`: the one with a probability for each class.
    """

    input_name: str
    input_shape: tuple[int | None, ...]
    function: Callable[[Any], dict[str, Any]]
    variables: list[Any]
    labels_output: str | None = None
    outlier_output: str | None = None

    @property
    def whole_signature(self) -> str:
        return SCORED_SIGNATURE if self.outlier_output else DEFAULT_SIGNATURE


def keras_graph(model: Any, input_name: str, output_name: str) -> Graph:
    """The graph of a keras.Model with one input and one output."""
    return Graph(
        input_name=input_name,
        input_shape=tuple(model.inputs[0].shape),
        function=lambda values: {output_name: model(values, training=False)},
        variables=[weight.value for weight in model.weights],
    )


def classifier_graph(classifier: Classifier, input_name: str) -> Graph:
    """Probabilities and outlier score, from the network's input."""
    check_precision(classifier.network)
    constants = _distance_variables(classifier)

    def answer(values: Any) -> dict[str, Any]:
        out = classifier.network(values, training=False)
        at = places(out["features"])
        inside = tf.matmul(at, constants["directions"])
        outside = at * constants["scale"] - tf.matmul(inside, constants["back"])
        away = tf.concat([inside, outside], axis=1)[:, tf.newaxis]
        distances = tf.reduce_sum(tf.math.squared_difference(away, constants["centers"]), axis=2)
        return {
            OUTPUT: tf.nn.softmax(out["logits"] / classifier.temperature),
            OUTLIER_OUTPUT: tf.sqrt(tf.reduce_min(distances, axis=1)),
        }

    return Graph(
        input_name=input_name,
        input_shape=tuple(classifier.network.inputs[0].shape),
        function=answer,
        variables=[*(weight.value for weight in classifier.network.weights), *constants.values()],
        labels_output=OUTPUT,
        outlier_output=OUTLIER_OUTPUT,
    )


def check_precision(network: Any) -> None:
    """ValueError where a layer computes in less than float32."""
    for layer in network._flatten_layers():
        if layer.compute_dtype != "float32":
            raise ValueError(
                f"layer {layer.name} computes in {layer.compute_dtype}, expected float32: "
                "build the network anew under that policy and give it the weights"
            )


def _distance_variables(classifier: Classifier) -> dict[str, Any]:
    """What the distance is computed from, divided by the threshold.

    As variables: constants would lie in saved_model.pb, which every service reads before anything else.
    """
    distance = classifier.distance
    along, left = np.sqrt(distance.variances) * classifier.threshold, np.sqrt(distance.rest) * classifier.threshold
    values = {
        "directions": distance.directions / along,
        "scale": 1 / left,
        "back": distance.directions.T * along[:, np.newaxis] / left,
        "centers": np.concatenate(distance.split(distance.centers), axis=1) / classifier.threshold,
    }
    return {name: tf.Variable(value, trainable=False, dtype=tf.float32) for name, value in values.items()}


def write(graph: Graph, folder: Path) -> None:
    """Writes the signatures, with the names that requests use; the batch size is free. RunError if the disk is full.

    keras.export.ExportArchive does the same, but writes every variable twice.
    """
    shape = tf.TensorSpec(graph.input_shape, tf.float32, name=graph.input_name)
    whole = tf.function(graph.function, input_signature=[shape])
    signatures = {graph.whole_signature: whole}
    if graph.outlier_output:
        # It calls the other, so that the file holds the network's graph once.
        signatures[DEFAULT_SIGNATURE] = tf.function(
            lambda values: {name: tensor for name, tensor in whole(values).items() if name != graph.outlier_output},
            input_signature=[shape],
        )
    module = tf.Module()
    module.variables_of_graph = graph.variables  # only what hangs on the module is saved
    try:
        tf.saved_model.save(module, str(folder), signatures=signatures)
    except tf.errors.OpError as error:
        raise RunError(f"the SavedModel cannot be written: {error.message}") from None


def read_signatures(folder: Path) -> dict[str, Signature]:
    """As saved_model.pb has them, graph names and all; without the entry points that initialise."""
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    return {
        name: Signature(
            method_name=signature.method_name,
            inputs={key: _tensor_spec(info) for key, info in sorted(signature.inputs.items())},
            outputs={key: _tensor_spec(info) for key, info in sorted(signature.outputs.items())},
        )
        for name, signature in content.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }


def _tensor_spec(info: Any) -> TensorSpec:
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(info.name, types_pb2.DataType.Name(info.dtype), shape)
