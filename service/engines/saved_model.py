"""The engine `tensorflow`: runs any SavedModel as it is."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# TensorFlow prints its build flags and missing GPUs unless told not to, before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from service.engines.interface import LoadError
from service.errors import InvalidRequest
from service.host import usable_cores
from service.signature import Signature, TensorSpec
from service.tensors import Array

# What the loader says about itself (deprecated since 2017, still the only road to a session) helps nobody.
tf.get_logger().setLevel("ERROR")

SERVE_TAG = "serve"


class SavedModelEngine:
    name = "tensorflow"

    def __init__(self, version_dir: Path) -> None:
        """Raises LoadError."""
        # A session's callable costs a fraction of a signature called as a function (shared/measurements.md), and
        # the executor without threads half of that. When the last reference goes, so does the session.
        options = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=usable_cores(), inter_op_parallelism_threads=1)
        options.experimental.executor_type = "SINGLE_THREADED_EXECUTOR"
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=options)
        try:
            with graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(self._session, [SERVE_TAG], str(version_dir))
        except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
            raise LoadError(f"TensorFlow cannot load it: {_reason(error)}") from None
        graph.finalize()
        self.signatures: Mapping[str, Signature] = {
            name: signature
            for name, definition in sorted(meta_graph.signature_def.items())
            if (signature := _signature(definition)) is not None
        }
        if not self.signatures:
            raise LoadError("it has no signature that takes and gives plain tensors")
        self._callables = {name: self._callable(signature) for name, signature in self.signatures.items()}

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = self.signatures[signature]
        try:
            values = self._callables[signature](*(inputs[name] for name in names.inputs))
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
            raise InvalidRequest(f"the model refuses this input: {_reason(error)}") from None
        return {name: np.asarray(value) for name, value in zip(names.outputs, values, strict=True)}

    def _callable(self, signature: Signature) -> Any:
        return self._session.make_callable(
            [spec.name for spec in signature.outputs.values()],
            feed_list=[spec.name for spec in signature.inputs.values()],
        )


def _signature(definition: Any) -> Signature | None:
    """None for an initialiser and for a signature with sparse, ragged or other composite tensors."""
    tensors = [*definition.inputs.values(), *definition.outputs.values()]
    if any(info.WhichOneof("encoding") != "name" or info.dtype == types_pb2.DT_INVALID for info in tensors):
        return None
    return Signature(definition.method_name, _specs(definition.inputs), _specs(definition.outputs))


def _specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {name: _spec(info) for name, info in sorted(infos.items())}


def _spec(info: Any) -> TensorSpec:
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(info.name, types_pb2.DataType.Name(info.dtype), shape)


def _reason(error: Exception) -> str:
    """The sentence in TensorFlow's message, without its headline and the graph nodes around it."""
    lines = [line.strip() for line in str(getattr(error, "message", error)).splitlines()]
    boilerplate = ("Graph execution error", "Detected at node", "Node:", "<stack", "[[", "(")
    return next((line for line in lines if line and not line.startswith(boilerplate)), type(error).__name__)
