import shutil
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import flexbuffers

from service.engines.base import Engine, LoadError
from service.engines.litert import LiteRTEngine
from service.engines.loading import load_engine
from service.errors import InvalidRequest
from service.serving_config import ASSETS, TWIN_FILE, read_serving_config
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service.fakes import any_shape, signature, tensor
from tests.unit.service.protobufs import message, whole

MODELS = Path(__file__).parents[4] / "models"
TWIN = MODELS / "regression/1" / ASSETS / TWIN_FILE
FLOAT = any_shape("DT_FLOAT")


def load(model: str) -> Engine:
    return load_engine(MODELS / model, read_serving_config(MODELS / model), "litert")


@pytest.fixture
def engine() -> Engine:
    return load("regression/1")


def answer(engine: Engine, *numbers: float, signature: str = DEFAULT_SIGNATURE, name: str = "x") -> list[float]:
    """Of a regression, which is near 3 x + 1."""
    (output,) = engine.run(signature, {name: np.array(numbers, np.float32)}).values()
    assert output.dtype == np.float32
    return [float(number) for number in output]


def near(*numbers: float) -> Any:
    return pytest.approx([3 * x + 1 for x in numbers], abs=0.1)


def test_batch_sizes_may_change(engine: Engine) -> None:
    assert engine.name == "litert"
    for size in (3, 1, 64, 2, 1):
        assert answer(engine, *range(size)) == near(*range(size))


def test_release_keeps_the_last_used_interpreter(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(Interpreter):  # type: ignore[misc]
        made: ClassVar[int] = 0

        def __init__(self, **options: Any) -> None:
            Counted.made += 1
            super().__init__(**options)

    monkeypatch.setattr("service.engines.litert.Interpreter", Counted)
    answer(engine, *range(8))
    answer(engine, 1.0)
    assert Counted.made == 1
    engine.release()
    answer(engine, 2.0)
    assert Counted.made == 1
    answer(engine, *range(8))
    assert Counted.made == 2


@pytest.mark.parametrize("version", [1, 2])
def test_no_rows_give_no_rows(version: int) -> None:
    """XNNPACK refuses the second's convolutions without rows."""
    outputs = load(f"clothing/{version}").run(DEFAULT_SIGNATURE, {"pixels": np.zeros((0, 28, 28), np.float32)})
    assert [(name, array.shape) for name, array in outputs.items()] == [("probabilities", (0, 10))]


def test_error_names_no_source_files() -> None:
    with pytest.raises(InvalidRequest) as raised:
        load("clothing/1").run(DEFAULT_SIGNATURE, {"pixels": np.zeros((3, 29, 29), np.float32)})
    assert str(raised.value) == (
        "the model refuses this input: num_input_elements != num_output_elements (2523 != 2352) (RESHAPE)"
    )


def test_outputs_survive_the_next_run(engine: Engine) -> None:
    first = engine.run(DEFAULT_SIGNATURE, {"x": np.array([10.0], np.float32)})["y"]
    answer(engine, 0.0)
    assert first.tolist() == near(10)


def test_threads_get_their_own_outputs(engine: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: answer(engine, x, x + 1), range(200)))
    assert answers == [near(x, x + 1) for x in range(200)]


def test_failed_run_does_not_affect_the_next(engine: Engine) -> None:
    with pytest.raises(Exception, match=r".+"):
        engine.run(DEFAULT_SIGNATURE, {"x": np.array(["text"], object)})
    assert answer(engine, 10.0) == near(10)


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(1000)])
def test_invalid_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / TWIN_FILE).write_bytes(content)
    with pytest.raises(LoadError, match=r"LiteRT cannot read model\.tflite"):
        LiteRTEngine(tmp_path / TWIN_FILE)


OTHERS = "the twin's signatures are not the SavedModel's: '{}' is"
DIFFERS = "the twin's '{}' of 'serving_default' is float32, the SavedModel's {}"


@pytest.mark.parametrize(
    ("name", "of", "reason"),
    [
        ("other", signature({"x": FLOAT}, {"y": FLOAT}), OTHERS.format("other")),
        (DEFAULT_SIGNATURE, signature({"z": FLOAT}, {"y": FLOAT}), OTHERS.format(DEFAULT_SIGNATURE)),
        (DEFAULT_SIGNATURE, signature({"x": FLOAT}, {"z": FLOAT}), OTHERS.format(DEFAULT_SIGNATURE)),
        (DEFAULT_SIGNATURE, signature({"x": any_shape("DT_INT8")}, {"y": FLOAT}), DIFFERS.format("x", "int8")),
        (DEFAULT_SIGNATURE, signature({"x": FLOAT}, {"y": any_shape("DT_DOUBLE")}), DIFFERS.format("y", "float64")),
    ],
)
def test_twin_of_another_model_is_refused(name: str, of: Signature, reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        LiteRTEngine(TWIN, {name: of})


# A LiteRT model without a SavedModel.


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(TWIN, tmp_path))


