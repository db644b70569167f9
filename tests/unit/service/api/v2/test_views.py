from typing import Any

import numpy as np
import orjson
import pytest

from service.inference.version import State, VersionStatus
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import Arrays, FakeService, any_shape, error, signature, tensor

LINEAR = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
PAIR = signature(
    {"a": tensor("DT_FLOAT", -1), "b": tensor("DT_INT32", -1)},
    {"sum": tensor("DT_FLOAT", -1), "words": tensor("DT_STRING", -1)},
)
SCORES = signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 3)})
X = {"name": "x", "shape": [2], "datatype": "FP32", "data": [10, 0]}
INFER = "/v2/models/model/infer"


def times_three_plus_one(inputs: Arrays) -> dict[str, Array]:
    return {"y": inputs["x"] * 3 + 1}


def sum_and_words(inputs: Arrays) -> dict[str, Array]:
    total = inputs["a"] + inputs["b"]
    return {"sum": total.astype(np.float32), "words": np.array([b"%d" % number for number in total], object)}


@pytest.fixture
def linear(service: FakeService) -> FakeService:
    service.add(LINEAR, times_three_plus_one)
    return service


def post_binary(service: FakeService, path: str, head: object, *data: bytes) -> Any:
    text = orjson.dumps(head)
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return service.post(path, text + b"".join(data), "application/octet-stream", headers)


def parts(response: Any) -> tuple[Any, bytes]:
    length = int(response.headers.get("Inference-Header-Content-Length", len(response.data)))
    return orjson.loads(response.data[:length]), response.data[length:]


# Inference


def test_tensors_in_json_come_back_as_tensors_in_json(linear: FakeService) -> None:
    response = linear.post(INFER, {"id": "42", "inputs": [X]})
    assert response.get_json() == {
        "id": "42",
        "model_name": "model",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [31.0, 1.0]}],
    }
    assert (response.status_code, response.content_type) == (200, "application/json")


def test_binary_in_and_binary_out(linear: FakeService) -> None:
    x = np.array([10, 0], np.float32).tobytes()
    given = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    asked = {"inputs": [given], "parameters": {"binary_data_output": True}}
    response = post_binary(linear, INFER, asked, x)
    assert (response.status_code, response.content_type) == (200, "application/octet-stream")
    body, data = parts(response)
    assert "id" not in body
    assert body["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
    ]
    assert np.frombuffer(data, np.float32).tolist() == [31, 1]


def test_inputs_and_outputs_may_each_come_their_own_way(service: FakeService) -> None:
    service.add(PAIR, sum_and_words)
    asked = {
        "inputs": [
            {"name": "a", "shape": [1], "datatype": "FP32", "data": [1.5]},
            {"name": "b", "shape": [1], "datatype": "INT32", "parameters": {"binary_data_size": 4}},
        ],
        "outputs": [{"name": "words", "parameters": {"binary_data": True}}, {"name": "sum"}],
    }
    body, data = parts(post_binary(service, INFER, asked, b"\2\0\0\0"))
    assert body["outputs"] == [
        {"name": "words", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
        {"name": "sum", "datatype": "FP32", "shape": [1], "data": [3.5]},
    ]
    assert data == b"\1\0\0\x003"


@pytest.mark.parametrize("outputs", [None, []])
def test_all_outputs_come_where_none_is_named(service: FakeService, outputs: object) -> None:
    service.add(PAIR, sum_and_words)
    inputs = [
        {"name": "a", "shape": [1], "datatype": "FP32", "data": [1]},
        {"name": "b", "shape": [1], "datatype": "INT32", "data": [2]},
    ]
    body = service.post(INFER, {"inputs": inputs, "outputs": outputs}).get_json()
    assert [output["name"] for output in body["outputs"]] == ["sum", "words"]


def test_outputs_come_in_the_order_they_are_named(service: FakeService) -> None:
    service.add(PAIR, sum_and_words)
    inputs = [
        {"name": "b", "shape": [1], "datatype": "INT32", "data": [2]},
        {"name": "a", "shape": [1], "datatype": "FP32", "data": [1]},
    ]
    for names in (["words", "sum"], ["sum"]):
        body = service.post(INFER, {"inputs": inputs, "outputs": [{"name": name} for name in names]}).get_json()
        assert [output["name"] for output in body["outputs"]] == names


def test_a_raw_body_gets_binary_outputs(linear: FakeService) -> None:
    x = np.array([10, 0], np.float32).tobytes()
    response = linear.post(INFER, x, "application/octet-stream", {"Inference-Header-Content-Length": "0"})
    body, data = parts(response)
    assert body["outputs"][0]["shape"] == [2]
    assert np.frombuffer(data, np.float32).tolist() == [31, 1]


def test_classification_has_the_labels_of_the_model(service: FakeService) -> None:
    scores = np.array([[0.25, 0.5, 0.125]], np.float32)
    service.add(SCORES, lambda _: {"scores": scores}, ServingConfig(labels=("a", "b", "c")))
    outputs = [{"name": "scores", "parameters": {"classification": 2}}]
    body = service.post(INFER, {"inputs": [X | {"shape": [1], "data": [1]}], "outputs": outputs}).get_json()
    assert body["outputs"] == [
        {"name": "scores", "datatype": "BYTES", "shape": [1, 2], "data": ["0.5:1:b", "0.25:0:a"]},
    ]


@pytest.mark.parametrize(("place", "version"), [("", 2), ("/versions/1", 1), ("/versions/2", 2)])
def test_a_request_reaches_the_version_that_it_names(service: FakeService, place: str, version: int) -> None:
    for number in (1, 2):
        service.add(LINEAR, lambda _, number=number: {"y": np.array([number])}, version=number)  # type: ignore[misc]
    body = service.post(f"/v2/models/model{place}/infer", {"inputs": [X]}).get_json()
    assert (body["model_version"], body["outputs"][0]["data"]) == (str(version), [version])


def test_what_other_servers_know_beyond_it_is_passed_over(linear: FakeService) -> None:
    asked = {
        "model_name": "other",
        "inputs": [X | {"parameters": {"content_type": "np"}}],
        "parameters": {"sequence_id": 7, "priority": 1, "timeout": 5, "headers": {}},
        "outputs": [{"name": "y", "parameters": {"content_type": "np"}}],
    }
    assert linear.post(INFER, asked).status_code == 200


def test_what_may_be_left_out_may_be_null(linear: FakeService) -> None:
    asked = {"id": None, "inputs": [X | {"parameters": None}], "parameters": None, "outputs": None}
    assert linear.post(INFER, asked).status_code == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "image/png"])
