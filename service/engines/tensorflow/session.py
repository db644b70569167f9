"""A SavedModel in a TensorFlow session."""

import ctypes
import os
import weakref
from collections.abc import Iterable, Mapping
from ctypes import c_char_p, c_void_p
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec
import numpy as np

from service.engines.base import LoadError, LoadOptions
from service.engines.saved_model.meta_graph import has_variables, read_signatures, with_unknown_shapes
from service.engines.tensorflow.c_api import NOT_FOUND, Buffer, Library, Output, TensorFlowError, check, tensorflow
from service.engines.tensorflow.tensor import new_tensor, to_array
from service.runtime.cgroup import usable_cores
from service.serving_config import graph_file
from service.tensors.dtypes import Array
from service.tensors.signature import Signature, TensorSpec
from service.tensors.tensor_proto import DATA_TYPES, TYPE_NUMBERS

# The first runs a graph's operations one after the other on the calling thread, at half the cost of the second, but
# does not support TensorFlow 1's control flow and variables outside of functions.
Executor = Literal["SINGLE_THREADED_EXECUTOR", "DEFAULT"]
EXECUTORS: tuple[Executor, ...] = ("SINGLE_THREADED_EXECUTOR", "DEFAULT")

# Messages of TensorFlow.
_WRONG_TYPE = "Expects arg["
_NO_SHAPE_FUNCTION = "No shape inference function exists"
_BOOL, _INT8 = TYPE_NUMBERS["DT_BOOL"], TYPE_NUMBERS["DT_INT8"]
_ZERO = np.zeros((), np.int8)


class Session:
    """A loaded graph and its signatures. Closed when it is collected."""

    def __init__(self, version_dir: Path, executor: Executor, options: LoadOptions) -> None:
        """Raises TensorFlowError, LoadError, ModuleNotFoundError."""
        self.library = tensorflow()
        try:
            self.address, self._graph, meta_graph = _load(self.library, version_dir, executor, options)
        except TensorFlowError as error:
            file = graph_file(version_dir)
            if _NO_SHAPE_FUNCTION not in str(error) or file is None or file.suffix != ".pb":
                raise
            # Sessions need no shapes, but to load one by the C API works them out. Kept, for graphs may read assets.
            self._copy = _copy_with_unknown_shapes(file)
            self.address, self._graph, meta_graph = _load(self.library, Path(self._copy.name), executor, options)
        finalizer = weakref.finalize(self, _close, self.library, self.address, self._graph)
        # At exit, threads may still run in the session, and its memory goes anyway.
        finalizer.atexit = False
        self.signatures = {name: self._as_in_graph(found) for name, found in read_signatures(meta_graph).items()}
        self.has_variables = has_variables(meta_graph)

    def outputs(self, specs: Iterable[TensorSpec]) -> "ctypes.Array[Output]":
        """The tensors of these names. Raises TensorFlowError if the graph does not have one."""
        found = [self._output(spec.name) for spec in specs]
        return (Output * len(found))(*found)

    def _as_in_graph(self, signature: Signature) -> Signature:
        return replace(signature, inputs={name: self._input(spec) for name, spec in signature.inputs.items()})

    def _input(self, spec: TensorSpec) -> TensorSpec:
        """The input's type as in the graph, which knows it better than the signature. Shapes are not enforced: like
        TensorFlow Serving, a session takes any, and the operations reject those they cannot work with."""
        try:
            output = self._output(spec.name)
        except TensorFlowError:
            return spec  # SignatureRunner raises it
        dtype = DATA_TYPES.get(self.library.TF_OperationOutputType(output), spec.dtype)
        return msgspec.structs.replace(spec, dtype=dtype, is_held=False)

    def _output(self, name: str) -> Output:
        operation_name, _, number = name.partition(":")
        operation, index = self.library.TF_GraphOperationByName(self._graph, operation_name.encode()), int(number or 0)
        if operation is None or not 0 <= index < self.library.TF_OperationNumOutputs(operation):
            raise TensorFlowError(NOT_FOUND, f"a signature names the tensor {name!r}, which its graph does not have")
        return Output(operation, index)


