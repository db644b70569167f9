from typing import Any

import numpy as np
import orjson
import pytest

from service import create_app
from service.api.v2.decode import HEAD_LENGTH
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import ModelPolicy, Policies
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import (
    Arrays,
    FakeEngine,
    FakeService,
    echo,
    error,
    make_available,
    patient_settings,
    signature,
    tensor,
)

LINEAR = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
PAIR = signature(
    {"a": tensor("DT_FLOAT", -1), "b": tensor("DT_INT32", -1)},
    {"sum": tensor("DT_FLOAT", -1), "words": tensor("DT_STRING", -1)},
)
X = {"name": "x", "shape": [2], "datatype": "FP32", "data": [10, 0]}
A = {"name": "a", "shape": [1], "datatype": "FP32", "data": [1.5]}
B = {"name": "b", "shape": [1], "datatype": "INT32", "data": [2]}


def times_three_plus_one(inputs: Arrays) -> dict[str, Array]:
    return {"y": inputs["x"] * 3 + 1}


def sum_and_words(inputs: Arrays) -> dict[str, Array]:
    total = inputs["a"] + inputs["b"]
    return {"sum": total.astype(np.float32), "words": np.array([b"%d" % number for number in total], object)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> FakeService:
    """A service with two models, for tests that change nothing."""
    service = FakeService(create_app(patient_settings(tmp_path_factory.mktemp("models"))))
    service.app.watcher.scan()
    service.add(LINEAR, times_three_plus_one, model="linear")
    service.add(PAIR, sum_and_words, model="pair")
    return service


def parts(response: Any) -> tuple[Any, bytes]:
    length = int(response.headers[HEAD_LENGTH])
    return orjson.loads(response.data[:length]), response.data[length:]


# Inference


@pytest.mark.parametrize("content_type", ["application/json", "", "text/plain", "image/png"])
def test_infer(models: FakeService, content_type: str) -> None:
    response = models.post("/v2/models/linear/infer", {"id": "42", "inputs": [X]}, content_type)
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.get_json() == {
        "id": "42",
        "model_name": "linear",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [31.0, 1.0]}],
    }


def test_binary_data(models: FakeService) -> None:
    head = {
        "inputs": [A, {"name": "b", "shape": [1], "datatype": "INT32", "parameters": {"binary_data_size": 4}}],
        "outputs": [{"name": "words", "parameters": {"binary_data": True}}, {"name": "sum"}],
    }
    text = orjson.dumps(head)
    headers = {HEAD_LENGTH: str(len(text))}
    response = models.post("/v2/models/pair/infer", text + b"\2\0\0\0", "application/octet-stream", headers)
    assert (response.status_code, response.content_type) == (200, "application/octet-stream")
    body, data = parts(response)
    assert body["outputs"] == [
        {"name": "words", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
        {"name": "sum", "datatype": "FP32", "shape": [1], "data": [3.5]},
    ]
    assert data == b"\1\0\0\x003"


def test_raw_body_gets_binary_outputs(models: FakeService) -> None:
    x = np.array([10, 0], np.float32).tobytes()
    body, data = parts(models.post("/v2/models/linear/infer", x, "application/octet-stream", {HEAD_LENGTH: "0"}))
    assert body["outputs"][0]["shape"] == [2]
    assert np.frombuffer(data, np.float32).tolist() == [31, 1]


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (None, ["sum", "words"]),
        ([], ["sum", "words"]),
        ([{"name": "words"}, {"name": "sum"}], ["words", "sum"]),
        ([{"name": "words"}], ["words"]),
    ],
)
def test_outputs(models: FakeService, outputs: object, names: list[str]) -> None:
    body = models.post("/v2/models/pair/infer", {"inputs": [B, A], "outputs": outputs}).get_json()
    assert [output["name"] for output in body["outputs"]] == names


