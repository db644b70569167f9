from io import BytesIO
from urllib.parse import quote

import numpy as np
import pytest

from service.inference.version import State, VersionStatus
from service.lifecycle.policies import ModelPolicy, Policies
from tests.unit.service.api.models import LINEAR, VECTOR, add_models, b64, png
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import FakeService, any_shape, error, signature, tensor

TEXT = signature({"t": any_shape("DT_STRING")})
JSON = "application/json"


@pytest.mark.parametrize(
    ("verb", "body", "content"),
    [
        ("predict", {"instances": [10.0, 0]}, b'{"predictions":[31.0,1.0]}'),
        ("predict", {"inputs": {"x": [10.0, 0]}}, b'{"outputs":[31.0,1.0]}'),
        ("regress", {"examples": [{"x": 10}, {"x": 0}]}, b'{"results":[31.0,1.0]}'),
    ],
)
@pytest.mark.parametrize(("query", "content_type"), [("", JSON), ("?instances=1&signature_name=train", "text/plain")])
def test_prediction(
    models: FakeService, verb: str, body: object, content: bytes, query: str, content_type: str
) -> None:
    response = models.post(f"/v1/models/linear:{verb}{query}", body, content_type)
    assert (response.status_code, response.content_type, response.data) == (200, JSON, content)


ONE = {"instances": [1]}


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status", "words"),
    [
        ("nowhere:predict", ONE, JSON, 404, "Servable not found for request: Latest(nowhere)"),
        ("linear/versions/one:predict", ONE, JSON, 400, "Failed to convert version: one to numeric"),
        ("linear/labels/canary:predict", ONE, JSON, 400, "Unrecognized servable version label: canary"),
        ("linear:predict", {"signature_name": "train"}, JSON, 400, 'Serving signature key "train" not found'),
        ("linear:predict", {"instances": [[1]]}, JSON, 400, "input 'x' has the shape [1, 1]; expected [-1]"),
        ("linear:predict", {"examples": [{"x": 1}]}, JSON, 400, "Missing 'inputs' or 'instances' key"),
        ("linear:classify", {}, JSON, 400, "key 'examples' is expected and was not found"),
        ("pictures:regress", {"instances": [[[0] * 8] * 8]}, JSON, 400, "pictures cannot regress"),
        ("pictures:classify", png(size=(101, 100)), "image/png", 413, "101 x 100 is too large; at most 10000 pixels"),
        ("pictures:predict?signature_name=other", png(), "image/png", 400, 'Serving signature key "other" not found'),
        ("linear:predict", png(), "image/png", 400, "the model takes no pictures"),
        ("pictures:classify", {"instances": [b64(png()), b64(b"<svg/>")]}, JSON, 400, "instances[1] is not a picture"),
        *(
            (f"pictures:classify?top_k={top_k}", png(), "image/png", 400, "expected a whole number of at least 1")
            for top_k in ("0", "x")
        ),
    ],
)
def test_prediction_error(
    models: FakeService, path: str, body: object, content_type: str, status: int, words: str
) -> None:
    response = models.post(f"/v1/models/{path}", body, content_type)
    assert response.status_code == status
    assert words in error(response)


ODD = "latest!#$%&'()*+,;=?@[] ü"


@pytest.mark.parametrize(
    ("place", "version"), [("", 10), ("/versions/0002", 2), (f"/labels/{quote(ODD, safe='')}", 9), ("/labels/2", 9)]
)
def test_path_names_model_and_version_or_label(service: FakeService, place: str, version: int) -> None:
    for number in (2, 10, 9):
        answer = {"y": np.array([number])}
        service.add(LINEAR, lambda _, answer=answer: answer, model=ODD, version=number)  # type: ignore[misc]
    service.registry.set_policies(Policies(models={ODD: ModelPolicy(labels={ODD: 9, "2": 9})}))
    path = f"/v1/models/{quote(ODD, safe='')}{place}"
    assert service.post(f"{path}:predict", ONE).get_json() == {"predictions": [version]}
    statuses = service.get(path).get_json()["model_version_status"]
    assert [status["version"] for status in statuses] == ([str(version)] if place else ["10", "9", "2"])
    response = service.get(f"{path}/metadata")
    spec = response.get_json()["model_spec"]
    assert (response.content_type, spec["name"], spec["version"]) == (JSON, ODD, str(version))


def test_picture_is_decoded_like_its_json(models: FakeService) -> None:
    path, pixels = "/v1/models/pictures:predict", np.full((1, 8, 8), 50).tolist()
    predictions = models.post(path, {"instances": pixels}).get_json()["predictions"]
    assert models.post(path, {"instances": [b64(png(50))]}).get_json() == {"predictions": predictions}
    assert models.post(path, {"inputs": b64(png(50))}).get_json() == {"outputs": predictions}
    for name in ("", "serving_default"):
        response = models.post(f"{path}?signature_name={name}", png(50), "image/png")
        assert response.get_json() == {"predictions": predictions}


