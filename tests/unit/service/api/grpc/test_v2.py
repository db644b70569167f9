from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.serving_config import ServingConfig
from service.tensors.dtypes import DATATYPES, DTYPES
from tests.unit.service.api.grpc import schema
from tests.unit.service.api.grpc.calls import INFERENCE, call, error, respond
from tests.unit.service.fakes import FakeService, any_shape, signature, tensor

INFER = f"{INFERENCE}/ModelInfer"
INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED = 3, 5, 7
TYPED = {
    "bool_contents": ["BOOL"],
    "int_contents": ["INT8", "INT16", "INT32"],
    "int64_contents": ["INT64"],
    "uint_contents": ["UINT8", "UINT16", "UINT32"],
    "uint64_contents": ["UINT64"],
    "fp32_contents": ["FP32"],
    "fp64_contents": ["FP64"],
    "bytes_contents": ["BYTES"],
}


def message(kind: str, /, **values: Any) -> Any:
    return schema.message(f"inference.{kind}")(**values)


def infer(datatype: str = "FP32", shape: tuple[int, ...] = (2,)) -> Any:
    tensor = {"name": "x", "datatype": datatype, "shape": shape}
    return message("ModelInferRequest", model_name="linear", id="7", inputs=[tensor])


def raw(values: Any = (1.5, -2)) -> Any:
    array = np.asarray(values, np.float32)
    made = infer(shape=array.shape)
    made.raw_input_contents.append(array.tobytes())
    return made


@pytest.fixture
def service(service: FakeService) -> FakeService:
    service.add(signature({"x": any_shape("DT_FLOAT")}, {"y": any_shape("DT_FLOAT")}), model="linear")
    return service


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_raw_contents_get_raw_contents(service: FakeService, method: str) -> None:
    is_stream = method == "ModelStreamInfer"
    answer = call(service, f"{INFERENCE}/{method}", raw(), f"inference.{method}Response")
    answer = answer.infer_response if is_stream else answer
    assert (answer.model_name, answer.model_version, answer.id) == ("linear", "1", "7")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [2])
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1.5, -2]


@pytest.mark.parametrize(("field", "datatype"), [(field, datatype) for field, of in TYPED.items() for datatype in of])
def test_typed_contents_get_typed_contents(service: FakeService, field: str, datatype: str) -> None:
    (name,) = (name for name in DTYPES if DATATYPES[name] == datatype)
    service.add(signature({"x": any_shape(name)}, {"y": any_shape(name)}), model="linear")
    of = DTYPES[name]
    values: list[Any] = [1.5, -2.0]
    if of.kind in "iu":
        values = [int(np.iinfo(of).min), int(np.iinfo(of).max)]
    elif of.kind in "bO":
        values = [True, False] if of.kind == "b" else [b"shirt", b"\xff"]
    made = infer(datatype)
    getattr(made.inputs[0].contents, field).extend(values)
    answer = call(service, INFER, made, "inference.ModelInferResponse")
    assert list(getattr(answer.outputs[0].contents, field)) == values
    assert not answer.raw_output_contents


@pytest.mark.parametrize("size", [0, 100])
def test_contents_of_any_length(service: FakeService, size: int) -> None:
    made = infer(shape=(size,))
    made.inputs[0].parameters["other"].int64_param = 1
    made.inputs[0].contents.fp32_contents.extend([1.5] * size)
    (output,) = call(service, INFER, made, "inference.ModelInferResponse").outputs
    assert (list(output.shape), list(output.contents.fp32_contents)) == ([size], [1.5] * size)


def test_half_precision_is_raw(service: FakeService) -> None:
    service.add(signature({"x": any_shape("DT_HALF")}, {"y": any_shape("DT_HALF")}), model="linear")
    made = infer("FP16")
    made.raw_input_contents.append(np.array([1, 2], np.float16).tobytes())
    answer = call(service, INFER, made, "inference.ModelInferResponse")
    assert answer.raw_output_contents[0] == made.raw_input_contents[0]
    del made.raw_input_contents[:]
    assert "FP16 has no typed contents" in error(service, INFER, made)[1]


