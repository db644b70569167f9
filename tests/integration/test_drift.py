"""Drift: the shipped models are sent their test splits, and then what they were not trained for."""

import io
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from service.serving_config import read_serving_config
from service.settings import Settings
from service.tensors.dtypes import Array
from service.tensors.image import decode_picture
from tests.integration.server import SHIPPED, Server, running
from training.data import basic_motions, clothing_photos, fashion_mnist
from training.errors import DatasetError

SMALL, LARGE = 0.1, 0.25
WINDOW = Settings().drift_window
# Half a window of inputs that the model was not trained for has to show; some show sooner.
STRANGE = WINDOW // 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped models; photos and activity several times, so that each part of a test has a window of its own."""
    models = shutil.copytree(SHIPPED, tmp_path_factory.mktemp("drift") / "models")
    for copy in ("activity/2", "photos/2"):
        shutil.copytree((models / copy).parent / "1", models / copy)
    with running(models, models.parent / "service.log") as server:
        yield server


@pytest.fixture(scope="module")
def clothing() -> Array:
    if fashion_mnist.local_folder() is None:
        pytest.skip(f"Fashion-MNIST is not on this machine. {fashion_mnist.HOW_TO_GET}")
    return fashion_mnist.load().test_images


@pytest.fixture(scope="module")
def photo_files() -> list[Path]:
    try:
        folder = clothing_photos.local_folder() / "validation"
    except DatasetError as error:
        pytest.skip(str(error))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # A class at a time would be drift.
    return [files[place] for place in np.random.default_rng(0).permutation(len(files))]


@pytest.fixture(scope="module")
def photos(photo_files: list[Path]) -> Array:
    """As the model sees them."""
    image = read_serving_config(SHIPPED / "photos" / "1").image
    assert image is not None
    return np.stack([decode_picture(file.read_bytes(), image, 10**8) for file in photo_files])


def gauges(service: Server, model: str, version: str, name: str = "serving_drift_psi") -> dict[str, float]:
    """By feature."""
    page = service.request("/metrics").body.decode()
    return {
        sample.labels.get("feature", ""): sample.value
        for family in text_string_to_metric_families(page)
        if family.name == name
        for sample in family.samples
        if (sample.labels["model"], sample.labels["version"]) == (model, version)
    }


def check_no_drift(service: Server, model: str, version: str, features: int) -> None:
    found = gauges(service, model, version)
    assert len(found) == features
    assert max(found.values()) < SMALL, found


def check_drift(service: Server, model: str, version: str) -> None:
    assert max(gauges(service, model, version).values()) > LARGE


def ask(service: Server, model: str, version: str, instances: Array, *, together: int) -> None:
    """So many rows a request."""
    starts = range(0, len(instances), together)
    bodies = ({"instances": instances[start : start + together].tolist()} for start in starts)
    ask_all(service, f"/v1/models/{model}/versions/{version}:predict", bodies)


def ask_photos(service: Server, version: str, pictures: Iterable[bytes | Array]) -> None:
    path = f"/v1/models/photos/versions/{version}:classify"
    ask_all(service, path, (one if isinstance(one, bytes) else bmp(one) for one in pictures), "image/*")


def ask_all(service: Server, path: str, bodies: Iterable[Any], content_type: str = "application/json") -> None:
    with ThreadPoolExecutor(4) as clients:
        for answer in clients.map(lambda body: service.request(path, body, content_type), bodies):
            assert answer.status == 200, answer.body


def bmp(picture: Array) -> bytes:
    """The quickest to write and to read."""
    Image.fromarray(picture).save(buffer := io.BytesIO(), "BMP")
    return buffer.getvalue()


def noisy(pictures: Array) -> Array:
    noise = np.random.default_rng(0).normal(0, 20, pictures.shape)
    return np.clip(pictures + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("version", "strange"), [("1", "inverted"), ("2", "noisy"), ("2", "photos")])
def test_altered_clothing_and_photos_drift_and_test_pictures_do_not(
    service: Server, clothing: Array, version: str, strange: str, request: pytest.FixtureRequest
) -> None:
    ask(service, "clothing", version, clothing[: 2 * WINDOW], together=100)
    check_no_drift(service, "clothing", version, 8)
    pictures = clothing[-STRANGE:]
    if strange == "photos":
        # Fewer than half a window are enough of them.
        pictures = request.getfixturevalue("photos")[:, ::8, ::8].mean(axis=3)
    altered = {"inverted": 255 - pictures, "noisy": noisy(pictures)}.get(strange, pictures)
    ask(service, "clothing", version, altered, together=10)
    check_drift(service, "clothing", version)


def test_inverted_photos_drift_and_those_of_the_last_evaluation_do_not(
    service: Server, photo_files: list[Path], photos: Array
) -> None:
    ask_photos(service, "1", (file.read_bytes() for file in photo_files))
    check_no_drift(service, "photos", "1", 20)
    ask_photos(service, "1", 255 - np.concatenate([photos, photos])[:STRANGE])
    check_drift(service, "photos", "1")


def test_clothing_on_black_is_not_what_photos_looked_like(service: Server, clothing: Array) -> None:
    ask_photos(service, "2", clothing[:STRANGE])
    check_drift(service, "photos", "2")


@pytest.mark.parametrize(("version", "factor"), [("1", -1.0), ("2", 9.81)], ids=["upside down", "another unit"])
def test_altered_recordings_drift_and_test_recordings_do_not(service: Server, version: str, factor: float) -> None:
    if basic_motions.local_folder() is None:
        pytest.skip(basic_motions.HOW_TO_GET)
    motions = basic_motions.load().test_motions
    # Once: the same forty over and over would be other inputs than those in training.
    ask(service, "activity", version, motions, together=len(motions))
    check_no_drift(service, "activity", version, 38)
    ask(service, "activity", version, np.tile(motions * factor, (13, 1, 1))[:STRANGE], together=10)
    check_drift(service, "activity", version)


def test_numbers_from_minus_1_to_4_do_not_drift_and_others_do(service: Server) -> None:
    values = np.random.default_rng(0).uniform(-1, 4, WINDOW)
    ask(service, "regression", "1", values, together=10)
    check_no_drift(service, "regression", "1", 1)
    # Six points of training say so little that half a window of others may be chance.
    ask(service, "regression", "1", values + 10, together=100)
    check_drift(service, "regression", "1")
    assert gauges(service, "regression", "1", "serving_drift_shift")["x"] > 0.95