def test_base64_is_a_picture_or_bytes_as_the_signature_says(service: FakeService) -> None:
    of = signature({"pixels": tensor("DT_UINT8", -1, 4, 4, 3)}, {"mean": VECTOR})
    service.add(of, lambda inputs: {"mean": inputs["pixels"].mean(axis=(1, 2, 3))}, model="pictures")
    service.add(TEXT, lambda inputs: {"y": np.array([len(text) for text in inputs["t"]])}, model="texts")
    for model, data, prediction in (("pictures", png(7), 7.0), ("texts", b"abc", 3)):
        response = service.post(f"/v1/models/{model}:predict", {"instances": [b64(data)]})
        assert response.get_json() == {"predictions": [prediction]}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (png(255), "image/png"),
        ({"instances": np.full((1, 8, 8), 255).tolist()}, JSON),
        ({"examples": [{"pixels": b64(png(255, (30, 30)))}]}, JSON),
    ],
)
@pytest.mark.parametrize(("query", "count"), [("", 2), ("?top_k=1", 1), ("?top_k=0002", 2), ("?top_k=1000", 2)])
def test_classify(models: FakeService, body: object, content_type: str, query: str, count: int) -> None:
    response = models.post(f"/v1/models/pictures:classify{query}", body, content_type)
    assert response.get_json()["results"] == [[["bright", 1.0], ["dark", 0.0]][:count]]


def test_classify_files_of_a_form(models: FakeService) -> None:
    form = {"file": [(BytesIO(png(level)), "image.png") for level in (255, 0)], "comment": "x"}
    results = models.post_form("/v1/models/pictures:classify?top_k=1", form).get_json()["results"]
    assert results == [[["bright", 1.0]], [["dark", 1.0]]]
    form = {"file": [(BytesIO(png()), "a.png"), (BytesIO(b"no picture"), "b.png")]}
    response = models.post_form("/v1/models/pictures:classify", form)
    assert response.status_code == 400
    assert error(response).startswith("file 2 (b.png) is not a picture")


def test_files_of_a_form_need_memory_one_after_the_other(make_service: MakeService) -> None:
    service = make_service(max_decoding_bytes=1)
    add_models(service)
    form = {"file": [(BytesIO(png(level, (400, 300))), "image.png") for level in (255, 0)]}
    results = service.post_form("/v1/models/pictures:classify?top_k=1", form).get_json()["results"]
    assert results == [[["bright", 1.0]], [["dark", 1.0]]]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("linear/versions/7", 404, "Could not find version 7 of model linear"),
        ("linear/labels/stable", 400, "Unrecognized servable version label: stable"),
        ("linear/versions/7/metadata", 404, "Servable not found for request: Specific(linear, 7)"),
        ("linear/labels/stable/metadata", 400, "Unrecognized servable version label: stable"),
        ("linear:predict", 405, "Malformed request: GET /v1/models/linear:predict: "),
        ("linear/nonsense", 400, "Malformed request: GET"),
    ],
)
def test_get_error(models: FakeService, path: str, status: int, words: str) -> None:
    response = models.get(f"/v1/models/{path}")
    assert response.status_code == status
    assert words in error(response)


def test_models(service: FakeService) -> None:
    assert service.get("/v1/models").get_json() == {"models": []}
    service.add(LINEAR, model="b")
    service.registry.set_status("a", 1, VersionStatus(State.LOADING))
    assert service.get("/v1/models").get_json() == {"models": ["a", "b"]}


def test_requests_are_counted_by_model_version_verb_and_status(service: FakeService) -> None:
    service.add(LINEAR)
    for body in (ONE, ONE, {}):
        service.post("/v1/models/model:predict", body)
    service.get("/v1/models/model/metadata")
    series = 'serving_requests_total{{model="model",protocol="v1",status="{}",verb="{}",version="1"}}'
    for status, verb, count in ((200, "predict", "2.0"), (400, "predict", "1.0"), (200, "metadata", "1.0")):
        assert service.sample(series.format(status, verb)) == count
    seconds = 'serving_request_duration_seconds_count{model="model",protocol="v1",verb="predict",version="1"}'
    assert service.sample(seconds) == "3.0"


def test_unknown_names_make_no_series(service: FakeService) -> None:
    service.add(LINEAR)
    for number in range(5):
        service.post(f"/v1/models/nowhere{number}:predict", ONE)
        service.post(f"/v1/models/model/versions/{number + 5}:predict", ONE)
        service.post(f"/v1/models/model:verb{number}", ONE)
    lines = [line for line in service.get("/metrics").text.splitlines() if line.startswith("serving_requests_total{")]
    assert lines == ['serving_requests_total{model="",protocol="v1",status="404",verb="predict",version=""} 10.0']
