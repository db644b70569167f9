from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inference.version import LoadedVersion
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from service.tensors.tensor_proto import TYPE_NUMBERS
from tests.unit.service.api.grpc import schema
from tests.unit.service.api.grpc.calls import MODELS, PREDICTION, call, error, respond
from tests.unit.service.api.models import LINEAR, VECTOR
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import FakeEngine, FakeService, any_shape, make_available, quick, signature, tensor

PREDICT, CLASSIFY, MULTI = (f"{PREDICTION}/{method}" for method in ("Predict", "Classify", "MultiInference"))
INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, UNIMPLEMENTED = 3, 5, 9, 12
LABELS = ServingConfig(labels=("shirt", "shoe"))
SCORES = signature({"x": VECTOR}, {"scores": tensor("DT_FLOAT", -1, 2)})
X = np.array([1, 2], np.float32)


@pytest.fixture
def service(service: FakeService) -> FakeService:
    of = signature({"x": VECTOR}, {"y": VECTOR, "z": VECTOR})
    service.add(of, lambda inputs: {"y": inputs["x"] * 3 + 1, "z": -inputs["x"]}, model="linear", version=3)
    return service


def predict(x: Array) -> Any:
    shape = {"dim": [{"size": size} for size in x.shape]}
    given = {"dtype": TYPE_NUMBERS["DT_FLOAT"], "tensor_shape": shape, "tensor_content": x.tobytes()}
    return schema.message("PredictRequest")(model_spec={"name": "linear"}, inputs={"x": given})


def test_outputs_are_typed_values_with_the_model_that_gave_them(service: FakeService) -> None:
    made = predict(X)
    made.model_spec.version.value = 3
    answer = call(service, PREDICT, made, "PredictResponse")
    assert {name: list(array.float_val) for name, array in answer.outputs.items()} == {"y": [4, 7], "z": [-1, -2]}
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("linear", 3, DEFAULT_SIGNATURE)
    made.output_filter.append("z")
    assert list(call(service, PREDICT, made, "PredictResponse").outputs) == ["z"]


def test_outputs_are_content_where_the_setting_says_so(make_service: MakeService) -> None:
    service = make_service(grpc_tensor_content=True)
    service.add(LINEAR, model="linear")
    answer = call(service, PREDICT, predict(X), "PredictResponse")
    assert answer.outputs["y"].tensor_content == X.tobytes()


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda made: made.ClearField("model_spec"), INVALID_ARGUMENT, "Missing ModelSpec"),
        (lambda made: setattr(made.model_spec, "name", "no"), NOT_FOUND, "Servable not found for request: Latest(no)"),
        (lambda made: setattr(made.model_spec.version, "value", 4), NOT_FOUND, "Specific(linear, 4)"),
        (lambda made: setattr(made.model_spec.version, "value", -1), NOT_FOUND, "Specific(linear, -1)"),
        (lambda made: setattr(made.model_spec, "version_label", "no"), INVALID_ARGUMENT, "label"),
        (lambda made: setattr(made.model_spec, "signature_name", "no"), FAILED_PRECONDITION, 'key "no" not found'),
        (lambda made: setattr(made.inputs["x"], "dtype", 9), INVALID_ARGUMENT, "of the type DT_INT64; expected DT_FLO"),
        (lambda made: setattr(made.inputs["x"], "tensor_content", b"\0" * 5), INVALID_ARGUMENT, "input 'x': "),
        (
            lambda made: made.output_filter.append("w"),
            INVALID_ARGUMENT,
            "output tensor alias not found in signature: w",
        ),
        (lambda made: made.output_filter.extend("yy"), INVALID_ARGUMENT, "duplicate output tensor alias: y"),
    ],
)
def test_wrong_request_is_an_error(service: FakeService, change: Any, status: int, words: str) -> None:
    made = predict(X)
    change(made)
    found, message = error(service, PREDICT, made)
    assert found == status
    assert words in message


def test_bytes_are_no_version(service: FakeService) -> None:
    status, message = error(service, PREDICT, b"\x0a\x0d\x0a\x06linear\x12\x03\x0a\x01a")
    assert status == INVALID_ARGUMENT
    assert "bytes where a number belongs" in message


@given(st.binary(max_size=200))
def test_fuzzed_message_is_an_invalid_argument(models: FakeService, damage: bytes) -> None:
    whole = predict(X).SerializeToString()
    for body in (damage, whole[: len(damage)] + damage, whole + damage):
        response = respond(models, PREDICT, body)
        assert response.status in (200, 400, 404), response.body


