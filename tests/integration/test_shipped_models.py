"""The models that the service starts with: the answers that the README promises."""

import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.engines.loading import load_engine
from service.serving_config import read_serving_config
from service.settings import EngineChoice
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.integration.server import SHIPPED, Answer, Server
from training.data import basic_motions, clothing_photos, fashion_mnist
from training.errors import DatasetError

VERSIONS = ("regression/1", "clothing/1", "clothing/2", "activity/1", "photos/1")
SAMPLE = SHIPPED / "clothing/2/assets.extra/sample.png"
PHOTO = (SHIPPED / "photos/1/assets.extra/sample.jpg").read_bytes()


def accuracy_of(version: str) -> float:
    return float(json.loads((SHIPPED / version / "assets.extra/metrics.json").read_text())["accuracy"])


def png(picture: "Image.Image | Array") -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer := BytesIO(), "PNG")
    return buffer.getvalue()


def first_label(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    label: str = answer.json()["results"][0][0][0]
    return label


def outputs(version: str, choice: EngineChoice, rows: Array, signature: str = DEFAULT_SIGNATURE) -> dict[str, Array]:
    engine = load_engine(SHIPPED / version, read_serving_config(SHIPPED / version), choice)
    assert engine.name == choice
    (name,) = engine.signatures[signature].inputs
    return engine.run(signature, {name: rows.astype(np.float32)})


@pytest.mark.parametrize("version", VERSIONS)
def test_twin_gives_the_answers_and_scores_of_the_saved_model(version: str) -> None:
    engine = load_engine(SHIPPED / version, read_serving_config(SHIPPED / version), "litert")
    (spec,) = engine.signatures[DEFAULT_SIGNATURE].inputs.values()
    rows = np.random.default_rng(1).uniform(0, 10, (5, *(spec.shape or ())[1:]))
    for signature in engine.signatures:
        found, expected = (outputs(version, choice, rows, signature) for choice in ("litert", "tensorflow"))
        assert found.keys() == expected.keys()
        for output, values in expected.items():
            np.testing.assert_allclose(found[output], values, rtol=0.01, atol=0.005, err_msg=f"{signature} {output}")
    assert ("scored" in engine.signatures) == (version != "regression/1")


def test_regression_answers_31_for_10() -> None:
    assert outputs("regression/1", "litert", np.array([10.0]))["y"].tolist() == [pytest.approx(31.0, abs=0.01)]


def test_clothing_reaches_the_accuracy_of_its_card() -> None:
    if fashion_mnist.local_folder() is None:
        pytest.skip(f"Fashion-MNIST is not on this machine. {fashion_mnist.HOW_TO_GET}")
    data = fashion_mnist.load()
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(lambda part: outputs("clothing/2", "litert", part), np.split(data.test_images, 10))
    labels = np.concatenate([part["probabilities"] for part in parts]).argmax(axis=1)
    assert float(np.mean(labels == data.test_labels)) == pytest.approx(accuracy_of("clothing/2"), abs=0.001)


def test_activity_reaches_the_accuracy_of_its_card() -> None:
    if basic_motions.local_folder() is None:
        pytest.skip(basic_motions.HOW_TO_GET)
    recordings = basic_motions.load()
    labels = outputs("activity/1", "litert", recordings.test_motions)["probabilities"].argmax(axis=1)
    assert (labels == recordings.test_labels).sum() == round(accuracy_of("activity/1") * 40) >= 39


def test_photos_reach_the_accuracy_of_their_card(server: Server) -> None:
    try:
        folder = clothing_photos.local_folder() / "validation"
    except DatasetError as error:
        pytest.skip(str(error))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]

    def is_right(path: Path) -> bool:
        answer = server.request("/v1/models/photos:classify?top_k=1", path.read_bytes(), "image/jpeg")
        return first_label(answer) == path.parent.name

    with ThreadPoolExecutor(4) as pool:
        right = sum(pool.map(is_right, files))
    # A photo more or less: the twin's weights are rounded.
    assert abs(right - accuracy_of("photos/1") * len(files)) <= 1


def test_example_of_activity_is_a_request_that_it_gets_right(server: Server) -> None:
    example = read_serving_config(SHIPPED / "activity/1").example
    assert first_label(server.request("/v1/models/activity:classify", example)) == "Badminton"


def test_sample_and_its_negative_get_the_same_answer(server: Server) -> None:
    negative = png(ImageOps.invert(Image.open(SAMPLE)))
    path = "/v1/models/clothing:classify"
    answers = [server.request(path, picture, "image/png") for picture in (SAMPLE.read_bytes(), negative)]
    assert first_label(answers[0]) == "Sneaker"
    assert answers[1].json() == answers[0].json()


def test_sample_of_photos_is_no_outlier_and_noise_is_one(server: Server) -> None:
    noise = png(np.random.default_rng(1).integers(256, size=(224, 224, 3), dtype=np.uint8))
    inside, outside = (
        float(server.request("/v1/models/photos:classify", picture, "image/*").headers["Outlier-Score"])
        for picture in (PHOTO, noise)
    )
    assert inside < 1 < outside
