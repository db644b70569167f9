from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from tests.integration.training_run import CLASSIFIER, ROOT, files, read, train
from training.data import Array, fashion_mnist
from training.data.fashion_mnist import FashionMnist
from training.models.clothing import convolution

DENSE, CONVOLUTION = ROOT / "models/clothing/1", ROOT / "models/clothing/2"

if fashion_mnist.local_folder() is None:
    pytest.skip(f"Fashion-MNIST is not on this machine. {fashion_mnist.HOW_TO_GET}", allow_module_level=True)


@pytest.fixture(scope="module")
def data() -> FashionMnist:
    return fashion_mnist.load()


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After a third of the shipped one's epochs."""
    return train("clothing", tmp_path_factory.mktemp("models"), "--network", "dense", "--epochs", "4")


def labels(version_dir: Path, pixels: Array) -> Array:
    """By the twin."""
    runner = Interpreter(str(version_dir / "assets.extra/model.tflite")).get_signature_runner("scored")
    found: Array = runner(pixels=pixels.astype(np.float32))["probabilities"].argmax(axis=1)
    return found


def test_accuracy_comes_near_that_of_the_shipped_version(version: Path, data: FashionMnist) -> None:
    found, shipped = read(version, "metrics.json"), read(DENSE, "metrics.json")
    assert found["accuracy"] == pytest.approx(shipped["accuracy"], abs=0.03)
    assert found["accuracy"] == pytest.approx((labels(version, data.test_images) == data.test_labels).mean(), abs=1e-3)
    for setting in ("seed", "batch_size", "learning_rate", "parameters"):
        assert found[setting] == shipped[setting]


def test_shipped_convolution_is_the_network_in_the_source() -> None:
    found = read(CONVOLUTION, "metrics.json")
    assert found["parameters"] == convolution().count_params() <= 500_000
    assert found["accuracy"] >= 0.945


def test_files_of_the_version(version: Path) -> None:
    assert files(version) == CLASSIFIER | {"sample.png"}
    config = read(version, "serving.json")
    assert config["labels"] == list(fashion_mnist.LABELS)
    assert config["image"] == {"height": 28, "width": 28, "mode": "L", "fit": "contain", "ground": "black"}
    assert config["example"] == {"picture": "sample.png"}
    assert config["twin"]["inputs_tried"] == 5_000


def test_sample_is_a_validation_picture_that_is_classified_correctly(version: Path, data: FashionMnist) -> None:
    picture = Image.open(version / "assets.extra/sample.png")
    assert picture.mode == "L"
    pixels = np.array(picture)
    (place,) = np.flatnonzero((data.train_images == pixels).all(axis=(1, 2)))
    assert place >= 55_000
    assert labels(version, pixels[np.newaxis]).item() == data.train_labels[place]
