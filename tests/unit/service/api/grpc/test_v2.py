from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.serving_config import ServingConfig
from service.tensors.dtypes import DATATYPES, DTYPES
from tests.unit.service.api.grpc import schema
from tests.unit.service.api.grpc.calls import INFERENCE, call, error, respond
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import FakeService, any_shape, signature, tensor

INFER = f"{INFERENCE}/ModelInfer"
INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED = 3, 5, 7
TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def infer(datatype: str = "FP32", shape: tuple[int, ...] = (2,), **more: Any) -> Any:
    made = schema.message("inference.ModelInferRequest")(model_name="model", id="7", **more)
    made.inputs.add(name="x", datatype=datatype, shape=shape)
    return made


def raw(values: Any = (1.5, -2)) -> Any:
    array = np.asarray(values, np.float32)
    made = infer(shape=array.shape)
    made.raw_input_contents.append(array.tobytes())
    return made


@pytest.fixture
def service(service: FakeService) -> FakeService:
    service.add(signature({"x": any_shape("DT_FLOAT")}, {"y": any_shape("DT_FLOAT")}))
    return service


def test_raw_contents_get_raw_contents(service: FakeService) -> None:
    answer = call(service, INFER, raw(), "inference.ModelInferResponse")
    assert (answer.model_name, answer.model_version, answer.id) == ("model", "1", "7")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [2])
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1.5, -2]


@pytest.mark.parametrize(("name", "datatype"), [(name, of) for name, of in DATATYPES.items() if of in TYPED])
def test_typed_contents_get_typed_contents(make_service: MakeService, name: str, datatype: str) -> None:
    service = make_service()
    service.add(signature({"x": any_shape(name)}, {"y": any_shape(name)}))
    of = DTYPES[name]
    values: list[Any] = [b"shirt", b"\xff"]
    if of.kind in "iu":
        values = [int(np.iinfo(of).min), int(np.iinfo(of).max)]
    elif of.kind != "O":
        values = [True, False] if of.kind == "b" else [1.5, -2.0]
    made = infer(datatype)
    getattr(made.inputs[0].contents, TYPED[datatype]).extend(values)
    answer = call(service, INFER, made, "inference.ModelInferResponse")
    assert list(getattr(answer.outputs[0].contents, TYPED[datatype])) == values
    assert not answer.raw_output_contents


def test_half_precision_is_raw(make_service: MakeService) -> None:
    service = make_service()
    service.add(signature({"x": any_shape("DT_HALF")}, {"y": any_shape("DT_HALF")}))
    made = infer("FP16")
    made.raw_input_contents.append(np.array([1, 2], np.float16).tobytes())
    answer = call(service, INFER, made, "inference.ModelInferResponse")
    assert answer.raw_output_contents[0] == made.raw_input_contents[0]
    del made.raw_input_contents[:]
    assert "FP16 has no typed contents" in error(service, INFER, made)[1]


def test_best_classes_in_the_place_of_scores(service: FakeService) -> None:
    service.add(
        signature({"x": tensor("DT_FLOAT", -1, 2)}, {"y": tensor("DT_FLOAT", -1, 2)}),
        config=ServingConfig(labels=("shirt", "shoe")),
        version=2,
    )
    made = raw([[0.25, 0.75]])
    made.outputs.add(name="y").parameters["classification"].int64_param = 1
    (output,) = call(service, INFER, made, "inference.ModelInferResponse").outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [1, 1])


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda made: setattr(made, "model_name", "no"), NOT_FOUND, "Servable not found"),
        (lambda made: setattr(made, "model_version", "9"), NOT_FOUND, "Specific(model, 9)"),
        (lambda made: setattr(made, "model_version", "x"), INVALID_ARGUMENT, "Failed to convert version: x"),
        (lambda made: made.raw_input_contents.append(b""), INVALID_ARGUMENT, "1 inputs have 2 raw_input_contents"),
        (lambda made: made.inputs[0].contents.fp32_contents.append(1), INVALID_ARGUMENT, "both contents and raw"),
        (lambda made: setattr(made.inputs[0], "name", "w"), INVALID_ARGUMENT, "unknown input 'w'"),
        (lambda made: setattr(made.inputs[0], "datatype", "FP64"), INVALID_ARGUMENT, "datatype 'FP64'"),
        (lambda made: made.inputs[0].shape.append(2), INVALID_ARGUMENT, "8 bytes of binary data"),
        (lambda made: made.inputs[0].shape.append(-1), INVALID_ARGUMENT, "sizes of at least 0"),
        (lambda made: made.outputs.add(name="w"), INVALID_ARGUMENT, "unknown output 'w'"),
        (
            lambda made: setattr(made.inputs[0].parameters["shared_memory_region"], "string_param", "a"),
            INVALID_ARGUMENT,
            "no shared memory",
        ),
        (lambda made: made.inputs.add(name="x"), INVALID_ARGUMENT, "2 inputs have 1 raw_input_contents"),
    ],
)
def test_wrong_request_is_an_error(service: FakeService, change: Any, status: int, words: str) -> None:
    made = raw()
    change(made)
    found, message = error(service, INFER, made)
    assert found == status
    assert words in message


