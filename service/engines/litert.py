"""The engine `litert`: runs a SavedModel's twin, or a LiteRT model that has no SavedModel."""

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from service.engines.base import LoadError, outputs_of_no_rows
from service.engines.saved_model.meta_graph import read_signature
from service.errors import InvalidRequest
from service.tensors.dtypes import DTYPES, Array
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

# Idle interpreters to keep, each prepared for the shapes of its last run. Preparing one for other shapes takes longer
# than a run of a small model; keeping one takes the memory of the weights once more.
MAX_IDLE = 4

# By tensor.
Details = Mapping[str, Mapping[str, Any]]
_PREDICT = "tensorflow/serving/predict"
_SIGNATURES = b"signature_defs_metadata"

Shapes = tuple[tuple[int, ...], ...]

# The source file and the failed node in LiteRT's error messages.
_SOURCE = re.compile(r"^\S+\.(?:h|cc)(?::\d+)? ")
_NODE = re.compile(r"Node number \d+ \((\w+)\) failed to (?:invoke|prepare)\.?")


class LiteRTEngine:
    """Keeps a pool of interpreters, since an interpreter serves one thread at a time."""

    name = "litert"
    runs_on_caller = True

    def __init__(self, twin: Path, signatures: Mapping[str, Signature]) -> None:
        """`signatures` are the SavedModel's; the twin must have every one of them."""
        self.signatures = signatures
        self._model = twin.read_bytes()
        self._lock = threading.Lock()
        first = _Runner(self._model)
        for name, signature in signatures.items():
            if name not in first.signature_names():
                raise LoadError(f"the twin's signatures are not the SavedModel's: {name!r} is None in the twin")
            inputs, outputs = first.tensors(name)
            if inputs.keys() != signature.inputs.keys() or outputs.keys() != signature.outputs.keys():
                tensors = {"inputs": list(inputs), "outputs": list(outputs)}
                raise LoadError(f"the twin's signatures are not the SavedModel's: {name!r} is {tensors} in the twin")
            _check_types(name, signature.inputs, inputs)
            _check_types(name, signature.outputs, outputs)
        # The last used at the end.
        self._idle = [first]

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        shapes = tuple([inputs[name].shape for name in self.signatures[signature].inputs])
        for shape in shapes:
            if 0 in shape:
                return outputs_of_no_rows(self.signatures[signature], inputs)
        runner = self._take(shapes)
        try:
            outputs = runner.run(signature, inputs, shapes)
        except RuntimeError as error:
            raise InvalidRequest(f"the model refuses this input: {_sentence(str(error))}") from None
        # A failed interpreter may be in any state: drop it.
        with self._lock:
            self._idle.append(runner)
            if len(self._idle) > MAX_IDLE:
                del self._idle[0]
        return outputs

    def release(self) -> None:
        with self._lock:
            del self._idle[:-1]

    def _take(self, shapes: Shapes) -> "_Runner":
        """A runner prepared for these shapes, else a new one while fewer than MAX_IDLE are idle, else the least
        recently used."""
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index].shapes in (None, shapes):
                    return self._idle.pop(index)
            if len(self._idle) >= MAX_IDLE:
                return self._idle.pop(0)
        return _Runner(self._model)


def _sentence(message: str) -> str:
    """LiteRT's message about a failed run, without its source files."""
    return _NODE.sub(r" (\1)", _SOURCE.sub("", message.strip().partition("\n")[0])).strip()


