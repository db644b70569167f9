import numpy as np
import orjson
import pytest

from service.api.v2.decode import HEAD_LENGTH
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import ModelPolicy, Policies
from service.serving_config import ServingConfig
from tests.unit.service.api.models import LINEAR, VECTOR
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import FakeEngine, FakeService, echo, error, make_available, signature

PAIR = signature({"a": VECTOR, "b": VECTOR}, {"sum": VECTOR, "product": VECTOR})
X = {"name": "x", "shape": [2], "datatype": "FP32", "data": [10, 0]}
A = {"name": "a", "shape": [1], "datatype": "FP32", "data": [1.5]}
BINARY_B = {"name": "b", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}


@pytest.mark.parametrize("content_type", ["application/json", "image/png"])
def test_infer(models: FakeService, content_type: str) -> None:
    response = models.post("/v2/models/linear/infer", {"id": "42", "inputs": [X]}, content_type)
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.get_json() == {
        "id": "42",
        "model_name": "linear",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [31.0, 1.0]}],
    }


def test_binary_data_and_outputs_in_the_order_of_the_request(service: FakeService) -> None:
    service.add(PAIR, lambda inputs: {"sum": inputs["a"] + inputs["b"], "product": inputs["a"] * inputs["b"]})
    outputs = [{"name": "product", "parameters": {"binary_data": True}}, {"name": "sum"}]
    text = orjson.dumps({"inputs": [A, BINARY_B], "outputs": outputs})
    headers = {HEAD_LENGTH: str(len(text))}
    response = service.post("/v2/models/model/infer", text + np.float32(2).tobytes(), headers=headers)
    assert (response.status_code, response.content_type) == (200, "application/octet-stream")
    length = int(response.headers[HEAD_LENGTH])
    assert orjson.loads(response.data[:length])["outputs"] == [
        {"name": "product", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
        {"name": "sum", "datatype": "FP32", "shape": [1], "data": [3.5]},
    ]
    assert response.data[length:] == np.float32(3).tobytes()


def test_raw_body_gets_binary_outputs(models: FakeService) -> None:
    x = np.array([10, 0], np.float32).tobytes()
    response = models.post("/v2/models/linear/infer", x, "application/octet-stream", {HEAD_LENGTH: "0"})
    assert response.data.endswith(np.array([31, 1], np.float32).tobytes())


@pytest.mark.parametrize(("place", "version"), [("", 2), ("/versions/1", 1), ("/versions/02", 2)])
def test_path_names_a_version(service: FakeService, place: str, version: int) -> None:
    for number in (1, 2):
        service.add(LINEAR, lambda _, number=number: {"y": np.array([number])}, version=number)  # type: ignore[misc]
    body = service.post(f"/v2/models/model{place}/infer", {"inputs": [X]}).get_json()
    assert (body["model_version"], body["outputs"][0]["data"]) == (str(version), [version])
    assert service.get(f"/v2/models/model{place}/ready").get_json() == {"name": "model", "ready": True}
    (stats,) = service.get(f"/v2/models/model/versions/{version}/stats").get_json()["model_stats"]
    assert (stats["version"], stats["inference_count"]) == (str(version), 2)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("nowhere/infer", {"inputs": [X]}, {}, 404, "no such model"),
        ("linear/versions/one/infer", {"inputs": [X]}, {}, 400, "Failed to convert version: one to numeric"),
        ("linear/infer", {"inputs": [X]}, {HEAD_LENGTH: "-1"}, 400, f"{HEAD_LENGTH}: '-1'"),
        ("linear/infer", {"inputs": []}, {}, 400, "missing input 'x'; expected 'x'"),
        ("linear", b"{}", {}, 405, "takes GET"),
    ],
)
def test_infer_error(
    models: FakeService, path: str, body: object, headers: dict[str, str], status: int, words: str
) -> None:
    response = models.post(f"/v2/models/{path}", body, headers=headers)
    assert response.status_code == status
    assert words in error(response)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *((f"models/nowhere{verb}", 404) for verb in ("", "/config", "/stats", "/ready")),
        *((f"models/linear/versions/x{verb}", 400) for verb in ("", "/ready")),
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


def test_model_that_is_not_available_is_ready_only_if_it_is_loaded_on_demand(service: FakeService) -> None:
    service.registry.set_status("model", 1, VersionStatus(State.START))
    assert service.get("/v2/models/model/ready").status_code == 404
    service.registry.set_policies(Policies(default=ModelPolicy(load="on_demand")))
    assert service.get("/v2/models/model/ready").get_json() == {"name": "model", "ready": True}
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


def test_index(service: FakeService) -> None:
    service.registry.set_status("a", 1, VersionStatus(State.LOADING))
    service.add(LINEAR, model="b")
    bodies = (b" \n", b"{}", b'\xef\xbb\xbf{"repository_name": "", "ready": false}', b'{"ready": true}')
    answers = [service.post("/v2/repository/index", body).get_json() for body in bodies]
    assert [[entry["name"] for entry in answer] for answer in answers] == [["a", "b"]] * 3 + [["b"]]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', "{}".encode("utf-16")])
def test_index_error(models: FakeService, body: bytes) -> None:
    response = models.post("/v2/repository/index", body)
    assert response.status_code == 400
    assert ("expected UTF-8" if b"\0" in body else 'expected {"ready": true}') in error(response)


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_load_and_unload(make_service: MakeService, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    service = make_service(admin=True)
    calls: list[str] = []
    monkeypatch.setattr(service.app.watcher, verb, calls.append)
    path = f"/v2/repository/models/a%20b/{verb}"
    for off, headers, words in (
        (make_service(), {}, "SERVING_ADMIN=1 turns it on"),
        (service, {"Sec-Fetch-Site": "cross-site"}, "another site"),
        (service, {"Sec-Fetch-Site": "same-site"}, "another site"),
    ):
        response = off.post(path, b"", headers=headers)
        assert response.status_code == 403
        assert words in error(response)
    assert calls == []
    for body, headers in ((b"", {}), (b'{"parameters": {}}', {"Sec-Fetch-Site": "same-origin"})):
        response = service.post(path, body, headers=headers)
        assert (response.status_code, response.get_json(), calls.pop()) == (200, {}, "a b")
