import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from training import datasets

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "clothing" / "1"

if datasets.local_folder() is None:
    pytest.skip(
        "Fashion-MNIST is not on this machine (apt-get install dataset-fashion-mnist, or set FASHION_MNIST_DIR)",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The version that `python -m training clothing` exports, and what it prints."""
    output = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "training", "clothing", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return output / "clothing" / "1", done.stdout


def read(version_dir: Path, name: str) -> Any:
    return json.loads((version_dir / "assets.extra" / name).read_text())


def twin_answers(version_dir: Path, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    runner = Interpreter(str(version_dir / "assets.extra" / "model.tflite")).get_signature_runner("serving_default")
    answers: np.ndarray[Any, Any] = runner(pixels=pixels.astype(np.float32))["probabilities"]
    return answers


def test_the_test_accuracy_is_at_least_0_87(run: tuple[Path, str]) -> None:
    assert read(run[0], "metrics.json")["accuracy"] >= 0.87


def test_the_same_seed_gives_the_accuracy_of_the_shipped_model(run: tuple[Path, str]) -> None:
    found, shipped = read(run[0], "metrics.json"), read(SHIPPED, "metrics.json")
    assert found["accuracy"] == pytest.approx(shipped["accuracy"], abs=0.005)
    for setting in ("seed", "epochs", "batch_size", "learning_rate", "parameters"):
        assert found[setting] == shipped[setting]


@pytest.mark.parametrize("which", ["new", "shipped"])
def test_the_twin_has_the_accuracy_that_the_metrics_state(which: str, run: tuple[Path, str]) -> None:
    version_dir = run[0] if which == "new" else SHIPPED
    data = datasets.fashion_mnist()
    predicted = twin_answers(version_dir, data.test_images).argmax(axis=1)
    assert (predicted == data.test_labels).mean() == pytest.approx(
        read(version_dir, "metrics.json")["accuracy"], abs=1e-3
    )


def test_the_metrics_add_up(run: tuple[Path, str]) -> None:
    found = read(run[0], "metrics.json")
    matrix = np.array(found["confusion_matrix"])
    assert matrix.shape == (10, 10)
    assert matrix.sum() == found["test_examples"] == 10_000
    assert np.trace(matrix) / 10_000 == found["accuracy"]
    assert list(found["classes"]) == list(datasets.LABELS)
    for i, each in enumerate(found["classes"].values()):
        assert each["support"] == 1_000
        assert each["recall"] == pytest.approx(matrix[i, i] / 1_000, abs=1e-4)
        assert each["precision"] == pytest.approx(matrix[i, i] / matrix[:, i].sum(), abs=1e-4)
    assert found["training_examples"] + found["validation_examples"] == 60_000


def test_the_service_is_told_labels_picture_and_example(run: tuple[Path, str]) -> None:
    config = read(run[0], "serving.json")
    assert config["labels"] == list(datasets.LABELS)
    assert config["image"] == {"height": 28, "width": 28, "mode": "L", "fit": "contain", "ground": "black"}
    assert config["example"] == {"picture": "sample.png"}
    assert config["twin"]["inputs_tried"] == 5_000
    assert config["twin"]["largest_difference"] <= 1e-5


def test_the_sample_is_a_picture_that_the_model_gets_right(run: tuple[Path, str]) -> None:
    picture = Image.open(run[0] / "assets.extra" / "sample.png")
    assert picture.mode == "L"
    pixels = np.array(picture)
    data = datasets.fashion_mnist()
    (place,) = np.flatnonzero((data.train_images == pixels).all(axis=(1, 2)))
    assert place >= 55_000, "not from the validation pictures"
    assert twin_answers(run[0], pixels[np.newaxis]).argmax() == data.train_labels[place]


def test_it_says_what_came_out_and_what_to_do_next(run: tuple[Path, str]) -> None:
    version_dir, printed = run
    assert "Epoch 12/12" in printed
    assert "val_accuracy" in printed
    assert f"Exported    {version_dir}" in printed
    assert f"Accuracy    {read(version_dir, 'metrics.json')['accuracy']:.4f} on 10,000 test pictures" in printed
    assert "Twin        proved equal on 5,000 real inputs" in printed
    assert "Next        python -m service --models" in printed
