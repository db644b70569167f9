import json
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from service.inference.version import State, VersionStatus
from service.serving_config import Sample
from tests.unit.service.api.models import BRIGHTNESS, LINEAR, PICTURES, brightness, png
from tests.unit.service.fakes import FakeService, error

VERSION = "/playground/models/model/versions/1"
CONFIG = msgspec.structs.replace(BRIGHTNESS, samples=(Sample(file="samples/01.png", expected="dark"),))
GREY = png(200, (16, 16))


@pytest.fixture
def on_disk(service: FakeService, tmp_path: Path) -> FakeService:
    """A service with one version and its folder."""
    service.add(PICTURES, brightness, CONFIG)
    assets = tmp_path / "model" / "1" / "assets.extra"
    assets.mkdir(parents=True)
    (assets / "metrics.json").write_text('{"accuracy": 0.9, "test_examples": 20}')
    (assets / "README.md").write_text("# A model")
    return service


def test_models(on_disk: FakeService, tmp_path: Path) -> None:
    assets = tmp_path / "model" / "2" / "assets.extra"
    assets.mkdir(parents=True)
    (assets / "metrics.json").write_text('{"accuracy": 94.8, "loss": 0.25}')
    (assets / "sample.png").write_bytes(b"png")
    for number in (2, 3):
        on_disk.registry.set_status("model", number, VersionStatus(State.END, "damaged"))
    (model,) = on_disk.get("/playground/models").get_json()["models"]
    assert (model["name"], model["default"], model["labels"]) == ("model", 1, {})
    names = ("version", "state", "error", "accuracy", "test_examples", "loss", "bytes", "thumbnail")
    assert [[version[name] for name in names] for version in model["versions"]] == [
        [3, "END", "damaged", None, None, None, None, None],  # it is not on disk
        [2, "END", "damaged", None, None, 0.25, 35, "sample.png"],  # an accuracy is a share
        [1, "AVAILABLE", "", 0.9, 20, None, 47, None],
    ]


def test_version(on_disk: FakeService) -> None:
    body = on_disk.get(VERSION).get_json()
    assert (body["name"], body["version"], body["engine"]) == ("model", 1, "fake")
    assert body["signatures"]["serving_default"]["inputs"] == {"pixels": {"datatype": "FP32", "shape": [-1, 8, 8]}}
    assert (body["labels"], body["label_output"]) == (["dark", "bright"], "scores")
    assert body["image"] == {"height": 8, "width": 8, "mode": "L"}
    assert body["samples"] == [{"file": "samples/01.png", "expected": "dark"}]
    assert body["metrics"] == {"accuracy": 0.9, "test_examples": 20}
    assert (body["accuracy"], body["test_examples"], body["outlier_doubt"]) == (0.9, 20, None)
    assert [file["name"] for file in body["files"]] == ["README.md", "metrics.json"]
    response = on_disk.get(VERSION + "/files/README.md")
    assert (response.status_code, response.mimetype, response.data) == (200, "text/plain", b"# A model")


@pytest.mark.parametrize(
    ("metrics", "doubt"),
    [
        ({"validation_examples": 53, "outliers_flagged": {"test": 0.0, "noise": 1.0}}, "few examples"),
        ({"validation_examples": 5000, "outliers_flagged": {"test": 1.0, "noise": 0.6, "inverted": 0.1}}, "flags few"),
        ({"validation_examples": 100, "outliers_flagged": {"test": 0.01, "noise": 0.9, "inverted": 0.2}}, None),
        ({"validation_examples": "many", "outliers_flagged": {"noise": "all"}}, None),
    ],
    ids=["few", "blind", "sound", "other metrics"],
)
def test_outlier_doubt(on_disk: FakeService, tmp_path: Path, metrics: object, doubt: str | None) -> None:
    (tmp_path / "model/1/assets.extra/metrics.json").write_text(json.dumps(metrics))
    assert on_disk.get(VERSION).get_json()["outlier_doubt"] == doubt


def test_version_without_pictures_and_files(service: FakeService, tmp_path: Path) -> None:
    service.add(LINEAR)
    response = service.get(VERSION)
    assert (response.status_code, error(response)) == (404, "model version 1 is no longer on disk")
    (tmp_path / "model" / "1").mkdir(parents=True)
    body = service.get(VERSION).get_json()
    assert (body["image"], body["metrics"], body["samples"], body["twin"]) == (None, None, [], None)


@pytest.mark.parametrize(("path", "status"), [("7", 404), ("one", 400), ("1/files/..%2F..%2Fsecret.md", 404)])
def test_get_error(on_disk: FakeService, path: str, status: int) -> None:
    response = on_disk.get(f"/playground/models/model/versions/{path}")
    assert response.status_code == status
    assert error(response)


def test_seen_is_the_picture_as_the_model_gets_it(on_disk: FakeService) -> None:
    response = on_disk.post(VERSION + "/seen", GREY, "image/png")
    assert response.mimetype == "image/png"
    with Image.open(BytesIO(response.data)) as seen:
        assert (seen.size, seen.mode, seen.getpixel((3, 3))) == ((8, 8), "L", 200)


def test_occlusion(on_disk: FakeService) -> None:
    body = on_disk.post(VERSION + "/occlusion?label=bright", GREY, "image/png").get_json()
    assert body["label"] == "bright"
    assert body["score"] == pytest.approx(200 / 255)
    assert np.shape(body["drops"]) == (20, 20)


@pytest.mark.parametrize("verb", ["seen", "occlusion"])
def test_one_picture_is_expected(on_disk: FakeService, verb: str) -> None:
    path, form = f"{VERSION}/{verb}", {name: (BytesIO(GREY), name) for name in ("a", "b")}
    for response, count in ((on_disk.post_form(path, form), 2), (on_disk.post(path, {"instances": [1]}), 0)):
        assert response.status_code == 400
        assert f"{count} pictures; expected one, as the body or as the only file of a form" in error(response)


@pytest.mark.parametrize("verb", ["predict", "classify"])
def test_prediction_is_that_of_v1(on_disk: FakeService, verb: str) -> None:
    for body, content_type, status in ((GREY, "image/png", 200), ({"instances": [1]}, "", 400)):
        tried = on_disk.post(f"{VERSION}/{verb}", body, content_type)
        predicted = on_disk.post(f"/v1/models/model/versions/1:{verb}", body, content_type)
        assert (tried.status_code, tried.get_json()) == (status, predicted.get_json())


def test_predictions_are_counted_apart(on_disk: FakeService) -> None:
    on_disk.post(f"{VERSION}/classify", GREY, "image/png")
    on_disk.post(f"{VERSION}/predict", {"instances": np.zeros((3, 8, 8)).tolist()})
    on_disk.post(f"{VERSION}/occlusion", GREY, "image/png")
    counted = [
        line
        for line in on_disk.get("/metrics").text.splitlines()
        if 'model="model"' in line and not line.endswith(" 0.0") and not line.startswith("serving_model_")
    ]
    assert counted == ['serving_playground_runs_total{model="model",version="1"} 3.0']
