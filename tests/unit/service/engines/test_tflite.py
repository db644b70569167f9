"""A LiteRT model without a SavedModel."""

import shutil
from copy import copy
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import flexbuffers

from service.engines.base import LoadError, LoadOptions
from service.engines.litert import LiteRTEngine
from service.engines.loading import load_engine
from service.serving_config import ServingConfig, read_serving_config
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import signature, tensor
from tests.unit.service.protobufs import message, whole

SHIPPED = Path(__file__).parents[4] / "models/regression/1"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    shutil.copy(SHIPPED / "assets.extra/model.tflite", tmp_path)
    return tmp_path


def test_it_is_run_by_its_own_signatures(version: Path) -> None:
    engine = load_engine(version, ServingConfig(), "auto")
    signature = engine.signatures[DEFAULT_SIGNATURE]
    ((name, spec),) = signature.inputs.items()
    assert (spec.dtype, signature.method_name) == ("DT_FLOAT", "tensorflow/serving/predict")
    (outputs,) = engine.run(DEFAULT_SIGNATURE, {name: np.array([10.0], np.float32)}).values()
    np.testing.assert_allclose(outputs, [31], atol=0.1)


def test_without_signatures_tensors_have_their_names_in_the_graph(version: Path) -> None:
    without_signatures(version / "model.tflite")
    engine = load_engine(version, ServingConfig(), "auto")
    (name,) = engine.signatures[DEFAULT_SIGNATURE].inputs
    assert name == engine.signatures[DEFAULT_SIGNATURE].inputs[name].name
    # Of other shapes, too.
    for rows in (1, 3):
        inputs = {name: np.full(rows, 10.0, np.float32)}
        (outputs,) = engine.run(DEFAULT_SIGNATURE, inputs).values()
        np.testing.assert_allclose(outputs, [31] * rows, atol=0.1)


def test_a_damaged_one_is_refused(version: Path) -> None:
    (version / "model.tflite").write_bytes(b"no model")
    with pytest.raises(LoadError, match="LiteRT cannot read"):
        load_engine(version, ServingConfig(), "auto")


def test_a_twin_is_not_of_a_graph_with_other_tags() -> None:
    with pytest.raises(LoadError, match="its twin was made from the graph with the tag 'serve'"):
        load_engine(SHIPPED, read_serving_config(SHIPPED), "litert", LoadOptions(tags=("serve", "gpu")))


def read(model: Path) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.read_bytes(), 0))


def write(model: Path, root: Any) -> None:
    builder = flatbuffers.Builder()
    builder.Finish(root.Pack(builder), b"TFL3")
    model.write_bytes(builder.Output())


def without_signatures(model: Path) -> None:
    root = read(model)
    root.signatureDefs = None
    write(model, root)


def record_signature(model: Path, definition: bytes) -> None:
    """Into the metadata, in place of the signatures that the model has now."""
    root = read(model)
    root.signatureDefs = None
    (recorded := schema.MetadataT()).name = "signature_defs_metadata"
    recorded.buffer = len(root.buffers)
    (buffer := schema.BufferT()).data = list(flexbuffers.Dumps({DEFAULT_SIGNATURE: definition.decode()}))
    root.buffers.append(buffer)
    root.metadata = [*(root.metadata or []), recorded]
    write(model, root)


def signature_def(inputs: dict[str, str], outputs: dict[str, str]) -> bytes:
    def tensors(number: int, names: dict[str, str]) -> bytes:
        infos = ((name, message(1, tensor.encode()) + whole(2, 1)) for name, tensor in names.items())
        return b"".join(message(number, message(1, name.encode()), message(2, info)) for name, info in infos)

    return tensors(1, inputs) + tensors(2, outputs) + message(3, b"tensorflow/serving/predict")


def names_in_graph(version: Path) -> tuple[str, str]:
    interpreter = Interpreter(model_path=str(version / "model.tflite"))
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    return given["name"], answer["name"]


