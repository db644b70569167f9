import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.server import Server, running
from training.data import clothing_photos
from training.errors import DatasetError

MODELS = Path(__file__).parents[2] / "models"
SHIPPED = MODELS / "photos" / "1"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(MODELS, tmp_path_factory.mktemp("photos") / "log", engine="litert", model_name="photos") as server:
        yield server


def test_all_of_it_takes_at_most_20_mb() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 20_000_000


def test_photos_sent_as_files_reach_the_accuracy_of_the_model_card(service: Server) -> None:
    try:
        folder = clothing_photos.local_folder() / "validation"
    except DatasetError as error:
        pytest.skip(str(error))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    right = 0
    for path in files:
        answer = service.request("/v1/models/photos:classify?top_k=1", path.read_bytes(), "image/jpeg")
        right += answer.json()["results"][0][0][0] == path.parent.name
    metrics = json.loads((SHIPPED / "assets.extra" / "metrics.json").read_text())
    # A photo more or less: the twin's weights are rounded.
    assert abs(right - metrics["accuracy"] * len(files)) <= 1


def test_its_sample_is_no_outlier_and_noise_is_one(service: Server) -> None:
    sample = (SHIPPED / "assets.extra" / "sample.jpg").read_bytes()
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(256, size=(224, 224, 3), dtype=np.uint8)).save(noise, "PNG")
    inside, outside = (
        float(service.request("/v1/models/photos:classify", content, kind).headers["Outlier-Score"])
        for content, kind in ((sample, "image/jpeg"), (noise.getvalue(), "image/png"))
    )
    assert inside < 1 < outside


def runs(service: Server, rows_at_most: str) -> int:
    metrics = service.request("/metrics").body.decode()
    found = re.search(
        rf'^serving_batch_size_bucket{{.*le="{re.escape(rows_at_most)}".*}} (\S+)$', metrics, re.MULTILINE
    )
    assert found, metrics
    return int(float(found[1]))


def test_no_more_rows_are_run_together_than_was_found_to_pay_be_they_of_several_requests_or_of_one(
    service: Server,
) -> None:
    service.wait_until_logged("photos version 1: a row takes")
    found = re.findall(r"photos version 1: a row takes .*; batches are of (\d+) at most", service.log.read_text())
    assert len(found) == 1
    most = int(found[0])
    assert service.request("/v2/models/photos/config").json()["max_batch_size"] == most
    sample = (SHIPPED / "assets.extra" / "sample.jpg").read_bytes()
    before = runs(service, "+Inf")
    with ThreadPoolExecutor(16) as pool:
        asked = [
            pool.submit(service.request, "/v1/models/photos:predict", sample, "image/jpeg")
            for _ in range(2 * most + 16)
        ]
        answers = [answer.result().json()["predictions"][0] for answer in asked]
    part = (
        b"--x\r\nContent-Disposition: form-data; name=a; filename=a\r\nContent-Type: image/jpeg\r\n\r\n%b\r\n" % sample
    )
    several = service.request(
        "/v1/models/photos:predict", part * (most + 1) + b"--x--\r\n", "multipart/form-data; boundary=x"
    )
    np.testing.assert_allclose(several.json()["predictions"], answers[: most + 1], atol=1e-5)
    assert before < runs(service, "+Inf") == runs(service, f"{most}.0")


def test_a_size_that_the_user_names_is_followed_whatever_it_gives(tmp_path: Path) -> None:
    policies = tmp_path / "models.toml"
    policies.write_text("[models.photos]\nbatching = {max_batch_size = 2}\n")
    settings = {"engine": "litert", "model_name": "photos", "models_config": policies}
    with running(MODELS, tmp_path / "log", **settings) as service:
        assert service.request("/v2/models/photos/config").json()["max_batch_size"] == 2
        assert "batches are of" not in service.log.read_text()
