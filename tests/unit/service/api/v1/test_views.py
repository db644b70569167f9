import base64
from io import BytesIO
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from service import create_app
from service.errors import InvalidRequest
from service.inference.version import State, VersionStatus
from service.lifecycle.policies import ModelPolicy, Policies
from service.serving_config import ImageSpec, ServingConfig
from service.tensors.dtypes import Array
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import (
    Arrays,
    FakeService,
    any_shape,
    error,
    patient_settings,
    signature,
    tensor,
)

VECTOR = tensor("DT_FLOAT", -1)
LINEAR = signature({"x": VECTOR}, {"y": VECTOR})
PICTURES = signature({"pixels": tensor("DT_FLOAT", -1, 8, 8)}, {"scores": tensor("DT_FLOAT", -1, 3)})
CLOTHING = ServingConfig(labels=("dark", "grey", "bright"), image=ImageSpec(height=8, width=8, mode="L"))
TEXT = signature({"t": any_shape("DT_STRING")})
JSON = "application/json"


def times_three_plus_one(inputs: Arrays) -> dict[str, Array]:
    return {"y": inputs["x"] * 3 + 1}


def by_brightness(inputs: Arrays) -> dict[str, Array]:
    """How near the mean is to 0, 128 and 255."""
    means = inputs["pixels"].mean(axis=(1, 2))
    return {"scores": (1 - np.abs(means[:, None] - [0, 128, 255]) / 255).astype(np.float32)}


def png(level: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    out = BytesIO()
    Image.new("L", size, level).save(out, "PNG")
    return out.getvalue()


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> FakeService:
    """A service with two models, for tests that change nothing."""
    service = FakeService(create_app(patient_settings(tmp_path_factory.mktemp("models"), max_image_pixels=10_000)))
    service.app.watcher.scan()
    service.add(LINEAR, times_three_plus_one, model="linear")
    service.add(PICTURES, by_brightness, CLOTHING, model="pictures")
    return service


def labels(response: Any) -> list[list[str]]:
    return [[label for label, _ in row] for row in response.get_json()["results"]]


# Predictions


@pytest.mark.parametrize(
    ("verb", "body", "content"),
    [
        ("predict", {"instances": [10.0, 0]}, b'{"predictions":[31.0,1.0]}'),
        ("predict", {"inputs": {"x": [10.0, 0]}}, b'{"outputs":[31.0,1.0]}'),
        ("predict", {"signature_name": "serving_default", "instances": [1]}, b'{"predictions":[4.0]}'),
        ("regress", {"examples": [{"x": 10}, {"x": 0}]}, b'{"results":[31.0,1.0]}'),
    ],
)
def test_prediction(models: FakeService, verb: str, body: object, content: bytes) -> None:
    response = models.post(f"/v1/models/linear:{verb}", body)
    assert (response.status_code, response.content_type, response.data) == (200, JSON, content)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", JSON])
@pytest.mark.parametrize("query", ["", "?", "?instances=1&signature_name=train"])
def test_json_needs_neither_content_type_nor_query(models: FakeService, content_type: str, query: str) -> None:
    response = models.post(f"/v1/models/linear:predict{query}", {"instances": [10.0]}, content_type)
    assert response.get_json() == {"predictions": [31.0]}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("nowhere:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nowhere)"),
        ("nowhere:classify", {"instances": [1]}, 404, "Servable not found for request: Latest(nowhere)"),
        ("nowhere:regress", {"instances": [1]}, 404, "Servable not found for request: Latest(nowhere)"),
        ("linear/versions/9:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(linear, 9)"),
        ("linear/versions/one:predict", {"instances": [1]}, 400, "Failed to convert version: one to numeric"),
        ("linear/labels/canary:predict", {"instances": [1]}, 400, "Unrecognized servable version label: canary"),
        ("nowhere/labels/canary:predict", {"instances": [1]}, 404, "no such model"),
        ("linear:predict", b"{", 400, "JSON Parse error"),
        ("linear:predict", {"instances": ["10"]}, 400, "instances[0] is the string '10'"),
        ("linear:predict", {"instances": [[1]]}, 400, "input 'x' has the shape [1, 1]; expected [-1]"),
        (
            "linear:predict",
            {"signature_name": "train", "instances": [1]},
            400,
            'Serving signature key "train" not found',
        ),
        ("linear:predict", {"signature_name": 'a "key"\\\n'}, 400, "Serving signature key"),
        ("linear:predict", {"examples": [{"x": 1}]}, 400, "Missing 'inputs' or 'instances' key"),
        ("linear:classify", {}, 400, "key 'examples' is expected and was not found"),
        ("linear:regress", {}, 400, "key 'examples' is expected and was not found"),
        ("linear:classify", {"instances": [1]}, 400, "linear cannot classify"),
        ("pictures:regress", {"instances": [[[0] * 8] * 8]}, 400, "pictures cannot regress"),
        ("pictures:classify", png(), 400, "the body is a picture; say so with Content-Type: image/png"),
    ],
)
def test_prediction_error(models: FakeService, path: str, body: object, status: int, words: str) -> None:
    response = models.post(f"/v1/models/{path}", body)
    assert response.status_code == status
    assert words in error(response)


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (InvalidRequest("the model refuses this input"), 400, "the model refuses this input"),
        (RuntimeError("secret of the engine"), 500, "internal error; the service's log has the details"),
    ],
)
def test_error_of_the_engine(service: FakeService, raised: Exception, status: int, message: str) -> None:
    def fail(_: Arrays) -> dict[str, Array]:
        raise raised

    service.add(LINEAR, fail)
    response = service.post("/v1/models/model:predict", {"instances": [7]})
    assert (response.status_code, error(response)) == (status, message)


