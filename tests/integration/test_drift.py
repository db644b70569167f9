"""Drift: the shipped models are sent their test splits, and then what they were not trained for."""

import io
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from service.serving_config import read_serving_config
from service.settings import Settings
from service.tensors.dtypes import Array
from service.tensors.image import decode_picture
from tests.integration.prometheus import MONITORING, Prometheus, prometheus
from tests.integration.server import SHIPPED, Server, running, wait_for
from training.data import basic_motions, clothing_photos, fashion_mnist
from training.errors import DatasetError

SMALL, LARGE = 0.1, 0.25
WINDOW = Settings().drift_window
# Half a window of inputs that the model was not trained for has to show.
STRANGE = WINDOW // 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped models; photos and activity several times, so that each part of a test has a window of its own."""
    models = tmp_path_factory.mktemp("drift") / "models"
    shutil.copytree(SHIPPED, models)
    for copy in ("activity/2", "photos/2", "photos/3"):
        shutil.copytree((models / copy).parent / "1", models / copy)
    with running(models, models.parent / "service.log", workers=2) as server:
        yield server


@pytest.fixture(scope="module")
def monitor(service: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), service.port) as monitor:
        yield monitor


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
def photo_pixels(photo_files: list[Path]) -> Array:
    """As the model sees them."""
    image = read_serving_config(SHIPPED / "photos" / "1").image
    assert image is not None
    return np.stack([decode_picture(file.read_bytes(), image, 10**8) for file in photo_files])


def gauges(service: Server, name: str, model: str, version: str) -> dict[str, float]:
    """By feature."""
    page = service.request("/metrics").body.decode()
    return {
        sample.labels.get("feature", ""): sample.value
        for family in text_string_to_metric_families(page)
        if family.name == name
        for sample in family.samples
        if (sample.labels["model"], sample.labels["version"]) == (model, version)
    }


def drift(service: Server, model: str, version: str = "1") -> dict[str, float]:
    return gauges(service, "serving_drift_psi", model, version)


def ask(service: Server, model: str, instances: Array, version: str = "1", *, together: int = 1) -> None:
    """So many rows a request."""
    starts = range(0, len(instances), together)
    bodies = ({"instances": instances[start : start + together].tolist()} for start in starts)
    ask_all(service, f"/v1/models/{model}/versions/{version}:predict", bodies)


def ask_pictures(service: Server, pictures: Iterable[bytes], version: str) -> None:
    ask_all(service, f"/v1/models/photos/versions/{version}:classify", pictures, "image/*")


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


def alert_holds(monitor: Prometheus, model: str, version: str) -> bool:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    (alert,) = [rule for group in groups for rule in group["rules"] if rule.get("alert") == "ServingDrift"]
    wanted = {"model": model, "version": version}
    return any(wanted.items() <= labels.items() for labels, _ in monitor.query(alert["expr"]))


def check_honest(service: Server, model: str, version: str, features: int) -> None:
    found = drift(service, model, version)
    assert len(found) == features
    assert max(found.values()) < SMALL, found


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("strange", ["inverted", "noisy", "photos"])
def test_altered_clothing_and_photos_drift_and_test_pictures_do_not(
    service: Server, clothing: Array, strange: str, version: str, request: pytest.FixtureRequest
) -> None:
    ask(service, "clothing", clothing[: 2 * WINDOW], version, together=100)
    check_honest(service, "clothing", version, 7)
    pictures = clothing[-STRANGE:]
    if strange == "photos":
        # Fewer than half a window are enough of them.
        pictures = request.getfixturevalue("photo_pixels")[:, ::8, ::8].mean(axis=3)
    altered = {"inverted": 255 - pictures, "noisy": noisy(pictures)}.get(strange, pictures)
    ask(service, "clothing", altered, version, together=10)
    assert max(drift(service, "clothing", version).values()) > LARGE


def test_alert_holds_as_long_as_there_is_drift(service: Server, monitor: Prometheus, clothing: Array) -> None:
    ask(service, "clothing", 255 - clothing[:WINDOW], together=100)
    wait_for(lambda: alert_holds(monitor, "clothing", "1"), lambda: "the alert never holds")
    ask(service, "clothing", clothing[: 2 * WINDOW], together=100)
    wait_for(lambda: not alert_holds(monitor, "clothing", "1"), lambda: "the alert does not end")


def test_inverted_photos_drift_and_those_of_the_last_evaluation_do_not(
    service: Server, photo_files: list[Path], photo_pixels: Array
) -> None:
    ask_pictures(service, [file.read_bytes() for file in photo_files], "1")
    check_honest(service, "photos", "1", 19)
    pictures = 255 - np.concatenate([photo_pixels, photo_pixels])[:STRANGE]
    ask_pictures(service, map(bmp, pictures), "1")
    assert max(drift(service, "photos", "1").values()) > LARGE


def test_noisy_photos_drift_although_as_many_are_not(service: Server, photo_pixels: Array) -> None:
    ask_pictures(service, map(bmp, photo_pixels), "3")
    ask_pictures(service, map(bmp, noisy(photo_pixels)), "3")
    assert max(drift(service, "photos", "3").values()) > LARGE


def test_clothing_on_black_is_not_what_photos_looked_like(service: Server, clothing: Array) -> None:
    ask_pictures(service, map(bmp, clothing[:STRANGE]), "2")
    assert max(drift(service, "photos", "2").values()) > LARGE


@pytest.mark.parametrize(("version", "factor"), [("1", -1.0), ("2", 9.81)])
def test_recordings_upside_down_or_in_another_unit_drift_and_test_recordings_do_not(
    service: Server, version: str, factor: float
) -> None:
    if basic_motions.local_folder() is None:
        pytest.skip(basic_motions.HOW_TO_GET)
    motions = basic_motions.load().test_motions
    # Once: the same forty over and over would be other inputs than those in training.
    ask(service, "activity", motions, version, together=len(motions))
    check_honest(service, "activity", version, 37)
    ask(service, "activity", np.tile(motions * factor, (13, 1, 1))[:STRANGE], version, together=10)
    assert max(drift(service, "activity", version).values()) > LARGE


def test_numbers_from_minus_1_to_4_do_not_drift_and_others_do(service: Server) -> None:
    values = np.random.default_rng(0).uniform(-1, 4, WINDOW)
    ask(service, "regression", values, together=10)
    assert drift(service, "regression")["x"] < SMALL
    # Six points of training say so little that half a window of others may be chance.
    ask(service, "regression", values + 10, together=100)
    assert drift(service, "regression")["x"] > LARGE
    assert gauges(service, "serving_drift_shift", "regression", "1")["x"] > 0.95
