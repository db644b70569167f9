"""The shipped versions of clothing get their whole test split: is what they expect of themselves true?"""

import json
import shutil
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.server import SHIPPED, running
from training.data import fashion_mnist
from training.errors import DatasetError

CLOSE = 0.01
# Of the test pictures, with room for chance.
FEW_OUTLIERS = 0.015
AT_ONCE = 500


@pytest.mark.parametrize("version", ["1", "2"])
def test_expected_accuracy_of_the_test_split_is_close_to_the_card_s(version: str, tmp_path: Path) -> None:
    try:
        pictures = fashion_mnist.load().test_images
    except DatasetError as error:
        pytest.skip(str(error))
    models = tmp_path / "models"
    shutil.copytree(SHIPPED / "clothing" / version, models / "clothing" / version)
    settings = {"workers": 2, "drift_window": len(pictures), "drift_snapshots": tmp_path / "snapshots"}
    with running(models, tmp_path / "service.log", **settings) as server:
        for start in range(0, len(pictures), AT_ONCE):
            body = {"instances": pictures[start : start + AT_ONCE].tolist()}
            assert server.request("/v1/models/clothing:predict", body).status == 200
        page = server.request("/metrics").body.decode()
    found = {
        family.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("version") == version
    }
    assert found["serving_drift_window_rows"] == len(pictures)
    assert found["serving_expected_accuracy"] == pytest.approx(found["serving_card_accuracy"], abs=CLOSE)
    assert found["serving_drift_window_outliers"] < FEW_OUTLIERS
    # At its end the service has written the day's file; a day may have ended meanwhile.
    (file, *_) = (tmp_path / "snapshots").glob(f"clothing-{version}-*.json")
    rows = json.loads(file.read_text())
    assert {row["expected_accuracy"] for row in rows} == {found["serving_expected_accuracy"]}
