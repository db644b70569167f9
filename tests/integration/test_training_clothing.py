from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from tests.integration.training_run import ROOT, read, train
from training.data import augmentation, fashion_mnist
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


def twin_answers(version_dir: Path, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    runner = Interpreter(str(version_dir / "assets.extra" / "model.tflite")).get_signature_runner("scored")
    answers: np.ndarray[Any, Any] = runner(pixels=pixels.astype(np.float32))["probabilities"]
    return answers


def test_the_test_accuracy_is_at_least_0_87_and_with_convolutions_0_945(run: tuple[Path, str]) -> None:
    assert read(run[0], "metrics.json")["accuracy"] >= 0.87
    assert read(CONVOLUTION, "metrics.json")["accuracy"] >= 0.945


def test_the_shipped_convolutions_have_at_most_half_a_million_parameters() -> None:
    assert read(CONVOLUTION, "metrics.json")["parameters"] == convolution().count_params() <= 500_000


def test_the_same_seed_gives_the_accuracy_of_the_shipped_model(run: tuple[Path, str]) -> None:
    found, shipped = read(run[0], "metrics.json"), read(DENSE, "metrics.json")
    assert found["accuracy"] == pytest.approx(shipped["accuracy"], abs=0.005)
    for setting in ("seed", "epochs", "batch_size", "learning_rate", "parameters"):
        assert found[setting] == shipped[setting]


@pytest.mark.parametrize("which", ["new", "dense", "convolution"])
def test_the_twin_has_the_accuracy_that_the_metrics_state(which: str, run: tuple[Path, str]) -> None:
    version_dir = {"new": run[0], "dense": DENSE, "convolution": CONVOLUTION}[which]
    data = fashion_mnist.load()
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
    assert list(found["classes"]) == list(fashion_mnist.LABELS)
    for i, each in enumerate(found["classes"].values()):
        assert each["support"] == 1_000
        assert each["recall"] == pytest.approx(matrix[i, i] / 1_000, abs=1e-4)
        assert each["precision"] == pytest.approx(matrix[i, i] / matrix[:, i].sum(), abs=1e-4)
    assert found["training_examples"] + found["validation_examples"] == 60_000


def test_the_service_is_told_labels_picture_and_example(run: tuple[Path, str]) -> None:
    config = read(run[0], "serving.json")
    assert config["labels"] == list(fashion_mnist.LABELS)
    assert config["image"] == {"height": 28, "width": 28, "mode": "L", "fit": "contain", "ground": "black"}
    assert config["example"] == {"picture": "sample.png"}
    assert config["twin"]["inputs_tried"] == 5_000
    assert config["twin"]["largest_difference"] <= 1e-5


def test_the_sample_is_a_picture_that_the_model_gets_right(run: tuple[Path, str]) -> None:
    picture = Image.open(run[0] / "assets.extra" / "sample.png")
    assert picture.mode == "L"
    pixels = np.array(picture)
    data = fashion_mnist.load()
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


def test_pictures_are_mirrored_shifted_and_erased_by_their_seed_alone() -> None:
    pictures = tf.constant(np.random.default_rng(1).uniform(1, 255, (64, 28, 28)).astype(np.float32))
    for alter in (
        augmentation.mirror,
        lambda pictures, seed: augmentation.shift(pictures, seed, 2),
        lambda pictures, seed: augmentation.erase(pictures, seed, 0.5, 12),
    ):
        once, again, otherwise = (alter(pictures, tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
        assert once.shape == (64, 28, 28)
        np.testing.assert_array_equal(once, again)
        assert (once != otherwise).any()


def test_a_mirrored_picture_is_itself_or_its_mirror_image() -> None:
    pictures = np.random.default_rng(1).uniform(1, 255, (64, 28, 28)).astype(np.float32)
    mirrored = augmentation.mirror(tf.constant(pictures), tf.constant([1, 2])).numpy()
    same = (mirrored == pictures).all(axis=(1, 2))
    assert (same | (mirrored == pictures[:, :, ::-1]).all(axis=(1, 2))).all()
    assert 16 < same.sum() < 48


def test_a_shifted_picture_is_found_again_where_it_was_shifted_to() -> None:
    pictures = np.random.default_rng(1).uniform(1, 255, (64, 28, 28)).astype(np.float32)
    shifted = augmentation.shift(tf.constant(pictures), tf.constant([1, 2]), 2).numpy()
    wider = np.pad(pictures, [(0, 0), (2, 2), (2, 2)])
    corners = [(row, column) for row in range(5) for column in range(5)]
    places = [
        [(row, column) for row, column in corners if (window == wider[n, row : row + 28, column : column + 28]).all()]
        for n, window in enumerate(shifted)
    ]
    assert [len(found) for found in places] == [1] * 64
    assert len({found[0] for found in places}) > 15


def test_an_erased_rectangle_has_one_shade_and_its_largest_side() -> None:
    pictures = np.full((256, 28, 28), -1, np.float32)
    erased = augmentation.erase(tf.constant(pictures), tf.constant([1, 2]), 0.5, 12).numpy()
    changed = erased != -1
    assert 96 < changed.any(axis=(1, 2)).sum() < 160
    for one, where in zip(erased, changed, strict=True):
        assert len(np.unique(one[where])) <= 1
        assert where.any(axis=0).sum() <= 12
        assert where.any(axis=1).sum() <= 12
        assert where.sum() == where.any(axis=0).sum() * where.any(axis=1).sum()
