"""The models that the service starts with: the answers that the README promises."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.engines.loading import load_engine
from service.serving_config import read_serving_config
from service.settings import EngineChoice
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.integration.server import SHIPPED, Answer, Server, running
from training.data import basic_motions, clothing_photos, fashion_mnist
from training.data.fashion_mnist import FashionMnist
from training.errors import DatasetError

CHOICES: tuple[EngineChoice, ...] = ("litert", "tensorflow")
CLOTHING = "/v1/models/clothing"
SAMPLE = SHIPPED / "clothing/2/assets.extra/sample.png"
PHOTO = (SHIPPED / "photos/1/assets.extra/sample.jpg").read_bytes()


@pytest.fixture(scope="module")
def data() -> FashionMnist:
    if fashion_mnist.local_folder() is None:
        pytest.skip(f"Fashion-MNIST is not on this machine. {fashion_mnist.HOW_TO_GET}")
    return fashion_mnist.load()


def metrics(version: str) -> Any:
    return json.loads((SHIPPED / version / "assets.extra/metrics.json").read_text())


def png(picture: "Image.Image | Array") -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer := BytesIO(), "PNG")
    return buffer.getvalue()


def first_label(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    label: str = answer.json()["results"][0][0][0]
    return label


def answers(version: str, choice: EngineChoice, rows: Array) -> Array:
    """Of the only output."""
    config = read_serving_config(SHIPPED / version)
    engine = load_engine(SHIPPED / version, config, choice)
    (name,) = engine.signatures[DEFAULT_SIGNATURE].inputs
    (output,) = engine.run(DEFAULT_SIGNATURE, {name: rows.astype(np.float32)}).values()
    return output


@pytest.mark.parametrize("choice", CHOICES)
def test_regression_answers_31_for_10(choice: EngineChoice) -> None:
    assert answers("regression/1", choice, np.array([10.0])).tolist() == [pytest.approx(31.0, abs=0.01)]


def test_clothing_reaches_the_accuracy_of_its_card(data: FashionMnist) -> None:
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(lambda part: answers("clothing/2", "litert", part), np.split(data.test_images, 10))
    accuracy = float(np.mean(np.concatenate(list(parts)).argmax(axis=1) == data.test_labels))
    assert accuracy == pytest.approx(metrics("clothing/2")["accuracy"], abs=0.001)


@pytest.mark.parametrize("choice", CHOICES)
def test_activity_reaches_the_accuracy_of_its_card(choice: EngineChoice) -> None:
    if basic_motions.local_folder() is None:
        pytest.skip(basic_motions.HOW_TO_GET)
    recordings = basic_motions.load()
    labels = answers("activity/1", choice, recordings.test_motions).argmax(axis=1)
    right = int((labels == recordings.test_labels).sum())
    assert right == round(metrics("activity/1")["accuracy"] * 40) >= 39


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
    assert abs(right - metrics("photos/1")["accuracy"] * len(files)) <= 1


def test_example_of_activity_is_a_request_that_it_gets_right(server: Server) -> None:
    example = json.loads((SHIPPED / "activity/1/assets.extra/serving.json").read_text())["example"]
    assert first_label(server.request("/v1/models/activity:classify", example)) == "Badminton"


def test_sample_and_its_negative_get_the_same_answer(server: Server) -> None:
    negative = png(ImageOps.invert(Image.open(SAMPLE)))
    answers = [server.request(f"{CLOTHING}:classify", one, "image/png") for one in (SAMPLE.read_bytes(), negative)]
    assert first_label(answers[0]) == "Sneaker"
    assert answers[1].json() == answers[0].json()


def test_size_of_photos_is_at_most_20_mb() -> None:
    assert sum(path.stat().st_size for path in (SHIPPED / "photos/1").rglob("*") if path.is_file()) <= 20_000_000


def test_sample_of_photos_is_no_outlier_and_noise_is_one(server: Server) -> None:
    noise = np.random.default_rng(1).integers(256, size=(224, 224, 3), dtype=np.uint8)
    inside, outside = (
        float(server.request("/v1/models/photos:classify", content, kind).headers["Outlier-Score"])
        for content, kind in ((PHOTO, "image/jpeg"), (png(noise), "image/png"))
    )
    assert inside < 1 < outside


@pytest.fixture(scope="module")
def photos_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(SHIPPED, tmp_path_factory.mktemp("photos") / "log", engine="litert", model_name="photos") as server:
        yield server


def runs(service: Server, rows_at_most: str) -> int:
    page = service.request("/metrics").body.decode()
    found = re.search(rf'^serving_batch_size_bucket{{.*le="{re.escape(rows_at_most)}".*}} (\S+)$', page, re.MULTILINE)
    assert found, page
    return int(float(found[1]))


def test_no_more_rows_are_run_together_than_pays(photos_service: Server) -> None:
    photos_service.wait_until_logged("photos version 1: a row takes")
    found = re.findall(
        r"photos version 1: a row takes .*; batches are of (\d+) at most", photos_service.log.read_text()
    )
    assert len(found) == 1
    most = int(found[0])
    assert photos_service.request("/v2/models/photos/config").json()["max_batch_size"] == most
    before = runs(photos_service, "+Inf")
    with ThreadPoolExecutor(16) as pool:
        futures = [
            pool.submit(photos_service.request, "/v1/models/photos:predict", PHOTO, "image/jpeg")
            for _ in range(2 * most + 16)
        ]
        answers = [answer.result().json()["predictions"][0] for answer in futures]
    part = b"--x\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\n%b\r\n" % PHOTO
    form = part * (most + 1) + b"--x--\r\n"
    several = photos_service.request("/v1/models/photos:predict", form, "multipart/form-data; boundary=x")
    np.testing.assert_allclose(several.json()["predictions"], answers[: most + 1], atol=1e-5)
    assert before < runs(photos_service, "+Inf") == runs(photos_service, f"{most}.0")