@pytest.mark.parametrize(("place", "version"), [("", 2), ("/versions/1", 1), ("/versions/02", 2)])
def test_path_names_a_version(service: FakeService, place: str, version: int) -> None:
    for number in (1, 2):
        service.add(LINEAR, lambda _, number=number: {"y": np.array([number])}, version=number)  # type: ignore[misc]
    body = service.post(f"/v2/models/model{place}/infer", {"inputs": [X]}).get_json()
    assert (body["model_version"], body["outputs"][0]["data"]) == (str(version), [version])


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("nowhere/infer", {"inputs": [X]}, {}, 404, "no such model"),
        ("linear/versions/9/infer", {"inputs": [X]}, {}, 404, "linear has the versions 1"),
        ("linear/versions/one/infer", {"inputs": [X]}, {}, 400, "Failed to convert version: one to numeric"),
        ("linear/infer", b"", {}, 400, "the body is empty"),
        ("linear/infer", b"[" * 100_000, {}, 400, "the request's JSON"),
        ("linear/infer", bytes(7), {HEAD_LENGTH: "0"}, 400, "has 7 bytes of binary data"),
        ("linear/infer", {"inputs": [X]}, {HEAD_LENGTH: "-1"}, 400, f"{HEAD_LENGTH}: '-1'"),
        ("linear/infer", {"inputs": [X | {"shape": [2**4, 2**60 + 2]}]}, {}, 400, "expected 18446744073709551648"),
        ("linear/infer", {"inputs": []}, {}, 400, "missing input 'x'; expected 'x'"),
        ("linear/infer", {"inputs": [X | {"shape": [1, 2]}]}, {}, 400, "input 'x' has the shape [1, 2]; expected [-1]"),
        ("linear", b"{}", {}, 405, "takes GET"),
    ],
)
def test_infer_error(
    models: FakeService, path: str, body: object, headers: dict[str, str], status: int, words: str
) -> None:
    response = models.post(f"/v2/models/{path}", body, headers=headers)
    assert response.status_code == status
    assert words in error(response)


def test_requests_are_counted_by_status(service: FakeService) -> None:
    service.add(LINEAR)
    service.post("/v2/models/model/infer", {"inputs": [X]})
    service.post("/v2/models/model/infer", {"inputs": []})
    for status in (200, 400):
        labels = f'model="model",protocol="v2",status="{status}",verb="infer",version="1"'
        assert service.sample(f"serving_requests_total{{{labels}}}") == "1.0"


# Models


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("models/nowhere", 404),
        ("models/nowhere/config", 404),
        ("models/nowhere/stats", 404),
        ("models/nowhere/ready", 404),
        ("models/linear/versions/x", 400),
        ("models/linear/versions/x/ready", 400),
        ("models/linear/nothing", 404),
        ("models/linear/infer", 405),
        ("nothing", 404),
        ("repository/index", 405),
    ],
)
def test_get_error(models: FakeService, path: str, status: int) -> None:
    response = models.get(f"/v2/{path}")
    assert response.status_code == status
    assert error(response)


