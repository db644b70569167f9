from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from tests.integration.training_run import ROOT, read, train
from training.data import fashion_mnist
from training.models.clothing import convolution

SHIPPED = ROOT / "models" / "clothing"
DENSE, CONVOLUTION = SHIPPED / "1", SHIPPED / "2"

if fashion_mnist.local_folder() is None:
    pytest.skip(
        "Fashion-MNIST is not on this machine (apt-get install dataset-fashion-mnist, or set FASHION_MNIST_DIR)",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The version that `python -m training clothing --network dense` exports, and what it prints."""
    return train("clothing", tmp_path_factory.mktemp("models"), "--network", "dense")


def predict(version_dir: Path, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """By the twin."""
    runner = Interpreter(str(version_dir / "assets.extra" / "model.tflite")).get_signature_runner("scored")
    probabilities: np.ndarray[Any, Any] = runner(pixels=pixels.astype(np.float32))["probabilities"]
    return probabilities


def test_same_seed_gives_the_accuracy_of_the_shipped_version(run: tuple[Path, str]) -> None:
    found, shipped = read(run[0], "metrics.json"), read(DENSE, "metrics.json")
    assert found["accuracy"] == pytest.approx(shipped["accuracy"], abs=0.005)
    assert found["accuracy"] >= 0.87
    for setting in ("seed", "epochs", "batch_size", "learning_rate", "parameters"):
        assert found[setting] == shipped[setting]


def test_twin_has_the_accuracy_in_the_metrics(run: tuple[Path, str]) -> None:
    data = fashion_mnist.load()
    accuracy = (predict(run[0], data.test_images).argmax(axis=1) == data.test_labels).mean()
    assert accuracy == pytest.approx(read(run[0], "metrics.json")["accuracy"], abs=1e-3)


def test_shipped_convolution_is_the_network_in_the_source() -> None:
    found = read(CONVOLUTION, "metrics.json")
    assert found["parameters"] == convolution().count_params() <= 500_000
    assert found["accuracy"] >= 0.945


def test_serving_json(run: tuple[Path, str]) -> None:
    config = read(run[0], "serving.json")
    assert config["labels"] == list(fashion_mnist.LABELS)
    assert config["image"] == {"height": 28, "width": 28, "mode": "L", "fit": "contain", "ground": "black"}
    assert config["example"] == {"picture": "sample.png"}
    assert config["twin"]["inputs_tried"] == 5_000


def test_sample_is_a_validation_picture_that_is_classified_correctly(run: tuple[Path, str]) -> None:
    picture = Image.open(run[0] / "assets.extra" / "sample.png")
    assert picture.mode == "L"
    pixels = np.array(picture)
    data = fashion_mnist.load()
    (place,) = np.flatnonzero((data.train_images == pixels).all(axis=(1, 2)))
    assert place >= 55_000
    assert predict(run[0], pixels[np.newaxis]).argmax() == data.train_labels[place]


def test_printed_summary(run: tuple[Path, str]) -> None:
    version_dir, printed = run
    assert "Epoch 12/12" in printed
    assert "val_accuracy" in printed
    assert f"Exported    {version_dir}" in printed
    assert f"Accuracy    {read(version_dir, 'metrics.json')['accuracy']:.4f} on 10,000 test pictures" in printed
    assert "Twin        proved equal on 5,000 real inputs" in printed
    assert "Next        python -m service --models" in printed
