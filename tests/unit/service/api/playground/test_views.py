"""What the page asks beyond the protocols."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.inference.version import State, VersionStatus
from service.serving_config import ImageSpec, Sample, ServingConfig
from service.tensors.dtypes import Array
from tests.unit.service.fakes import Arrays, FakeService, error, signature, tensor

VERSION = "/playground/models/model/versions/1"
PICTURES = signature({"pixels": tensor("DT_FLOAT", -1, 8, 8)}, {"scores": tensor("DT_FLOAT", -1, 2)})
CONFIG = ServingConfig(
    labels=("dark", "bright"),
    image=ImageSpec(height=8, width=8, mode="L"),
    samples=(Sample(file="samples/01.png", expected="dark"),),
)


def brightness(inputs: Arrays) -> dict[str, Array]:
    score = inputs["pixels"].mean(axis=(1, 2)) / 255
    return {"scores": np.stack([1 - score, score], axis=1).astype(np.float32)}


def picture(shade: int = 200, size: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (size, size), shade).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def on_disk(service: FakeService, tmp_path: Path) -> FakeService:
    """One version that is loaded, with its folder."""
    service.add(PICTURES, brightness, CONFIG)
    assets = tmp_path / "model" / "1" / "assets.extra"
    assets.mkdir(parents=True)
    (assets / "metrics.json").write_text('{"accuracy": 0.9}')
    (assets / "README.md").write_text("# A model")
    return service


def test_the_list_has_every_model_with_its_versions_in_whatever_state(on_disk: FakeService) -> None:
    on_disk.registry.set_status("model", 2, VersionStatus(State.END, "damaged"))
    (model,) = on_disk.get("/playground/models").get_json()["models"]
    assert (model["name"], model["default"], model["labels"]) == ("model", 1, {})
    assert [(one["version"], one["state"], one["error"]) for one in model["versions"]] == [
        (2, "END", "damaged"),
        (1, "AVAILABLE", ""),
    ]


def test_the_list_has_what_the_files_of_each_version_say(on_disk: FakeService, tmp_path: Path) -> None:
    assets = tmp_path / "model" / "2" / "assets.extra"
    assets.mkdir(parents=True)
    (assets / "metrics.json").write_text('{"accuracy": 94.8, "loss": 0.25}')
    (assets / "sample.png").write_bytes(b"png")
    for version in (2, 3):
        on_disk.registry.set_status("model", version, VersionStatus(State.END, "damaged"))
    (model,) = on_disk.get("/playground/models").get_json()["models"]
    names = ("accuracy", "loss", "bytes", "thumbnail")
    assert [[one[name] for name in names] for one in model["versions"]] == [
        [None, None, None, None],  # it is not on disk
        [None, 0.25, 35, "sample.png"],  # an accuracy is a share
        [0.9, None, 26, None],
    ]


def test_a_version_tells_what_a_panel_needs(on_disk: FakeService) -> None:
    told = on_disk.get(VERSION).get_json()
    assert (told["name"], told["version"], told["engine"]) == ("model", 1, "fake")
    assert told["signatures"]["serving_default"]["inputs"] == {"pixels": {"datatype": "FP32", "shape": [-1, 8, 8]}}
    assert (told["labels"], told["label_output"]) == (["dark", "bright"], "scores")
    assert told["image"] == {"height": 8, "width": 8, "mode": "L"}
    assert told["samples"] == [{"file": "samples/01.png", "expected": "dark"}]
    assert told["metrics"] == {"accuracy": 0.9}
    assert [file["name"] for file in told["files"]] == ["README.md", "metrics.json"]


def test_a_model_that_takes_no_pictures_says_so(service: FakeService, tmp_path: Path) -> None:
    service.add(signature({"x": tensor("DT_FLOAT", -1)}))
    (tmp_path / "model" / "1").mkdir(parents=True)
    told = service.get(VERSION).get_json()
    assert (told["image"], told["metrics"], told["samples"], told["twin"]) == (None, None, [], None)


def test_a_file_beside_the_version_is_handed_out(on_disk: FakeService) -> None:
    answer = on_disk.get(VERSION + "/files/README.md")
    assert (answer.status_code, answer.mimetype, answer.data) == (200, "text/plain", b"# A model")
    missing = on_disk.get(VERSION + "/files/..%2F..%2Fsecret.md")
    assert missing.status_code == 404


def test_what_the_model_saw_is_a_picture_of_its_size(on_disk: FakeService) -> None:
    answer = on_disk.post(VERSION + "/seen", picture(), "image/png")
    assert answer.mimetype == "image/png"
    with Image.open(io.BytesIO(answer.data)) as seen:
        assert (seen.size, seen.mode, seen.getpixel((3, 3))) == ((8, 8), "L", 200)


def test_the_occlusion_map_has_a_drop_for_each_cell_and_counts_as_no_prediction(on_disk: FakeService) -> None:
    answer = on_disk.post(VERSION + "/occlusion?label=bright", picture(), "image/png").get_json()
    assert answer["label"] == "bright"
    assert answer["score"] == pytest.approx(200 / 255)
    assert np.shape(answer["drops"]) == (20, 20)
    assert on_disk.sample('serving_prediction_total{model="model",version="1",label="bright"}') is None


@pytest.mark.parametrize("road", ["/seen", "/occlusion"])
def test_one_picture_is_wanted_no_more_no_less(on_disk: FakeService, road: str) -> None:
    two = on_disk.post_form(VERSION + road, {"a": (io.BytesIO(picture()), "a"), "b": (io.BytesIO(picture()), "b")})
    assert (two.status_code, error(two)) == (
        400,
        "2 pictures; expected one, as the body or as the only file of a form",
    )
    none = on_disk.post(VERSION + road, {"instances": [1]})
    assert (none.status_code, error(none)[:10]) == (400, "0 pictures")
    damaged = on_disk.post(VERSION + road, b"GIF89a", "image/gif")
    assert (damaged.status_code, "damaged" in error(damaged)) == (400, True)


@pytest.mark.parametrize("path", ["/playground/models/model/versions/7", "/playground/models/other/versions/1"])
def test_what_is_not_served_is_not_found(on_disk: FakeService, path: str) -> None:
    assert on_disk.get(path).status_code == 404
    assert on_disk.get("/playground/models/model/versions/one").status_code == 400


def test_a_version_whose_folder_vanished_is_not_found(service: FakeService) -> None:
    service.add(PICTURES, brightness, CONFIG)
    answer = service.get(VERSION)
    assert (answer.status_code, error(answer)) == (404, "model version 1 is no longer on disk")


@pytest.mark.parametrize("verb", ["predict", "classify"])
def test_what_the_page_tries_is_answered_as_by_v1(on_disk: FakeService, verb: str) -> None:
    tried = on_disk.post(f"{VERSION}/{verb}", picture(), "image/png")
    asked = on_disk.post(f"/v1/models/model/versions/1:{verb}", picture(), "image/png")
    assert (tried.status_code, tried.get_json()) == (200, asked.get_json())


def test_what_the_page_tries_counts_as_nothing_but_that(on_disk: FakeService) -> None:
    on_disk.post(f"{VERSION}/classify", picture(), "image/png")
    on_disk.post(f"{VERSION}/predict", {"instances": np.zeros((3, 8, 8)).tolist()})
    on_disk.post(f"{VERSION}/occlusion", picture(), "image/png")
    counted = [
        line
        for line in on_disk.get("/metrics").text.splitlines()
        if 'model="model"' in line and not line.endswith(" 0.0") and not line.startswith("serving_model_")
    ]
    assert counted == ['serving_playground_runs_total{model="model",version="1"} 3.0']


def test_what_the_page_tries_may_be_wrong(on_disk: FakeService) -> None:
    response = on_disk.post(f"{VERSION}/predict", {"instances": [1]})
    assert (response.status_code, error(response)[:5]) == (400, "input")
    assert on_disk.post("/playground/models/model/versions/9/predict", {"instances": [1]}).status_code == 404