def test_get(models: FakeService) -> None:
    assert models.get("/v2").get_json()["extensions"][0] == "binary_tensor_data"
    assert models.get("/v2/models/linear").get_json()["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    assert models.get("/v2/models/linear/versions/1/config").get_json()["input"][0]["data_type"] == "TYPE_FP32"
    (stats,) = models.get("/v2/models/linear/versions/1/stats").get_json()["model_stats"]
    assert (stats["name"], stats["version"]) == ("linear", "1")


@pytest.mark.parametrize("place", ["", "/versions/1"])
def test_ready(models: FakeService, place: str) -> None:
    response = models.get(f"/v2/models/linear{place}/ready")
    assert (response.status_code, response.get_json()) == (200, {"name": "linear", "ready": True})


def test_model_that_is_not_available_is_not_ready(service: FakeService) -> None:
    service.registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    response = service.get("/v2/models/model/ready")
    assert response.status_code == 404
    assert "Latest(model)" in error(response)


def test_model_on_demand_is_ready_before_it_is_loaded(service: FakeService) -> None:
    service.registry.set_policies(Policies(default=ModelPolicy(load="on_demand")))
    service.registry.set_status("model", 1, VersionStatus(State.START))
    assert service.get("/v2/models/model/ready").get_json() == {"name": "model", "ready": True}


def test_ready_does_not_wait_for_the_first_scan(service: FakeService) -> None:
    service.registry.first_scan_done.clear()
    assert service.get("/v2/models/model/ready").status_code == 503


def test_several_signatures_without_a_default_are_400(service: FakeService) -> None:
    engine = FakeEngine({"predict_images": LINEAR, "predict_object": LINEAR}, echo)
    make_available(service.registry, LoadedVersion("model", 1, engine, ServingConfig()))
    responses = [service.get(f"/v2/models/model{place}") for place in ("", "/config", "/ready")]
    for response in [*responses, service.post("/v2/models/model/infer", {"inputs": [X]})]:
        assert response.status_code == 400
        assert error(response).startswith("model has several signatures")


def test_statistics_of_all_models_and_metadata_of_a_model_called_stats(service: FakeService) -> None:
    service.add(LINEAR, model="other")
    assert service.get("/v2/models/stats").get_json().keys() == {"model_stats"}
    service.add(PAIR, model="stats")
    body = service.get("/v2/models/stats").get_json()
    assert {stats["name"] for stats in body.pop("model_stats")} == {"other", "stats"}
    assert body == service.get("/v2/models/stats/versions/1").get_json()
    assert [stats["name"] for stats in service.get("/v2/models/stats/stats").get_json()["model_stats"]] == ["stats"]
    # Its metadata is left out where the protocol cannot serve it.
    engine = FakeEngine({"one": LINEAR, "two": LINEAR}, echo)
    make_available(service.registry, LoadedVersion("stats", 1, engine, ServingConfig()))
    assert service.get("/v2/models/stats").get_json().keys() == {"model_stats"}


# The repository


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"", ["a", "b"]),
        (b" \n", ["a", "b"]),
        (b"{}", ["a", "b"]),
        (b'\xef\xbb\xbf{"repository_name": "", "ready": false}', ["a", "b"]),
        (b'{"ready": true}', ["b"]),
    ],
)
def test_index(service: FakeService, body: bytes, names: list[str]) -> None:
    service.registry.set_status("a", 1, VersionStatus(State.LOADING))
    service.add(LINEAR, model="b")
    assert [entry["name"] for entry in service.post("/v2/repository/index", body).get_json()] == names


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b'"ready"', "{}".encode("utf-16")])
def test_index_error(models: FakeService, body: bytes) -> None:
    response = models.post("/v2/repository/index", body)
    assert response.status_code == 400
    assert ("expected UTF-8" if b"\0" in body else 'expected {"ready": true}') in error(response)


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_load_and_unload_are_off_by_default(models: FakeService, verb: str) -> None:
    response = models.post(f"/v2/repository/models/model/{verb}", b"")
    assert response.status_code == 403
    assert "SERVING_ADMIN=1 turns it on" in error(response)


def test_load_and_unload(make_service: MakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service(admin=True)
    calls: list[tuple[str, str]] = []
    for verb in ("load", "unload"):
        monkeypatch.setattr(service.app.watcher, verb, lambda model, verb=verb: calls.append((verb, model)))
        path = f"/v2/repository/models/a%20b/{verb}"
        for site in ("cross-site", "same-site"):
            response = service.post(path, b"", headers={"Sec-Fetch-Site": site})
            assert response.status_code == 403
            assert "another site" in error(response)
        assert calls == []
        for body, headers in ((b"", {}), (b'{"parameters": {}}', {"Sec-Fetch-Site": "same-origin"})):
            response = service.post(path, body, headers=headers)
            assert (response.status_code, response.get_json(), calls.pop()) == (200, {}, (verb, "a b"))