def read(model: Path) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.read_bytes(), 0))


def write(model: Path, root: Any) -> None:
    builder = flatbuffers.Builder()
    builder.Finish(root.Pack(builder), b"TFL3")
    model.write_bytes(builder.Output())


def without_signatures(model: Path) -> Any:
    root = read(model)
    root.signatureDefs = None
    write(model, root)
    return root


def record_signature(model: Path, definition: bytes) -> None:
    """Into the metadata, in place of the signatures that the model has now."""
    root = without_signatures(model)
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


def test_model_has_its_own_signatures(model: Path) -> None:
    engine = LiteRTEngine(model)
    own = engine.signatures[DEFAULT_SIGNATURE]
    assert (own.inputs["x"].dtype, own.method_name) == ("DT_FLOAT", "tensorflow/serving/predict")
    assert answer(engine, 10.0) == near(10)


def test_without_signatures_tensors_have_their_names_in_the_graph(model: Path) -> None:
    without_signatures(model)
    engine = LiteRTEngine(model)
    (name,) = engine.signatures[DEFAULT_SIGNATURE].inputs
    assert name == engine.signatures[DEFAULT_SIGNATURE].inputs[name].name
    # Of other shapes, too.
    for rows in (1, 3):
        assert answer(engine, *range(rows), name=name) == near(*range(rows))


def test_signature_in_the_metadata_counts(model: Path) -> None:
    interpreter = Interpreter(model_path=str(model))
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    record_signature(model, signature_def({"degrees": given["name"]}, {"fahrenheit": returned["name"]}))
    engine = LiteRTEngine(model)
    assert list(engine.signatures[DEFAULT_SIGNATURE].outputs) == ["fahrenheit"]
    assert answer(engine, 10.0, name="degrees") == near(10)


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (signature_def({"x": "none:0"}, {}), "its signature names the tensor 'none:0', which it does not have"),
        (b"\x0a\x7f", "the signatures in its metadata cannot be read"),
    ],
)
def test_wrong_signature_in_the_metadata_is_refused(model: Path, definition: bytes, reason: str) -> None:
    record_signature(model, definition)
    with pytest.raises(LoadError, match=reason):
        LiteRTEngine(model)


def test_signatures_may_share_a_graph(model: Path) -> None:
    root = read(model)
    (own,) = root.signatureDefs
    root.signatureDefs.append(other := copy(own))
    other.signatureKey = "serve"
    write(model, root)
    engine = LiteRTEngine(model)
    for rows, name in ((1, "serve"), (3, DEFAULT_SIGNATURE), (3, "serve")):
        assert answer(engine, *range(rows), signature=name) == near(*range(rows))


def test_two_tensors_of_one_name_are_refused(model: Path) -> None:
    root = without_signatures(model)
    (graph,) = root.subgraphs
    graph.tensors.append(copy(graph.tensors[graph.inputs[0]]))
    graph.inputs = [*graph.inputs, len(graph.tensors) - 1]
    write(model, root)
    with pytest.raises(LoadError, match="it has no signatures, and two tensors with the name 'serving_default_x:0'"):
        LiteRTEngine(model)


@pytest.fixture
def recurrent(tmp_path: Path) -> Path:
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
    write(tmp_path / TWIN_FILE, root)
    return tmp_path / TWIN_FILE


def test_recurrent_layers_begin_anew(recurrent: Path) -> None:
    engine = LiteRTEngine(recurrent)
    for _ in range(2):
        outputs = engine.run(DEFAULT_SIGNATURE, {"x": np.ones((2, 3, 1), np.float32)})
        assert outputs["y"].tolist() == [[[1], [2], [3]]] * 2


def test_twin_takes_all_shapes_of_its_saved_model(recurrent: Path) -> None:
    def twin(*shape: int) -> LiteRTEngine:
        specs = signature({"x": tensor("DT_FLOAT", *shape)}, {"y": tensor("DT_FLOAT", *shape)})
        return LiteRTEngine(recurrent, {DEFAULT_SIGNATURE: specs})

    # Rows are run one by one.
    assert twin(-1, 3, 1).run(DEFAULT_SIGNATURE, {"x": np.ones((2, 3, 1), np.float32)})["y"].shape == (2, 3, 1)
    with pytest.raises(LoadError, match=r"takes only the shape \[1, 3, 1\], the SavedModel's \[-1, -1, 1\]"):
        twin(-1, -1, 1)