def test_the_content_type_does_not_matter(linear: FakeService, content_type: str) -> None:
    assert linear.post(INFER, {"inputs": [X]}, content_type).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v2/models/nowhere/infer", 404, "no such model"),
        ("/v2/models/model/versions/9/infer", 404, "model has the versions 1"),
        ("/v2/models/model/versions/one/infer", 400, "Failed to convert version: one to numeric"),
        ("/v2/models/model/versions/-1/infer", 400, "Failed to convert version: -1 to numeric"),
        (
            "/v2/models/model/versions/99999999999999999999/infer",
            400,
            "Failed to convert version: 99999999999999999999",
        ),
    ],
)
def test_a_model_or_version_that_is_not_there_is_named(linear: FakeService, path: str, status: int, words: str) -> None:
    response = linear.post(path, {"inputs": [X]})
    assert response.status_code == status
    assert words in error(response)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "missing input 'x'; expected 'x'"),
        ([X | {"shape": [1, 2]}], "input 'x' has the shape [1, 2]; expected [-1]"),
    ],
)
def test_the_model_s_own_refusals_are_400(linear: FakeService, inputs: object, words: str) -> None:
    response = linear.post(INFER, {"inputs": inputs})
    assert response.status_code == 400
    assert words in error(response)


def test_the_service_s_own_faults_are_500_and_keep_their_details(service: FakeService) -> None:
    def fail(_: Arrays) -> dict[str, Array]:
        raise RuntimeError("secret")

    service.add(LINEAR, fail)
    response = service.post(INFER, {"inputs": [X]})
    assert response.status_code == 500
    assert "secret" not in error(response)


def test_requests_are_counted_by_status(linear: FakeService) -> None:
    linear.post(INFER, {"inputs": [X]})
    linear.post(INFER, {"inputs": []})
    for status in (200, 400):
        labels = f'model="model",protocol="v2",status="{status}",verb="infer",version="1"'
        assert linear.sample(f"serving_requests_total{{{labels}}}") == "1.0"


def test_only_a_post_infers(linear: FakeService) -> None:
    response = linear.get(INFER)
    assert (response.status_code, error(response)) == (405, f"{INFER} does not take GET; it takes OPTIONS, POST")


# Readiness


@pytest.mark.parametrize("place", ["", "/versions/1"])
def test_a_model_is_ready_once_it_is_available(linear: FakeService, place: str) -> None:
    response = linear.get(f"/v2/models/model{place}/ready")
    assert (response.status_code, response.get_json()) == (200, {"name": "model", "ready": True})


def test_a_model_that_is_not_available_is_not_ready(service: FakeService) -> None:
    service.registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    for model in ("model", "nowhere"):
        response = service.get(f"/v2/models/{model}/ready")
        assert response.status_code == 404
        assert f"Latest({model})" in error(response)


def test_who_asks_for_readiness_does_not_wait_for_it(make_service: MakeService) -> None:
    service = make_service()
    service.registry.first_scan_done.clear()
    assert service.get("/v2/models/model/ready").status_code == 503


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/v2/models/nowhere", 404),
        ("get", "/v2/models/nowhere/config", 404),
        ("get", "/v2/models/nowhere/stats", 404),
        ("get", "/v2/models/nowhere/ready", 404),
        ("get", "/v2/models/model/versions/x", 400),
        ("get", "/v2/models/model/nothing", 404),
        ("get", "/v2/nothing", 404),
        ("get", "/v2/repository/index", 405),
        ("post", "/v2/health/live", 405),
        ("post", "/v2/models/model", 405),
    ],
)
def test_every_error_is_an_object_with_a_sentence(linear: FakeService, method: str, path: str, status: int) -> None:
    response = linear.get(path) if method == "get" else linear.post(path, b"{}")
    assert response.status_code == status
    assert error(response)


def test_a_tensor_of_any_rank_takes_every_shape(service: FakeService) -> None:
    service.add(signature({"x": any_shape("DT_FLOAT")}))
    for shape in ([], [2], [1, 2, 1]):
        data = [1.0] * max(1, np.prod(shape, dtype=int))
        body = service.post(INFER, {"inputs": [X | {"shape": shape, "data": data}]}).get_json()
        assert (body["outputs"][0]["shape"], body["outputs"][0]["data"]) == (shape, data)