def example(features: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {float: "float_list", int: "int64_list", bytes: "bytes_list"}
    values = {name: {kinds[type(given[0])]: {"value": given}} for name, given in features.items()}
    return {"features": {"feature": values}}


def examples(kind: str, *rows: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> Any:
    given: dict[str, Any] = {"examples": [example(row) for row in rows]}
    more = {} if kind == "MultiInferenceRequest" else {"model_spec": {"name": "scores"}}
    if context is None:
        return schema.message(kind)(input={"example_list": given}, **more)
    return schema.message(kind)(input={"example_list_with_context": given | {"context": example(context)}}, **more)


def scores(inputs: Mapping[str, Array]) -> dict[str, Array]:
    x = inputs["x"].reshape(-1, 1).astype(np.float32)
    return {"scores": np.concatenate([1 - x, x], axis=1)}


@pytest.fixture
def classifier(service: FakeService) -> FakeService:
    service.add(SCORES, scores, LABELS, model="scores")
    return service


def test_examples_are_classified_by_their_features(classifier: FakeService) -> None:
    made = examples("ClassificationRequest", {"x": [0.75]}, {"x": [0]})
    answer = call(classifier, CLASSIFY, made, "ClassificationResponse")
    rows = [[(each.label, each.score) for each in row.classes] for row in answer.result.classifications]
    assert rows == [[("shoe", 0.75), ("shirt", 0.25)], [("shirt", 1), ("shoe", 0)]]
    assert answer.model_spec.name == "scores"
    # An example counts more than the context.
    made = examples("ClassificationRequest", {"y": [1.0]}, {"x": [0.0]}, context={"x": [1.0]})
    answer = call(classifier, CLASSIFY, made, "ClassificationResponse")
    assert [row.classes[0].label for row in answer.result.classifications] == ["shoe", "shirt"]


def test_string_input_gets_serialized_examples(service: FakeService) -> None:
    of = signature({"examples": any_shape("DT_STRING")}, {"y": VECTOR})
    engine = service.add(of, lambda inputs: {"y": np.ones(len(inputs["examples"]), np.float32)}, model="scores")
    made = examples("RegressionRequest", {"x": [1.0]}, {"x": [2.0]})
    answer = call(service, f"{PREDICTION}/Regress", made, "RegressionResponse")
    assert [each.value for each in answer.result.regressions] == [1, 1]
    ((_, inputs),) = engine.runs
    assert inputs["examples"].tolist() == [row.SerializeToString() for row in made.input.example_list.examples]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "Input is empty"),
        ([{"y": [1.0]}], "examples[0] has no feature 'x'"),
        ([{"x": [b"a"]}], "another type"),
        ([{"x": [1.0, 2.0]}], "2 values"),
        ([{"x": [1.0]}, {"x": [1.0, 2.0]}], "others in another"),
    ],
)
def test_examples_that_do_not_fit_are_an_error(classifier: FakeService, rows: Any, words: str) -> None:
    status, message = error(classifier, CLASSIFY, examples("ClassificationRequest", *rows))
    assert status == INVALID_ARGUMENT
    assert words in message


def test_multi_inference_answers_each_task(classifier: FakeService) -> None:
    signatures = {"classify": SCORES, "regress": signature({"z": VECTOR}, {"y": VECTOR})}
    engine = FakeEngine(signatures, lambda inputs: {"y": inputs["z"]} if "z" in inputs else scores(inputs))
    make_available(classifier.registry, LoadedVersion("scores", 2, engine, LABELS, pace=quick()))
    made = examples("MultiInferenceRequest", {"x": [0.25], "z": [0.5]})
    for name in signatures:
        task = made.tasks.add(method_name=f"tensorflow/serving/{name}")
        task.model_spec.name, task.model_spec.signature_name = "scores", name
    answer = call(classifier, MULTI, made, "MultiInferenceResponse")
    assert answer.results[0].classification_result.classifications[0].classes[0].label == "shirt"
    assert answer.results[1].regression_result.regressions[0].value == 0.5
    assert [each.model_spec.signature_name for each in answer.results] == ["classify", "regress"]
    labels = {"model": "scores", "version": "2", "protocol": "grpc_v1", "verb": "multi_inference", "status": "200"}
    assert classifier.app.metrics.registry.get_sample_value("serving_requests_total", labels) == 1
    made.tasks[1].model_spec.name = "other"
    assert "same model" in error(classifier, MULTI, made)[1]
    made.tasks[1].model_spec.name, made.tasks[1].method_name = "scores", "tensorflow/serving/predict"
    assert "method_name" in error(classifier, MULTI, made)[1]
    del made.tasks[:]
    assert "at least one task" in error(classifier, MULTI, made)[1]


def test_metadata_has_the_signatures(service: FakeService) -> None:
    method, request = f"{PREDICTION}/GetModelMetadata", schema.message("GetModelMetadataRequest")
    made = request(model_spec={"name": "linear"}, metadata_field=["signature_def"])
    answer = call(service, method, made, "GetModelMetadataResponse")
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("linear", 3)
    signatures = schema.message("SignatureDefMap").FromString(answer.metadata["signature_def"].value)
    assert answer.metadata["signature_def"].type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    found = signatures.signature_def[DEFAULT_SIGNATURE]
    assert (found.method_name, found.inputs["x"].dtype) == ("tensorflow/serving/predict", TYPE_NUMBERS["DT_FLOAT"])
    assert [dim.size for dim in found.inputs["x"].tensor_shape.dim] == [-1]
    made.metadata_field[:] = ["weights"]
    assert "Metadata field weights is not supported" in error(service, method, made)[1]
    del made.metadata_field[:]
    assert "at least one metadata_field" in error(service, method, made)[1]


def test_status_of_versions(service: FakeService) -> None:
    made = schema.message("GetModelStatusRequest")(model_spec={"name": "linear"})
    (found,) = call(service, f"{MODELS}/GetModelStatus", made, "GetModelStatusResponse").model_version_status
    available = schema.message("ModelVersionStatus").AVAILABLE
    assert (found.version, found.state, found.status.error_code) == (3, available, 0)
    made.model_spec.version.value = 9
    status, message = error(service, f"{MODELS}/GetModelStatus", made)
    assert (status, message.partition(";")[0]) == (NOT_FOUND, "Could not find version 9 of model linear")


def test_unknown_method_is_unimplemented(service: FakeService) -> None:
    status, message = error(service, "a.Service/Method", b"")
    assert (status, message.partition(" ")[0]) == (UNIMPLEMENTED, "/a.Service/Method")
