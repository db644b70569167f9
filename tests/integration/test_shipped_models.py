"""The models that the service starts with: the answers that the README promises, with each engine, over HTTP."""

import json
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.tensors.dtypes import Array
from tests.integration.conftest import SHIPPED
from tests.integration.server import Answer, Server, running
from training.data import basic_motions, fashion_mnist
from training.data.basic_motions import BasicMotions
from training.data.fashion_mnist import FashionMnist

CLOTHING = "/v1/models/clothing"
NO_INSTANCES = "No values in 'instances' array; expected at least one row"


@pytest.fixture(scope="module")
def tensorflow_shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(SHIPPED, tmp_path_factory.mktemp("log") / "service.log", engine="tensorflow") as server:
        yield server


@pytest.fixture(params=["litert", "tensorflow"])
def engine_server(request: pytest.FixtureRequest) -> Server:
    name = {"litert": "server", "tensorflow": "tensorflow_shipped"}[request.param]
    server: Server = request.getfixturevalue(name)
    return server


@pytest.fixture(scope="module")
def data() -> FashionMnist:
    if fashion_mnist.local_folder() is None:
        pytest.skip(f"Fashion-MNIST is not on this machine. {fashion_mnist.HOW_TO_GET}")
    return fashion_mnist.load()


@pytest.fixture(scope="module")
def recordings() -> BasicMotions:
    if basic_motions.local_folder() is None:
        pytest.skip("aeon, which carries BasicMotions, is not installed (requirements/train.txt)")
    return basic_motions.load()


def png(picture: "Image.Image | Array") -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer := BytesIO(), "PNG")
    return buffer.getvalue()


def first_label(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    label: str = answer.json()["results"][0][0][0]
    return label


def test_the_regression_answers_31_for_10(engine_server: Server) -> None:
    answer = engine_server.request("/v1/models/regression:predict", {"instances": [10.0]})
    assert answer.status == 200
    assert answer.json()["predictions"] == [pytest.approx(31.0, abs=0.01)]


def test_no_rows_are_answered_with_none(engine_server: Server) -> None:
    """By both protocols, in every form that says that there is none; by the event loop and by threads."""
    empty = {"name": "pixels", "shape": [0, 28, 28], "datatype": "FP32"}
    output = {"name": "probabilities", "datatype": "FP32", "shape": [0, 10], "data": []}
    for version in ("", "/versions/1", "/versions/2"):
        infer = f"/v2/models/clothing{version}/infer"
        nothing: list[object] = [[], {"pixels": []}]
        for inputs in nothing:
            answer = engine_server.request(f"{CLOTHING}{version}:predict", {"inputs": inputs})
            assert (answer.status, answer.json()) == (200, {"outputs": []})
        answer = engine_server.request(infer, {"inputs": [empty | {"data": []}]})
        assert (answer.status, answer.json()["outputs"]) == (200, [output])
        answer = engine_server.request(infer, b"", headers={"Inference-Header-Content-Length": "0"})
        assert answer.status == 200, answer.body
        assert b'"shape":[0,10]' in answer.body
        # TensorFlow Serving says so, too.
        answer = engine_server.request(f"{CLOTHING}{version}:predict", {"instances": []})
        assert (answer.status, answer.json()["error"]) == (
            400,
            "No values in 'instances' array; expected at least one row",
        )
        assert engine_server.request(f"{CLOTHING}{version}:classify", {"inputs": []}).status == 400


def test_test_pictures_as_json_reach_the_accuracy_of_the_model_card(engine_server: Server, data: FashionMnist) -> None:
    labels: list[int] = []
    for start in range(0, 10_000, 500):
        rows = data.test_images[start : start + 500].tolist()
        predictions = engine_server.request(f"{CLOTHING}:predict", {"instances": rows}).json()["predictions"]
        labels += np.argmax(predictions, axis=1).tolist()
    accuracy = float(np.mean(np.array(labels) == data.test_labels))
    stated = json.loads((SHIPPED / "clothing/2/assets.extra/metrics.json").read_text())["accuracy"]
    assert accuracy == pytest.approx(stated, abs=0.001)


def test_test_recordings_reach_the_accuracy_of_the_model_card(engine_server: Server, recordings: BasicMotions) -> None:
    rows = {"instances": recordings.test_motions.tolist()}
    predictions = engine_server.request("/v1/models/activity:predict", rows).json()["predictions"]
    right = int((np.argmax(predictions, axis=1) == recordings.test_labels).sum())
    stated = json.loads((SHIPPED / "activity/1/assets.extra/metrics.json").read_text())["accuracy"]
    assert right == round(stated * 40) >= 39


def test_the_example_of_the_activity_model_is_a_request_that_it_gets_right(engine_server: Server) -> None:
    example = json.loads((SHIPPED / "activity/1/assets.extra/serving.json").read_text())["example"]
    assert first_label(engine_server.request("/v1/models/activity:classify", example)) == "Badminton"


def test_test_pictures_as_png_files_come_back_as_their_json_does(engine_server: Server, data: FashionMnist) -> None:
    pictures = data.test_images[:200]
    as_json = engine_server.request(f"{CLOTHING}:predict", {"instances": pictures.tolist()}).json()["predictions"]
    boundary = b"a-boundary"
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="file"; filename="%d.png"\r\n\r\n%s\r\n'
        % (boundary, at, png(one))
        for at, one in enumerate(pictures)
    ]
    form = b"".join(parts) + b"--%s--\r\n" % boundary
    answer = engine_server.request(f"{CLOTHING}:predict", form, "multipart/form-data; boundary=a-boundary")
    assert answer.status == 200, answer.body
    np.testing.assert_allclose(answer.json()["predictions"], as_json, atol=1e-6)