def test_best_classes_in_the_place_of_scores(service: FakeService) -> None:
    pairs = tensor("DT_FLOAT", -1, 2)
    service.add(signature({"x": pairs}, {"y": pairs}), config=ServingConfig(labels=("shirt", "shoe")), model="linear")
    made = raw([[0.25, 0.75]])
    made.outputs.add(name="y").parameters["classification"].int64_param = 1
    (output,) = call(service, INFER, made, "inference.ModelInferResponse").outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [1, 1])


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda made: setattr(made, "model_name", "no"), NOT_FOUND, "Servable not found"),
        (lambda made: setattr(made, "model_version", "9"), NOT_FOUND, "Specific(linear, 9)"),
        (lambda made: made.raw_input_contents.append(b""), INVALID_ARGUMENT, "1 inputs have 2 raw_input_contents"),
        (lambda made: made.inputs[0].contents.fp32_contents.append(1), INVALID_ARGUMENT, "both contents and raw"),
        (lambda made: made.inputs[0].shape.append(2), INVALID_ARGUMENT, "8 bytes of binary data"),
        (lambda made: made.inputs[0].shape.append(-1), INVALID_ARGUMENT, "sizes of at least 0"),
        (lambda made: made.outputs.add(name="w"), INVALID_ARGUMENT, "unknown output 'w'"),
        (
            lambda made: setattr(made.inputs[0].parameters["shared_memory_region"], "string_param", "a"),
            INVALID_ARGUMENT,
            "no shared memory",
        ),
    ],
)
def test_wrong_request_is_an_error(service: FakeService, change: Any, status: int, words: str) -> None:
    made = raw()
    change(made)
    found, said = error(service, INFER, made)
    assert found == status
    assert words in said


def test_contents_that_do_not_fit_are_an_error(service: FakeService) -> None:
    for field, words in (("fp64_contents", "another type"), ("fp32_contents", "1 values")):
        made = infer()
        getattr(made.inputs[0].contents, field).append(1)
        assert words in error(service, INFER, made)[1]


@given(st.binary(max_size=100), st.integers(0, 60))
def test_fuzzed_message_is_an_invalid_argument(models: FakeService, damage: bytes, kept: int) -> None:
    response = respond(models, INFER, raw().SerializeToString()[:kept] + damage)
    assert response.status in (200, 400, 404), response.body


def test_metadata_config_statistics_and_index(service: FakeService) -> None:
    def answer(method: str, **values: Any) -> Any:
        return call(
            service, f"{INFERENCE}/{method}", message(f"{method}Request", **values), f"inference.{method}Response"
        )

    call(service, INFER, raw(), "inference.ModelInferResponse")
    assert answer("ServerLive").live
    assert answer("ServerReady").ready
    assert [answer("ModelReady", name=name).ready for name in ("linear", "no")] == [True, False]
    metadata = answer("ModelMetadata", name="linear")
    assert (metadata.name, list(metadata.versions), metadata.inputs[0].datatype) == ("linear", ["1"], "FP32")
    fp32 = message("ModelConfig", input=[{"data_type": "TYPE_FP32"}]).input[0].data_type
    assert answer("ModelConfig", name="linear").config.input[0].data_type == fp32
    assert answer("ModelStatistics", name="linear").model_stats[0].inference_stats.success.count == 1
    (found,) = answer("RepositoryIndex").models
    assert (found.name, found.version, found.state) == ("linear", "1", "READY")


def test_loading_by_request_needs_the_setting_and_shared_memory_is_unimplemented(service: FakeService) -> None:
    for verb in ("Load", "Unload"):
        made = message(f"RepositoryModel{verb}Request", model_name="linear")
        assert error(service, f"{INFERENCE}/RepositoryModel{verb}", made)[0] == PERMISSION_DENIED
    assert "no shared memory" in error(service, f"{INFERENCE}/SystemSharedMemoryRegister", b"")[1]