def test_signature_in_the_metadata_counts(version: Path) -> None:
    given, answer = names_in_graph(version)
    record_signature(version / "model.tflite", signature_def({"degrees": given}, {"fahrenheit": answer}))
    engine = load_engine(version, ServingConfig(), "auto")
    outputs = engine.run(DEFAULT_SIGNATURE, {"degrees": np.array([10.0], np.float32)})
    np.testing.assert_allclose(outputs["fahrenheit"], [31], atol=0.1)


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (signature_def({"x": "none:0"}, {}), "its signature names the tensor 'none:0', which it does not have"),
        (b"\x0a\x7f", "the signatures in its metadata cannot be read"),
    ],
)
def test_a_wrong_signature_in_the_metadata_is_refused(version: Path, definition: bytes, reason: str) -> None:
    record_signature(version / "model.tflite", definition)
    with pytest.raises(LoadError, match=reason):
        load_engine(version, ServingConfig(), "auto")


def test_signatures_may_share_a_graph(version: Path) -> None:
    root = read(version / "model.tflite")
    (own,) = root.signatureDefs
    root.signatureDefs.append(other := copy(own))
    other.signatureKey = "serve"
    write(version / "model.tflite", root)
    engine = load_engine(version, ServingConfig(), "auto")
    for rows, name in ((1, "serve"), (3, DEFAULT_SIGNATURE), (3, "serve")):
        (outputs,) = engine.run(name, {"x": np.full(rows, 10.0, np.float32)}).values()
        np.testing.assert_allclose(outputs, [31] * rows, atol=0.1)


def test_two_tensors_of_one_name_are_refused(version: Path) -> None:
    root = read(version / "model.tflite")
    root.signatureDefs = None
    (graph,) = root.subgraphs
    graph.tensors.append(copy(graph.tensors[graph.inputs[0]]))
    graph.inputs = [*graph.inputs, len(graph.tensors) - 1]
    write(version / "model.tflite", root)
    with pytest.raises(LoadError, match="it has no signatures, and two tensors with the name 'serving_default_x:0'"):
        load_engine(version, ServingConfig(), "auto")


def recurrent(model: Path) -> None:
    """y = x + the y before, along the second axis: an RNN whose hidden state is a tensor that outlasts a run."""
    root = schema.ModelT()
    root.version = 3
    root.buffers = [schema.BufferT() for _ in range(4)]
    for buffer, value in zip(root.buffers[1:], (1.0, 1.0, 0.0), strict=True):
        buffer.data = list(np.array([value], np.float32).tobytes())
    (code := schema.OperatorCodeT()).builtinCode = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_RNN
    code.deprecatedBuiltinCode = code.builtinCode
    root.operatorCodes = [code]
    weights = [("w", [1, 1], 1), ("r", [1, 1], 2), ("b", [1], 3)]
    tensors = [("x", [1, 3, 1], 0), *weights, ("h", [1, 1], 0), ("y", [1, 3, 1], 0)]
    graph = schema.SubGraphT()
    graph.tensors = []
    for name, shape, buffer in tensors:
        graph.tensors.append(made := schema.TensorT())
        made.name, made.shape, made.buffer, made.isVariable = name, shape, buffer, name == "h"
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, 2, 3, 4], [5]
    operator.builtinOptionsType = schema.BuiltinOptions.SequenceRNNOptions
    operator.builtinOptions = schema.SequenceRNNOptionsT()
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [5]
    root.subgraphs = [graph]
    write(model, root)


def test_recurrent_layers_begin_anew(tmp_path: Path) -> None:
    recurrent(tmp_path / "model.tflite")
    engine = load_engine(tmp_path, ServingConfig(), "auto")
    for _ in range(2):
        outputs = engine.run(DEFAULT_SIGNATURE, {"x": np.ones((2, 3, 1), np.float32)})
        assert outputs["y"].tolist() == [[[1], [2], [3]]] * 2


def test_a_twin_takes_all_shapes_of_its_saved_model(tmp_path: Path) -> None:
    recurrent(tmp_path / "model.tflite")
    without_signatures(tmp_path / "model.tflite")

    def twin(*shape: int) -> LiteRTEngine:
        specs = signature({"x": tensor("DT_FLOAT", *shape)}, {"y": tensor("DT_FLOAT", *shape)})
        return LiteRTEngine(tmp_path / "model.tflite", {DEFAULT_SIGNATURE: specs})

    # Rows are run one by one.
    assert twin(-1, 3, 1).run(DEFAULT_SIGNATURE, {"x": np.ones((2, 3, 1), np.float32)})["y"].shape == (2, 3, 1)
    with pytest.raises(LoadError, match=r"takes only the shape \[1, 3, 1\], the SavedModel's \[-1, -1, 1\]"):
        twin(-1, -1, 1)