class SignatureRunner:
    """Runs one signature. Safe to use from several threads."""

    def __init__(self, session: Session, signature: Signature) -> None:
        """Raises TensorFlowError if the session cannot run the signature at all."""
        self._session = session
        self._inputs = [(name, TYPE_NUMBERS[spec.dtype]) for name, spec in signature.inputs.items()]
        self._feeds = session.outputs(signature.inputs.values())
        # A session cannot fetch a tensor that is fed.
        fed = {spec.name: name for name, spec in signature.inputs.items()}
        self._echoes = {name: fed[spec.name] for name, spec in signature.outputs.items() if spec.name in fed}
        self._names = [name for name in signature.outputs if name not in self._echoes]
        self._fetches = session.outputs(signature.outputs[name] for name in self._names)
        self._prepare()

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Raises TensorFlowError."""
        outputs = self._run([(inputs[name], type_number) for name, type_number in self._inputs])
        for name, input_name in self._echoes.items():
            outputs[name] = inputs[input_name]
        return outputs

    def _prepare(self) -> None:
        """Let TensorFlow plan the run, so that the first request is as fast as the next. Values of a wrong type are
        rejected after planning, before anything runs. A signature without inputs runs."""
        try:
            self._run([(_ZERO, _INT8 if type_number == _BOOL else _BOOL) for _, type_number in self._inputs])
        except TensorFlowError as error:
            if _WRONG_TYPE not in str(error):
                raise

    def _run(self, values: list[tuple[Array, int]]) -> dict[str, Array]:
        """`values`: for each input an array, and the number of the type to convert it to."""
        library = self._session.library
        inputs = (c_void_p * len(values))()
        outputs = (c_void_p * len(self._names))()
        status = library.TF_NewStatus()
        try:
            for index, (array, type_number) in enumerate(values):
                inputs[index] = new_tensor(library, array, type_number)
            library.TF_SessionRun(
                *(self._session.address, None),
                *(self._feeds, inputs, len(inputs)),
                *(self._fetches, outputs, len(outputs)),
                *(None, 0, None, status),
            )
            check(library, status)
            return {name: to_array(library, tensor) for name, tensor in zip(self._names, outputs, strict=True)}
        finally:
            for tensor in (*inputs, *outputs):
                if tensor is not None:
                    library.TF_DeleteTensor(tensor)
            library.TF_DeleteStatus(status)


def _copy_with_unknown_shapes(graph: Path) -> "TemporaryDirectory[str]":
    """A folder with a changed graph, and links to all else. Raises LoadError."""
    try:
        folder = TemporaryDirectory(prefix="saved_model-")
        for path in graph.parent.iterdir():
            if path != graph:
                Path(folder.name, path.name).symlink_to(path.resolve())
        Path(folder.name, graph.name).write_bytes(with_unknown_shapes(graph.read_bytes()))
    except OSError as error:
        raise LoadError(f"a copy of its graph cannot be made: {error.strerror}") from None
    return folder


def _load(library: Library, version_dir: Path, executor: Executor, loading: LoadOptions) -> tuple[int, int, bytes]:
    """A session, its graph and its MetaGraphDef. Raises TensorFlowError."""
    config = _config(executor, loading)
    tags = (c_char_p * len(loading.tags))(*(tag.encode() for tag in loading.tags))
    status = library.TF_NewStatus()
    options = library.TF_NewSessionOptions()
    meta_graph = library.TF_NewBuffer()
    graph = library.TF_NewGraph()
    try:
        library.TF_SetConfig(options, config, len(config), status)
        check(library, status)
        folder = os.fsencode(version_dir)
        session = library.TF_LoadSessionFromSavedModel(
            options, None, folder, tags, len(tags), graph, meta_graph, status
        )
        check(library, status)
        content: Buffer = meta_graph.contents
        return session, graph, ctypes.string_at(content.data, content.length)
    except BaseException:
        library.TF_DeleteGraph(graph)
        raise
    finally:
        library.TF_DeleteBuffer(meta_graph)
        library.TF_DeleteSessionOptions(options)
        library.TF_DeleteStatus(status)


def _close(library: Library, session: int, graph: int) -> None:
    status = library.TF_NewStatus()
    library.TF_CloseSession(session, status)
    library.TF_DeleteSession(session, status)
    library.TF_DeleteGraph(graph)
    library.TF_DeleteStatus(status)


def _config(executor: Executor, options: LoadOptions) -> bytes:
    """A ConfigProto of tensorflow/core/protobuf/config.proto.

    message ConfigProto  { int32 intra_op_parallelism_threads = 2; int32 inter_op_parallelism_threads = 5;
                           bool allow_soft_placement = 7; Experimental experimental = 16; }
    message Experimental { string executor_type = 3; }

    With soft placement, operations that a graph places on a missing GPU or TPU run on the CPU.
    """
    # A varint of one byte holds up to 127.
    intra, inter = (
        min(number or usable_cores(), 127) for number in (options.intra_op_threads, options.inter_op_threads)
    )
    experimental = bytes([3 << 3 | 2, len(executor)]) + executor.encode()
    return bytes([2 << 3, intra, 5 << 3, inter, 7 << 3, 1, 0x82, 0x01, len(experimental)]) + experimental