def test_longest_body(make_service: MakeService) -> None:
    service = make_service(max_body_bytes=100)
    service.add(LINEAR)
    body = b'{"instances": [10.0]}'.ljust(100)
    assert service.post("/v1/models/model:predict", body).status_code == 200
    response = service.post("/v1/models/model:predict", body + b" ")
    assert response.status_code == 413
    assert error(response).endswith("is too long: at most 100 bytes are taken (SERVING_MAX_BODY_BYTES)")
    assert service.sample('serving_rejected_total{reason="too_large"}') == "1.0"


@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
def test_path_names_a_version_or_a_label(service: FakeService, verb: str) -> None:
    for number in (2, 10, 9):
        service.add(TEXT, lambda _, number=number: {"scores": np.array([[number]])}, version=number)  # type: ignore[misc]
    odd = "latest!#$%&'()*+,;=?@[] ü"
    service.registry.set_policies(Policies(models={"model": ModelPolicy(labels={"canary": 9, odd: 9, "2": 9})}))
    body = {"instances": ["a"]} if verb == "predict" else {"examples": [{"a": 1}]}
    for place, version in (
        ("", 10),
        ("/versions/2", 2),
        ("/versions/0002", 2),
        (f"/versions/{'0' * 5_000}2", 2),
        ("/labels/canary", 9),
        (f"/labels/{quote(odd, safe='')}", 9),
        ("/labels/2", 9),
    ):
        response = service.post(f"/v1/models/model{place}:{verb}", body)
        assert response.status_code == 200, place
        assert str(version) in response.text


@pytest.mark.parametrize("name", ["my model", "a.b-c_d", "name!#$%&'()*+,;=?@[] ü"])
def test_model_of_any_name(service: FakeService, name: str) -> None:
    service.add(LINEAR, times_three_plus_one, model=name)
    path = f"/v1/models/{quote(name, safe='')}"
    assert service.post(f"{path}/versions/1:predict", {"instances": [10]}).get_json() == {"predictions": [31.0]}
    assert service.get(path).status_code == 200
    assert service.get(f"{path}/metadata").get_json()["model_spec"]["name"] == name


# Pictures


def test_picture_is_decoded_like_its_json(models: FakeService) -> None:
    path, pixels = "/v1/models/pictures:predict", np.full((1, 8, 8), 50).tolist()
    predictions = models.post(path, {"instances": pixels}).get_json()["predictions"]
    assert models.post(path, png(50), "image/png").get_json() == {"predictions": predictions}
    assert models.post(path, {"instances": [b64(png(50))]}).get_json() == {"predictions": predictions}
    assert models.post(path, {"inputs": b64(png(50))}).get_json() == {"outputs": predictions}
    for name in ("", "serving_default"):
        assert models.post(f"{path}?signature_name={name}", png(50), "image/png").status_code == 200


