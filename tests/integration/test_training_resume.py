from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import keras
import numpy as np
import tensorflow as tf

from tests.integration.shared_fit import After
from training.errors import FitError
from training.fit import backup, devices, train
from training.fit.strategy import ALONE
from training.fit.train import Fit

EPOCHS, BATCH_SIZE, SEED = 3, 32, 3
STEPS = 4


class Kill(Exception):
    """As SIGKILL would, without what Keras does at the end of a fit."""


def kill() -> None:
    raise Kill


def shake(inputs: Any, targets: Any, seed: Any) -> Any:
    return inputs + tf.random.stateless_normal(tf.shape(inputs), seed), targets


def built(units: int = 8, rate: float = 0.1) -> Any:
    """All that has a state: dropout, batch normalisation, momentum, a schedule, averaged weights, the loss scale."""
    train.make_repeatable(SEED)
    layers = keras.layers
    with devices.precision_scope("mixed_float16"):
        model = keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(units),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.3),
                layers.Dense(3, dtype="float32"),
            ]
        )
        schedule = keras.optimizers.schedules.CosineDecay(rate, EPOCHS * STEPS)
        model.compile(
            keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=1e-3, use_ema=True, ema_momentum=0.9),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model


def fitted(folder: Path, *killed: After, rate: float = 0.1) -> tuple[list[Any], Fit]:
    model = built(rate=rate)
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(120, 8)).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[generator.integers(3, size=120)]
    fit = train.fit(
        model,
        train.batches(inputs, targets, BATCH_SIZE, shuffle_seed=SEED, augment=shake),
        epochs=EPOCHS,
        validation=train.batches(inputs, targets, 50),
        backup=folder,
        callbacks=killed,
    )
    return model.get_weights(), fit


def assert_same(one: tuple[list[Any], Fit], other: tuple[list[Any], Fit]) -> None:
    assert one[1].history == other[1].history
    for found, expected in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run left that nobody killed, until its model would be exported."""
    return tmp_path_factory.mktemp("model") / ".training-1"


@pytest.fixture(scope="module")
def unbroken(whole: Path) -> tuple[list[Any], Fit]:
    return fitted(whole)


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (2, STEPS - 1)], ids=["within an epoch", "at the end of the last"])
def test_killed_run_ends_as_an_unbroken_one(
    epoch: int, step: int, tmp_path: Path, unbroken: tuple[list[Any], Fit], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Kill):
        fitted(tmp_path, After(epoch, step, kill))
    assert_same(fitted(tmp_path), unbroken)
    assert f"Continues   after epoch {epoch} of 3 ({tmp_path})" in capsys.readouterr().out


def test_run_killed_after_its_fit_is_not_fitted_again(whole: Path, unbroken: tuple[list[Any], Fit]) -> None:
    again = fitted(whole, After(0, 0, kill))
    assert_same(again, unbroken)
    assert again[1].seconds > 0


def turn_a_bit(content: bytes) -> bytes:
    turned = bytearray(content)
    turned[len(content) // 2] ^= 1
    return bytes(turned)


@pytest.mark.parametrize(
    ("damage", "units"),
    [
        (lambda content: content[:-500], 8),
        (turn_a_bit, 8),
        (lambda content: content, 9),
    ],
    ids=["cut off", "a bit turned", "of another network"],
)
def test_damaged_backup_is_reported_and_ignored(
    damage: Any, units: int, tmp_path: Path, whole: Path, unbroken: object, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / backup.FILE
    file.write_bytes(damage((whole / backup.FILE).read_bytes()))
    model = built(units)
    before = model.get_weights()
    assert backup.Backup(tmp_path, ALONE).restore(model) is None
    assert f"Starts anew: {file} cannot be gone on from (" in capsys.readouterr().err
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("saved", "says"), [(True, "the same command goes on"), (False, "^$")])
def test_interrupt_says_whether_the_run_goes_on(saved: bool, says: str, tmp_path: Path) -> None:
    if saved:
        (tmp_path / backup.FILE).touch()
    with pytest.raises(KeyboardInterrupt, match=says), backup.resumable(tmp_path):
        raise KeyboardInterrupt


def test_infinite_loss_is_an_error_and_leaves_no_backup(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="the loss was no finite number in epoch 1: try a smaller --learning-rate"):
        fitted(tmp_path / "state", rate=float("inf"))
    assert not (tmp_path / "state").exists()


def test_epochs_differ_and_repeat_exactly() -> None:
    inputs = np.arange(10, dtype=np.float32)
    data = train.batches(inputs, inputs, 4, shuffle_seed=1, augment=shake)

    def two_epochs(first: int) -> tuple[Any, Any]:
        """Altered and original values, in the order in which they come."""
        parts = data.from_epoch(first).take(2 * data.steps).as_numpy_iterator()
        altered, originals = (np.concatenate(each).reshape(2, 10) for each in zip(*parts, strict=True))
        return altered, originals

    altered, originals = two_epochs(0)
    assert [sorted(each) for each in originals] == [list(inputs)] * 2
    assert list(originals[0]) != list(originals[1])
    noises = [(altered - originals)[number][np.argsort(originals[number])] for number in range(2)]
    assert not np.isclose(*noises).any()
    np.testing.assert_array_equal(two_epochs(1)[0][0], altered[1])


@dataclass(frozen=True)
class Config:
    epochs: int = 3
    output: Path = Path("models")


def test_same_settings_find_the_same_folder() -> None:
    folder = backup.folder(Path("models/clothing"), Config())
    assert folder.parent == Path("models/clothing")
    assert folder.name.startswith(".training-")
    assert backup.folder(Path("models/clothing"), Config(output=Path("elsewhere"))) == folder
    assert backup.folder(Path("models/clothing"), Config(epochs=4)) != folder


def test_precision_ends_with_its_scope() -> None:
    with devices.precision_scope("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.layers.Dense(1).compute_dtype == "float32"


@pytest.mark.parametrize(
    ("gpus", "precision", "described"),
    [
        ({}, "float32", "CPU core"),
        ({"H200": (9, 0)}, "mixed_float16", "GPU H200"),
        ({"P4": (6, 1)}, "float32", "GPU P4"),
    ],
    ids=["no GPU", "tensor cores", "an old GPU"],
)
def test_auto_is_float16_on_tensor_cores(
    gpus: dict[str, tuple[int, int]], precision: str, described: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(gpus))
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"device_name": gpu, "compute_capability": gpus[gpu]},
    )
    assert devices.chosen_precision("auto") == precision
    assert devices.chosen_precision("mixed_bfloat16") == "mixed_bfloat16"
    assert described in devices.describe()
