"""The engine `litert`: runs a SavedModel's twin."""

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from service.engines.base import LoadError, outputs_of_no_rows
from service.errors import InvalidRequest
from service.tensors.dtypes import DTYPES, Array
from service.tensors.signature import Signature, TensorSpec

# Interpreters that are kept, each prepared for the shapes it ran last. To prepare one for other shapes costs more than
# to run a small model; to keep one costs the weights once more.
KEPT = 4

Shapes = tuple[tuple[int, ...], ...]

# Around what LiteRT says of a failed run: the source file, and the node that failed.
_SOURCE = re.compile(r"^\S+\.(?:h|cc)(?::\d+)? ")
_NODE = re.compile(r"Node number \d+ \((\w+)\) failed to (?:invoke|prepare)\.?")


class LiteRTEngine:
    name = "litert"
    runs_on_caller = True

    def __init__(self, twin: Path, signatures: Mapping[str, Signature]) -> None:
        """`signatures` are the SavedModel's; the twin must have every one of them."""
        self.signatures = signatures
        self._model = twin.read_bytes()
        self._lock = threading.Lock()
        first = _Runner(self._model)
        for name, signature in signatures.items():
            tensors = first.interpreter.get_signature_list().get(name)
            if (
                tensors is None
                or set(tensors["inputs"]) != set(signature.inputs)
                or set(tensors["outputs"]) != set(signature.outputs)
            ):
                raise LoadError(f"the twin's signatures are not the SavedModel's: {name!r} is {tensors} in the twin")
            details = first.interpreter.get_signature_runner(name)
            _check_types(name, signature.inputs, details.get_input_details())
            _check_types(name, signature.outputs, details.get_output_details())
        # An interpreter serves one thread at a time; those that are free wait here, the one used last at the end.
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
            raise InvalidRequest(f"the model refuses this input: {sentence(str(error))}") from None
        # Only now: one that failed may be in any state.
        with self._lock:
            self._idle.append(runner)
            if len(self._idle) > KEPT:
                del self._idle[0]
        return outputs

    def release(self) -> None:
        with self._lock:
            del self._idle[:-1]

    def _take(self, shapes: Shapes) -> "_Runner":
        """One that is prepared for these shapes, else a new one until KEPT wait, else the one unused for longest."""
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index].shapes in (None, shapes):
                    return self._idle.pop(index)
            if len(self._idle) >= KEPT:
                return self._idle.pop(0)
        return _Runner(self._model)


def sentence(message: str) -> str:
    """What LiteRT says of a run that failed, without its source files."""
    return _NODE.sub(r" (\1)", _SOURCE.sub("", message.strip().partition("\n")[0])).strip()


def _check_types(signature: str, specs: Mapping[str, TensorSpec], details: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises LoadError. A twin of lower precision may want it in its tensors, too, where it means other numbers."""
    for name, spec in specs.items():
        expected, found = DTYPES.get(spec.dtype), np.dtype(details[name]["dtype"])
        # Strings have a type of NumPy's here.
        if expected is not None and expected.kind != "O" and expected != found:
            raise LoadError(f"the twin's {name!r} of {signature!r} is {found}, the SavedModel's {expected}")


class _Runner:
    def __init__(self, model: bytes) -> None:
        try:
            # One thread: requests in parallel use the cores better than parts of one small model.
            self.interpreter = Interpreter(model_content=model, num_threads=1)
        except (ValueError, RuntimeError) as error:
            raise LoadError(f"LiteRT cannot read the twin: {error}") from None
        self.shapes: Shapes | None = None
        signatures = self.interpreter.get_signature_list()
        self._only_signature = next(iter(signatures)) if len(signatures) == 1 else None
        if self._only_signature:
            details = self.interpreter.get_signature_runner(self._only_signature)
            self._inputs = {name: tensor["index"] for name, tensor in details.get_input_details().items()}
            self._outputs = {name: tensor["index"] for name, tensor in details.get_output_details().items()}

    def run(self, signature: str, inputs: Mapping[str, Array], shapes: Shapes) -> dict[str, Array]:
        interpreter = self.interpreter
        if self._only_signature is None:
            # LiteRT's own way to run one of several, which prepares it anew each time.
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
