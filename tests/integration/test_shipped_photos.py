import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.server import Server, running
from training import photos
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
        folder = photos.local_folder() / "validation"
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