def test_base64_needs_no_serving_json_where_the_shape_says_enough(service: FakeService) -> None:
    of = signature({"pixels": tensor("DT_UINT8", -1, 4, 4, 3)}, {"mean": VECTOR})
    service.add(of, lambda inputs: {"mean": inputs["pixels"].mean(axis=(1, 2, 3))})
    assert service.post("/v1/models/model:predict", {"instances": [b64(png(7))]}).get_json() == {"predictions": [7.0]}


def test_base64_stays_bytes_to_a_model_of_strings(service: FakeService) -> None:
    service.add(TEXT, lambda inputs: {"y": np.array([len(text) for text in inputs["t"]])})
    assert service.post("/v1/models/model:predict", {"instances": [b64(b"abc")]}).get_json() == {"predictions": [3]}


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status", "words"),
    [
        ("pictures:classify", b"", "image/png", 400, "the body is not a picture; expected PNG, JPEG, WebP"),
        ("pictures:classify", png(size=(90, 90))[:60], "image/png", 400, "the PNG picture is truncated or damaged"),
        ("pictures:classify", png(size=(101, 100)), "image/png", 413, "101 x 100 is too large; at most 10000 pixels"),
        ("linear:predict", png(), "image/png", 400, "the model takes no pictures"),
        ("pictures:predict?signature_name=other", png(), "image/png", 400, 'Serving signature key "other" not found'),
        ("pictures:classify", png(), "multipart/form-data", 400, "no boundary"),
        ("pictures:classify", {"instances": [b64(png()), b64(b"<svg/>")]}, JSON, 400, "instances[1] is not a picture"),
        ("pictures:predict", {"inputs": b64(png(size=(101, 100)))}, JSON, 413, "101 x 100 is too large"),
    ],
)
def test_picture_error(
    models: FakeService, path: str, body: object, content_type: str, status: int, words: str
) -> None:
    response = models.post(f"/v1/models/{path}", body, content_type)
    assert response.status_code == status
    assert words in error(response)


def test_wrong_file_of_a_form_is_named(models: FakeService) -> None:
    form = {"file": [(BytesIO(png()), "a.png"), (BytesIO(b"no picture"), "b.png")]}
    response = models.post_form("/v1/models/pictures:classify", form)
    assert response.status_code == 400
    assert error(response).startswith("file 2 (b.png) is not a picture")


# Classification


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (png(255), "image/png"),
        ({"instances": np.full((1, 8, 8), 255).tolist()}, JSON),
        ({"examples": [{"pixels": b64(png(255, (30, 30)))}]}, JSON),
    ],
)
def test_classify(models: FakeService, body: object, content_type: str) -> None:
    response = models.post("/v1/models/pictures:classify", body, content_type)
    assert response.status_code == 200
    assert labels(response) == [["bright", "grey", "dark"]]
    assert response.get_json()["results"][0][0] == ["bright", 1.0]


def test_classify_files_of_a_form(models: FakeService) -> None:
    form = {"file": [(BytesIO(png(level)), "image.png") for level in (255, 0, 128)], "comment": "x"}
    response = models.post_form("/v1/models/pictures:classify?top_k=1", form)
    assert labels(response) == [["bright"], ["dark"], ["grey"]]


def test_files_of_a_form_need_memory_one_after_the_other(make_service: MakeService) -> None:
    service = make_service(max_decoding_bytes=1)
    service.add(PICTURES, by_brightness, CLOTHING, model="pictures")
    form = {"file": [(BytesIO(png(level, (400, 300))), "image.png") for level in (255, 0)]}
    assert labels(service.post_form("/v1/models/pictures:classify?top_k=1", form)) == [["bright"], ["dark"]]


@pytest.mark.parametrize(("top_k", "count"), [("1", 1), ("2", 2), ("1000", 3), ("0002", 2)])
def test_top_k(models: FakeService, top_k: str, count: int) -> None:
    response = models.post(f"/v1/models/pictures:classify?top_k={top_k}", png(), "image/png")
    assert len(response.get_json()["results"][0]) == count


