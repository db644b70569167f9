"""A LiteRT model without a SavedModel."""

import shutil
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import flexbuffers

from service.engines.base import LoadError, LoadOptions
from service.engines.loading import load_engine
from service.serving_config import ServingConfig, read_serving_config
from service.tensors.signature import DEFAULT_SIGNATURE
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
