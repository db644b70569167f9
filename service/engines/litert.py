"""The engine `litert`: runs a SavedModel's twin, or a LiteRT model that has no SavedModel."""

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # registers bfloat16, without which LiteRT cannot name such a tensor's type
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from service.engines.base import LoadError, outputs_of_no_rows
from service.engines.model_file import ModelFile
from service.errors import InvalidRequest
from service.tensors.dtypes import DTYPES, Array, declared_shape, shape_text
from service.tensors.signature import DEFAULT_SIGNATURE, Quantization, Signature, TensorSpec

# Idle interpreters to keep, each prepared for the shapes of its last runs. Preparing one for other shapes takes longer
# than a run of a small model; keeping one takes the memory of the weights once more.
MAX_IDLE = 4

_PREDICT = "tensorflow/serving/predict"

# Of the inputs of an entry point, in its order.
Shapes = tuple[tuple[int, ...], ...]

# The source file and the failed node in LiteRT's error messages.
_SOURCE = re.compile(r"^\S+\.(?:h|cc)(?::\d+)? ")
_NODE = re.compile(r"Node number \d+ \((\w+)\) failed to (?:invoke|prepare)\.?")
_CUSTOM_OPERATION = re.compile(r"unresolved custom op: (\S+?)\.$", re.MULTILINE)
_TENSORFLOW_OPERATION = re.compile(r"Select TensorFlow op.*\(Flex(\w+)\)")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A signature's graph in the file, and the numbers of its tensors by name. Inputs are in the order of their
    numbers, so that signatures of one graph have its shapes in one order.

    `one_row`: the graph was made for one row only. With more it may answer wrongly, since sizes are constants in it, so
    each row is run by itself. `is_recurrent`: a run leaves something in its tensors. `casts`: inputs of types that
    requests bring as others.
    """

    graph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    one_row: bool
    is_recurrent: bool
    casts: Mapping[str, "np.dtype[Any]"]


class LiteRTEngine:
    """Keeps a pool of interpreters, since an interpreter serves one thread at a time.

    A model that keeps state gets a new interpreter for each run: a request never meets the state of another.
    """

    name = "litert"
    runs_on_caller = True

    def __init__(self, model: Path, signatures: Mapping[str, Signature] | None = None) -> None:
        """`signatures` are the SavedModel's, and the twin must have every one of them. None: a model without a
        SavedModel, whose own signatures count.

        Raises:
            LoadError: LiteRT cannot run the file, or it is no twin of the SavedModel.
        """
        self._model = model.read_bytes()
        self._lock = threading.Lock()
        try:
            first = _Runner(self._model)
            file = ModelFile(self._model)
            self._entries = _entries(first.wrapper, file)
        except (ValueError, RuntimeError) as error:
            raise LoadError(f"LiteRT cannot read {model.name}: {_sentence(str(error))}") from None
        self._keeps_state = file.keeps_state
        # The last used at the end.
        self._idle = [first]
        if signatures is not None:
            self.signatures = signatures
            self._check_twin(first.wrapper)
            return
        self.signatures = {name: _signature(first.wrapper, file, entry) for name, entry in self._entries.items()}
        failed = [name for name, entry in self._entries.items() if not self._try_out(first, entry, model.name)]
        if failed or len(self._entries) > 1:
            # A failed interpreter may be in any state; one that is prepared for all signatures takes memory for all.
            self._idle.clear()
        if self._keeps_state:
            logger.warning("%s keeps state between runs; each request is run with the initial one", model)

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        entry = self._entries[signature]
        shapes = tuple([inputs[name].shape for name in entry.inputs])
        for shape in shapes:
            if 0 in shape:
                return outputs_of_no_rows(self.signatures[signature], inputs)
        if entry.casts:
            inputs = {name: array.astype(entry.casts.get(name, array.dtype)) for name, array in inputs.items()}
        if entry.one_row and any(shape[0] != 1 for shape in shapes):
            return self._run_rows(entry, inputs, shapes)
        return self._run(entry, inputs, shapes)

    def release(self) -> None:
        with self._lock:
            del self._idle[:-1]

    def _run_rows(self, entry: _Entry, inputs: Mapping[str, Array], shapes: Shapes) -> dict[str, Array]:
        rows = shapes[0][0]
        if any(shape[0] != rows for shape in shapes):
            counts = ", ".join(f"{name!r} {array.shape[0]}" for name, array in inputs.items())
            raise InvalidRequest(f"the inputs have different numbers of rows: {counts}")
        shapes = tuple((1, *shape[1:]) for shape in shapes)
        parts = [
            self._run(entry, {name: array[row : row + 1] for name, array in inputs.items()}, shapes)
            for row in range(rows)
        ]
        outputs = {}
        for name in entry.outputs:
            of_rows = {part[name].shape for part in parts}
            if len(of_rows) > 1 or next(iter(of_rows))[:1] != (1,):
                found = " and ".join(map(shape_text, sorted(of_rows)))
                raise InvalidRequest(
                    f"the model was made for one row at a time, and the outputs {name!r} of several, of the shape "
                    f"{found}, cannot be joined; send one row"
                )
            outputs[name] = np.concatenate([part[name] for part in parts])
        return outputs

    def _run(self, entry: _Entry, inputs: Mapping[str, Array], shapes: Shapes) -> dict[str, Array]:
        runner = self._take(entry.graph, shapes)
        try:
            outputs = runner.run(entry, inputs, shapes)
        except RuntimeError as error:
            raise InvalidRequest(f"the model refuses this input: {_sentence(str(error))}") from None
        # A failed interpreter may be in any state: drop it.
        if not self._keeps_state:
            with self._lock:
                self._idle.append(runner)
                if len(self._idle) > MAX_IDLE:
                    del self._idle[0]
        return outputs

    def _take(self, graph: int, shapes: Shapes) -> "_Runner":
        """A runner prepared for these shapes, else one that is not prepared for the graph, else a new one while fewer
        than MAX_IDLE are idle, else the least recently used."""
        with self._lock:
            for prepared in (shapes, None):
                for index in range(len(self._idle) - 1, -1, -1):
                    if self._idle[index].prepared.get(graph) == prepared:
                        return self._idle.pop(index)
            if len(self._idle) >= MAX_IDLE:
                return self._idle.pop(0)
        return _Runner(self._model)

    def _check_twin(self, wrapper: Any) -> None:
        """Raises LoadError."""
        for name, signature in self.signatures.items():
            entry = self._entries.get(name)
            if entry is None:
                raise LoadError(f"the twin's signatures are not the SavedModel's: {name!r} is None in the twin")
            if entry.inputs.keys() != signature.inputs.keys() or entry.outputs.keys() != signature.outputs.keys():
                tensors = {"inputs": list(entry.inputs), "outputs": list(entry.outputs)}
                raise LoadError(f"the twin's signatures are not the SavedModel's: {name!r} is {tensors} in the twin")
            for specs, numbers in ((signature.inputs, entry.inputs), (signature.outputs, entry.outputs)):
                for key, spec in specs.items():
                    expected, found = DTYPES.get(spec.dtype), np.dtype(wrapper.TensorType(numbers[key], entry.graph))
                    # LiteRT describes strings by a fixed-length type of NumPy. The numbers of a quantized twin mean
                    # something else.
                    if expected is not None and expected.kind != "O" and expected != found:
                        raise LoadError(f"the twin's {key!r} of {name!r} is {found}, the SavedModel's {expected}")
            for key, spec in signature.inputs.items():
                shape = tuple(wrapper.TensorSizeSignature(entry.inputs[key], entry.graph).tolist())
                if not _takes(shape, spec, entry.one_row):
                    raise LoadError(
                        f"the twin's {key!r} of {name!r} takes only the shape {shape_text(shape)}, the SavedModel's "
                        f"{declared_shape(spec)}"
                    )

    def _try_out(self, runner: "_Runner", entry: _Entry, file: str) -> bool:
        """Whether the interpreter can be prepared for the sizes that the model was converted with. Where these are
        free, it need not. Raises LoadError where it never can."""
        try:
            runner.prepare_as_converted(entry)
        except RuntimeError as error:
            if found := _CUSTOM_OPERATION.search(str(error)):
                raise LoadError(f"{file} has the custom operation {found[1]!r}, which LiteRT does not have") from None
            if found := _TENSORFLOW_OPERATION.search(str(error)):
                raise LoadError(
                    f"{file} has TensorFlow's operation {found[1]!r}, which LiteRT does not have; convert the model "
                    "with LiteRT's own only (TFLITE_BUILTINS), or serve its SavedModel"
                ) from None
            sizes = [runner.wrapper.TensorSizeSignature(index, entry.graph) for index in entry.inputs.values()]
            if all(size.size and (size != -1).all() for size in sizes):
                raise LoadError(f"LiteRT cannot run {file}: {_sentence(str(error))}") from None
            return False
        return True


class _Runner:
    """An interpreter, and the shapes that it is prepared for, by graph."""

    def __init__(self, model: bytes) -> None:
        """Raises ValueError, RuntimeError."""
        # Parallel requests use the cores better than the parts of one small model do. The wrapper runs any graph; the
        # interpreter's own calls run the first one, or prepare a graph anew each time.
        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self.wrapper = self._interpreter._interpreter
        self.prepared: dict[int, Shapes] = {}

    def run(self, entry: _Entry, inputs: Mapping[str, Array], shapes: Shapes) -> dict[str, Array]:
        """Raises RuntimeError."""
        wrapper, graph = self.wrapper, entry.graph
        if self.prepared.get(graph) != shapes:
            self.prepared.pop(graph, None)
            for index, shape in zip(entry.inputs.values(), shapes, strict=True):
                wrapper.ResizeInputTensor(index, np.array(shape, np.int32), False, graph)
            wrapper.AllocateTensors(graph)
            self.prepared[graph] = shapes
        if entry.is_recurrent:
            wrapper.ResetVariableTensors()
        for name, index in entry.inputs.items():
            wrapper.SetTensor(index, inputs[name], graph)
        wrapper.Invoke(graph)
        try:
            return {name: wrapper.GetTensor(index, graph) for name, index in entry.outputs.items()}
        except ValueError:
            return {name: self._output(index, graph) for name, index in entry.outputs.items()}

    def prepare_as_converted(self, entry: _Entry) -> None:
        """Raises RuntimeError."""
        self.wrapper.AllocateTensors(entry.graph)
        sizes = [self.wrapper.TensorSize(index, entry.graph) for index in entry.inputs.values()]
        self.prepared[entry.graph] = tuple(tuple(size.tolist()) for size in sizes)

    def _output(self, index: int, graph: int) -> Array:
        try:
            array: Array = self.wrapper.GetTensor(index, graph)
        except ValueError:
            # It cannot return a tensor without values.
            shape = self.wrapper.TensorSize(index, graph)
            if shape.all():
                raise
            dtype = np.dtype(self.wrapper.TensorType(index, graph))
            return np.empty(shape, object if dtype.kind == "S" else dtype)
        return array


def _entries(wrapper: Any, file: ModelFile) -> dict[str, _Entry]:
    """By signature. A model without signatures has one, whose tensors have the names that are recorded, else those in
    the graph. Raises LoadError."""
    described = {
        name: (wrapper.GetSubgraphIndexFromSignature(name), tensors["inputs"], tensors["outputs"])
        for name, tensors in wrapper.GetSignatureDefs().items()
    }
    if not described:
        inputs, outputs = (_named(wrapper, indices) for indices in (wrapper.InputIndices(), wrapper.OutputIndices()))
        if (recorded := file.recorded_signature()) is not None:
            inputs, outputs = _renamed(inputs, recorded.inputs), _renamed(outputs, recorded.outputs)
        described[DEFAULT_SIGNATURE] = (0, inputs, outputs)
    return {name: _entry(wrapper, file, *graph) for name, graph in described.items()}


def _entry(wrapper: Any, file: ModelFile, graph: int, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> _Entry:
    inputs = dict(sorted(inputs.items(), key=lambda item: item[1]))
    types = {name: np.dtype(wrapper.TensorType(index, graph)) for name, index in inputs.items()}
    first_sizes = {wrapper.TensorSizeSignature(index, graph)[:1].tolist() == [1] for index in inputs.values()}
    has_row_each = all(
        wrapper.TensorSizeSignature(index, graph)[:1].tolist() == [1] or file.is_unranked(graph, index)
        for index in outputs.values()
    )
    casts = {name: dtype for name, dtype in types.items() if dtype.name == "bfloat16"}
    return _Entry(graph, inputs, outputs, first_sizes == {True} and has_row_each, file.is_recurrent, casts)


def _named(wrapper: Any, indices: Any) -> dict[str, int]:
    """The tensors of the first graph by their names. Raises LoadError."""
    named: dict[str, int] = {}
    for index in map(int, indices):
        if (name := wrapper.TensorName(index, 0)) in named:
            raise LoadError(f"it has no signatures, and two tensors with the name {name!r}")
        named[name] = index
    return named


def _renamed(tensors: Mapping[str, int], recorded: Mapping[str, TensorSpec]) -> dict[str, int]:
    """By the names in the signature. Converters leave the `:0` out of the names in the graph. Raises LoadError."""
    renamed = {}
    for name, spec in recorded.items():
        index = tensors.get(spec.name, tensors.get(spec.name.partition(":")[0]))
        if index is None:
            raise LoadError(f"its signature names the tensor {spec.name!r}, which it does not have")
        renamed[name] = index
    return renamed


def _signature(wrapper: Any, file: ModelFile, entry: _Entry) -> Signature:
    """With the shapes that the model was converted with. Raises LoadError."""
    inputs, outputs = (
        {name: _spec(wrapper, file, entry, index) for name, index in tensors.items()}
        for tensors in (entry.inputs, entry.outputs)
    )
    return Signature(_PREDICT, inputs, outputs)


def _spec(wrapper: Any, file: ModelFile, entry: _Entry, index: int) -> TensorSpec:
    """Raises LoadError."""
    place = index, entry.graph
    name, dtype = wrapper.TensorName(*place), np.dtype(wrapper.TensorType(*place))
    declared = "DT_BFLOAT16" if dtype.name == "bfloat16" else None
    # LiteRT describes strings by a fixed-length type of NumPy.
    declared = "DT_STRING" if dtype.kind == "S" else declared
    declared = declared or next((name for name, one in DTYPES.items() if one == dtype), None)
    if declared is None:
        raise LoadError(f"its tensor {name!r} is of the type {dtype}, which requests cannot have")
    shape: tuple[int, ...] | None = tuple(wrapper.TensorSizeSignature(*place).tolist())
    if file.is_unranked(entry.graph, index):
        shape = None
    elif shape and entry.one_row:
        shape = (-1, *shape[1:])
    scales, zero_points, *_ = wrapper.TensorQuantizationParameters(*place)
    quantization = Quantization(float(scales[0]), int(zero_points[0])) if len(scales) == 1 else None
    return TensorSpec(name, declared, shape, quantization=quantization)


def _takes(shape: tuple[int, ...], spec: TensorSpec, one_row: bool) -> bool:
    """Whether a twin whose input has this shape takes all that the SavedModel's takes."""
    if spec.shape is None:
        return True
    if one_row:
        shape = (-1, *shape[1:])
    return len(shape) == len(spec.shape) and all(
        here in (-1, declared) for here, declared in zip(shape, spec.shape, strict=True)
    )


def _sentence(message: str) -> str:
    """LiteRT's message, without its source files."""
    return _NODE.sub(r" (\1)", _SOURCE.sub("", message.strip().partition("\n")[0])).strip()