@pytest.mark.parametrize("top_k", ["0", "-1", "", "x", "1.5", "٣", "+1", " 1", "9" * 5000])
def test_invalid_top_k_is_400(models: FakeService, top_k: str) -> None:
    response = models.post(f"/v1/models/pictures:classify?top_k={top_k}", png(), "image/png")
    assert response.status_code == 400
    assert "expected a whole number of at least 1" in error(response)


def test_classes_and_scores_of_the_model(service: FakeService) -> None:
    outputs = {"classes": np.array([[b"a", b"b"]], object), "scores": np.array([[0.25, 0.75]], np.float32)}
    service.add(
        signature({"t": any_shape("DT_STRING")}, dict.fromkeys(outputs, any_shape("DT_STRING"))), lambda _: outputs
    )
    response = service.post("/v1/models/model:classify", {"examples": [{"age": 1}]})
    assert response.get_json() == {"results": [[["a", 0.25], ["b", 0.75]]]}


# Status, metadata, metrics


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("nowhere", 404, "Could not find any versions of model nowhere"),
        ("linear/versions/7", 404, "Could not find version 7 of model linear"),
        ("linear/versions/x", 400, "Failed to convert version: x to numeric"),
        ("linear/labels/stable", 400, "Unrecognized servable version label: stable"),
        ("nowhere/metadata", 404, "Servable not found for request: Latest(nowhere)"),
        ("linear/versions/7/metadata", 404, "Servable not found for request: Specific(linear, 7)"),
        ("linear/versions/x/metadata", 400, "Failed to convert version: x to numeric"),
        ("linear/labels/stable/metadata", 400, "Unrecognized servable version label: stable"),
        ("linear:predict", 405, "Malformed request: GET /v1/models/linear:predict: "),
        ("linear/nonsense", 400, "Malformed request: GET"),
    ],
)
def test_get_error(models: FakeService, path: str, status: int, words: str) -> None:
    response = models.get(f"/v1/models/{path}")
    assert response.status_code == status
    assert words in error(response)


@pytest.mark.parametrize(("place", "version"), [("", 3), ("/versions/1", 1), ("/labels/canary", 2)])
def test_status_and_metadata(service: FakeService, place: str, version: int) -> None:
    for number in (1, 2, 3):
        service.add(LINEAR, version=number)
    service.registry.set_policies(Policies(models={"model": ModelPolicy(labels={"canary": 2})}))
    statuses = service.get(f"/v1/models/model{place}").get_json()["model_version_status"]
    assert [status["version"] for status in statuses] == ([str(version)] if place else ["3", "2", "1"])
    response = service.get(f"/v1/models/model{place}/metadata")
    assert (response.content_type, response.get_json()["model_spec"]["version"]) == (JSON, str(version))


def test_models(service: FakeService) -> None:
    assert service.get("/v1/models").get_json() == {"models": []}
    service.add(LINEAR, model="b")
    service.registry.set_status("a", 1, VersionStatus(State.LOADING))
    assert service.get("/v1/models").get_json() == {"models": ["a", "b"]}


def test_requests_are_counted_by_model_version_verb_and_status(service: FakeService) -> None:
    service.add(LINEAR)
    for body in ({"instances": [1]}, {"instances": [1]}, {}):
        service.post("/v1/models/model:predict", body)
    service.get("/v1/models/model/metadata")
    series = 'serving_requests_total{{model="model",protocol="v1",status="{}",verb="{}",version="1"}}'
    assert service.sample(series.format(200, "predict")) == "2.0"
    assert service.sample(series.format(400, "predict")) == "1.0"
    assert service.sample(series.format(200, "metadata")) == "1.0"
    seconds = 'serving_request_duration_seconds_count{model="model",protocol="v1",verb="predict",version="1"}'
    assert service.sample(seconds) == "3.0"


def test_unknown_names_make_no_series(service: FakeService) -> None:
    service.add(LINEAR)
    for number in range(5):
        service.post(f"/v1/models/nowhere{number}:predict", {"instances": [1]})
        service.post(f"/v1/models/model/versions/{number + 5}:predict", {"instances": [1]})
        service.post(f"/v1/models/model:verb{number}", {"instances": [1]})
    lines = [line for line in service.get("/metrics").text.splitlines() if line.startswith("serving_requests_total{")]
    assert lines == ['serving_requests_total{model="",protocol="v1",status="404",verb="predict",version=""} 10.0']