def _check_types(signature: str, specs: Mapping[str, TensorSpec], details: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises LoadError. A quantized twin may have quantized inputs and outputs, whose numbers mean something else."""
    for name, spec in specs.items():
        expected, found = DTYPES.get(spec.dtype), np.dtype(details[name]["dtype"])
        # LiteRT describes strings by a fixed-length type of NumPy.
        if expected is not None and expected.kind != "O" and expected != found:
            raise LoadError(f"the twin's {name!r} of {signature!r} is {found}, the SavedModel's {expected}")


def read_signatures(model: Path) -> dict[str, Signature]:
    """The signatures of a LiteRT model, with the shapes that it was converted with. Raises LoadError."""
    runner = _Runner(model.read_bytes())
    return {
        name: Signature(
            _PREDICT, *({key: _spec(one) for key, one in tensors.items()} for tensors in runner.tensors(name))
        )
        for name in runner.signature_names()
    }


def _spec(details: Mapping[str, Any]) -> TensorSpec:
    """Raises LoadError."""
    dtype = np.dtype(details["dtype"])
    # LiteRT describes strings by a fixed-length type of NumPy.
    name = "DT_STRING" if dtype.kind == "S" else next((name for name, one in DTYPES.items() if one == dtype), None)
    if name is None:
        raise LoadError(f"its tensor {details['name']!r} is of the type {dtype}, which requests cannot have")
    shape = tuple(int(size) for size in details["shape_signature"])
    return TensorSpec(details["name"], name, shape, is_held=False)


class _Runner:
    """An interpreter, and the shapes that it is prepared for."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        try:
            # Parallel requests use the cores better than the parts of one small model do.
            self.interpreter = Interpreter(model_content=model, num_threads=1)
        except (ValueError, RuntimeError) as error:
            raise LoadError(f"LiteRT cannot read the twin: {error}") from None
        self.shapes: Shapes | None = None
        signatures = self.interpreter.get_signature_list()
        self._has_one_signature = len(signatures) <= 1
        if self._has_one_signature:
            inputs, outputs = self.tensors(next(iter(signatures), DEFAULT_SIGNATURE))
            self._inputs = {name: tensor["index"] for name, tensor in inputs.items()}
            self._outputs = {name: tensor["index"] for name, tensor in outputs.items()}

    def signature_names(self) -> list[str]:
        return list(self.interpreter.get_signature_list()) or [DEFAULT_SIGNATURE]

    def tensors(self, signature: str) -> tuple[Details, Details]:
        """LiteRT's descriptions of inputs and outputs, by name. A model without signatures has one, whose tensors have
        the names that are recorded, else those in the graph. Raises LoadError."""
        if self.interpreter.get_signature_list():
            details = self.interpreter.get_signature_runner(signature)
            return details.get_input_details(), details.get_output_details()
        described = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        inputs, outputs = ({tensor["name"]: tensor for tensor in tensors} for tensors in described)
        recorded = _recorded_signature(self._model)
        if recorded is None:
            return inputs, outputs
        return _renamed(inputs, recorded.inputs), _renamed(outputs, recorded.outputs)

    def run(self, signature: str, inputs: Mapping[str, Array], shapes: Shapes) -> dict[str, Array]:
        interpreter = self.interpreter
        if not self._has_one_signature:
            # LiteRT's own runner, which prepares the interpreter anew each time.
            outputs: dict[str, Array] = interpreter.get_signature_runner(signature)(**inputs)
            return outputs
        if self.shapes != shapes:
            self.shapes = None
            for name, array in inputs.items():
                interpreter.resize_tensor_input(self._inputs[name], array.shape)
            interpreter.allocate_tensors()
            self.shapes = shapes
        for name, array in inputs.items():
            interpreter.set_tensor(self._inputs[name], array)
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in self._outputs.items()}


def _recorded_signature(model: bytes) -> Signature | None:
    """The signature that a model has in its metadata, as older tools of TensorFlow wrote it (lite/tools/signature): a
    flexbuffer with a SignatureDef by name. Raises LoadError."""
    # Not at the top: few models have it, and LiteRT's schema takes a second to import.
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import flexbuffers

    try:
        root = schema.Model.GetRootAs(model, 0)
        metadata = (root.Metadata(index) for index in range(root.MetadataLength()))
        buffer = next((one.Buffer() for one in metadata if one.Name() == _SIGNATURES), None)
        if buffer is None:
            return None
        recorded = flexbuffers.GetRoot(root.Buffers(buffer).DataAsNumpy().tobytes()).AsMap
        names = [key.AsKey for key in recorded.Keys]
        place = names.index(DEFAULT_SIGNATURE) if DEFAULT_SIGNATURE in names else 0
        return read_signature(memoryview(recorded.Values[place].AsStringBytes))
    # The readers raise whatever damaged bytes lead to.
    except Exception as error:
        raise LoadError(f"the signatures in its metadata cannot be read: {error}") from None


def _renamed(tensors: Details, recorded: Mapping[str, TensorSpec]) -> Details:
    """By the names in the signature. Converters leave the `:0` out of the names in the graph. Raises LoadError."""
    renamed = {}
    for name, spec in recorded.items():
        tensor = tensors.get(spec.name) or tensors.get(spec.name.partition(":")[0])
        if tensor is None:
            raise LoadError(f"its signature names the tensor {spec.name!r}, which it does not have")
        renamed[name] = tensor
    return renamed