def test_a_png_of_a_test_picture_gets_the_right_label_first(server: Server, data: FashionMnist) -> None:
    # The first test picture is an ankle boot, and the model is sure of it.
    answer = server.request(f"{CLOTHING}:classify", png(data.test_images[0]), "image/png")
    assert first_label(answer) == data.names[data.test_labels[0]] == "Ankle boot"


def test_the_sample_and_its_negative_get_the_same_answer(server: Server) -> None:
    sample = Image.open(SHIPPED / "clothing/2/assets.extra/sample.png")
    bright_on_black = server.request(f"{CLOTHING}:classify", png(sample), "image/png")
    dark_on_white = server.request(f"{CLOTHING}:classify", png(ImageOps.invert(sample)), "image/png")
    assert bright_on_black.status == 200
    assert dark_on_white.json() == bright_on_black.json()


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_of_an_enlarged_colour_sample_gets_its_label(server: Server, name: str) -> None:
    sample = Image.open(SHIPPED / "clothing/2/assets.extra/sample.png")
    expected = first_label(server.request(f"{CLOTHING}:classify", png(sample), "image/png"))
    sample.resize((280, 280)).convert("RGB").save(buffer := BytesIO(), name)
    assert first_label(server.request(f"{CLOTHING}:classify", buffer.getvalue(), f"image/{name.lower()}")) == expected


def test_labels_come_best_first_and_at_most_top_k(server: Server) -> None:
    sample = (SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()
    (ranking,) = server.request(f"{CLOTHING}:classify", sample, "image/png").json()["results"]
    assert len(ranking) == 10
    assert [score for _, score in ranking] == sorted((score for _, score in ranking), reverse=True)
    (top,) = server.request(f"{CLOTHING}:classify?top_k=3", sample, "image/png").json()["results"]
    assert top == ranking[:3]


def test_instances_can_be_classified_as_well(server: Server) -> None:
    sample = SHIPPED / "clothing/2/assets.extra/sample.png"
    rows = [np.asarray(Image.open(sample)).tolist()]
    as_json = server.request(f"{CLOTHING}:classify", {"instances": rows}).json()
    assert as_json == server.request(f"{CLOTHING}:classify", sample.read_bytes(), "image/png").json()


def test_versions_can_be_asked_for_by_number(server: Server) -> None:
    answer = server.request("/v1/models/regression/versions/1:predict", {"instances": [10.0]})
    assert answer.status == 200
    unknown = server.request("/v1/models/regression/versions/99:predict", {"instances": [10.0]})
    assert unknown.status == 404
    assert "Specific(regression, 99)" in unknown.json()["error"]
    word = server.request("/v1/models/regression/versions/one:predict", {"instances": [10.0]})
    assert word.status == 400
    assert "Failed to convert version: one" in word.json()["error"]
    label = server.request("/v1/models/regression/labels/stable:predict", {"instances": [10.0]})
    assert label.status == 400
    assert "Unrecognized servable version label: stable" in label.json()["error"]


def test_the_models_are_listed_with_their_states(server: Server) -> None:
    assert {"activity", "clothing", "regression"} <= set(server.request("/v1/models").json()["models"])
    assert server.request("/v1/models/regression").json() == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    assert server.request("/v1/models/hats").status == 404