@pytest.mark.parametrize(("field", "words"), [("fp64_contents", "another type"), ("fp32_contents", "1 values")])
def test_contents_that_do_not_fit_are_an_error(service: FakeService, field: str, words: str) -> None:
    made = infer()
    getattr(made.inputs[0].contents, field).append(1)
    assert words in error(service, INFER, made)[1]


@given(st.binary(max_size=100), st.integers(0, 60))
def test_fuzzed_message_is_an_invalid_argument(fuzzed: FakeService, damage: bytes, kept: int) -> None:
    response = respond(fuzzed, INFER, raw().SerializeToString()[:kept] + damage)
    assert response.status in (200, 400, 404), response.body


def test_stream_wraps_responses(service: FakeService) -> None:
    answer = call(service, f"{INFERENCE}/ModelStreamInfer", raw(), "inference.ModelStreamInferResponse")
    assert answer.infer_response.id == "7"


def test_metadata_config_and_statistics(service: FakeService) -> None:
    def named(method: str) -> Any:
        made = schema.message(f"inference.{method}Request")(name="model")
        return call(service, f"{INFERENCE}/{method}", made, f"inference.{method}Response")

    call(service, INFER, raw(), "inference.ModelInferResponse")
    assert named("ModelReady").ready
    metadata = named("ModelMetadata")
    assert (metadata.name, list(metadata.versions), metadata.inputs[0].datatype) == ("model", ["1"], "FP32")
    assert (
        named("ModelConfig").config.input[0].data_type
        == schema.message("inference.ModelConfig")().input.add(data_type="TYPE_FP32").data_type
    )
    assert named("ModelStatistics").model_stats[0].inference_stats.success.count == 1


def test_unknown_model_is_not_ready(service: FakeService) -> None:
    made = schema.message("inference.ModelReadyRequest")(name="no")
    assert not call(service, f"{INFERENCE}/ModelReady", made, "inference.ModelReadyResponse").ready


@pytest.mark.parametrize(("method", "field"), [("ServerLive", "live"), ("ServerReady", "ready")])
def test_server_is_live_and_ready(service: FakeService, method: str, field: str) -> None:
    made = schema.message(f"inference.{method}Request")()
    assert getattr(call(service, f"{INFERENCE}/{method}", made, f"inference.{method}Response"), field)


def test_index_lists_models(service: FakeService) -> None:
    made = schema.message("inference.RepositoryIndexRequest")()
    (found,) = call(service, f"{INFERENCE}/RepositoryIndex", made, "inference.RepositoryIndexResponse").models
    assert (found.name, found.version, found.state) == ("model", "1", "READY")


@pytest.mark.parametrize("verb", ["Load", "Unload"])
def test_loading_by_request_needs_the_setting(service: FakeService, verb: str) -> None:
    made = schema.message(f"inference.RepositoryModel{verb}Request")(model_name="model")
    assert error(service, f"{INFERENCE}/RepositoryModel{verb}", made)[0] == PERMISSION_DENIED


def test_shared_memory_is_unimplemented(service: FakeService) -> None:
    assert "no shared memory" in error(service, f"{INFERENCE}/SystemSharedMemoryRegister", b"")[1]
