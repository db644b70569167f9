from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import keras
import numpy as np
import tensorflow as tf

from training.errors import FitError
from training.fit import backup, devices, train
from training.fit.strategy import ALONE
from training.fit.train import Fit

EPOCHS, BATCH_SIZE, SEED = 3, 32, 3
STEPS = 4
KILLED = {"within an epoch": (1, 2), "at the end of the last": (2, STEPS - 1)}


class Kill(Exception):
    pass


class Killed(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """As SIGKILL would, without what Keras does at the end of a fit."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self.at, self.epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == self.at:
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


def fitted(
    folder: Path | None = None, *, killed: tuple[int, int] | None = None, rate: float = 0.1
) -> tuple[list[Any], Fit]:
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
        callbacks=(Killed(*killed),) if killed else (),
    )
    return model.get_weights(), fit


def same(one: list[Any], other: list[Any]) -> bool:
    return all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run left that nobody killed, until its model would be exported."""
    return tmp_path_factory.mktemp("model") / ".training-1"


@pytest.fixture(scope="module")
def unbroken(whole: Path) -> tuple[list[Any], Fit]:
    return fitted(whole)


@pytest.mark.parametrize("moment", KILLED)
def test_killed_run_ends_as_an_unbroken_one(
    moment: str, tmp_path: Path, unbroken: tuple[list[Any], Fit], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Kill):
        fitted(tmp_path, killed=KILLED[moment])
    weights, fit = fitted(tmp_path)
    assert f"Continues   after epoch {KILLED[moment][0]} of 3 ({tmp_path})" in capsys.readouterr().out
    assert same(weights, unbroken[0])
    assert fit.history == unbroken[1].history


def test_run_killed_after_its_fit_is_not_fitted_again(whole: Path, unbroken: tuple[list[Any], Fit]) -> None:
    weights, fit = fitted(whole, killed=(0, 0))  # would raise at the first step
    assert same(weights, unbroken[0])
    assert fit.history == unbroken[1].history
    assert fit.seconds > 0


@pytest.mark.parametrize("damage", ["cut off", "empty", "a bit turned", "of something else", "of another network"])
def test_damaged_backup_is_reported_and_ignored(
    damage: str, tmp_path: Path, whole: Path, unbroken: tuple[list[Any], Fit], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / backup.FILE
    content = (whole / backup.FILE).read_bytes()
    turned = bytearray(content)
    turned[len(content) // 2] ^= 1
    damaged = {
        "cut off": content[:-500],
        "empty": b"",
        "a bit turned": bytes(turned),
        "of something else": b"PK\3\4 none",
    }
    file.write_bytes(damaged.get(damage, content))
    model = built(units=9 if damage == "of another network" else 8)
    before = model.get_weights()
    assert backup.Backup(tmp_path, ALONE).restore(model) is None
    assert f"Starts anew: {file} cannot be gone on from (" in capsys.readouterr().err
    assert same(model.get_weights(), before)


def test_without_a_backup_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert backup.Backup(tmp_path, ALONE).restore(built()) is None
    assert capsys.readouterr().err == ""


def test_infinite_loss_is_an_error_and_leaves_no_backup(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="the loss was no finite number in epoch 1: try a smaller --learning-rate"):
        fitted(tmp_path / "state", rate=float("inf"))
    assert not (tmp_path / "state").exists()


def test_epochs_differ_and_repeat_exactly() -> None:
    inputs = np.arange(10, dtype=np.float32)
    data = train.batches(inputs, inputs, 4, shuffle_seed=1, augment=shake)

    def epoch(number: int) -> tuple[Any, Any]:
        parts = list(data.from_epoch(number).take(data.steps).as_numpy_iterator())
        return np.concatenate([each[0] for each in parts]), np.concatenate([each[1] for each in parts])

    (_, order), (altered, other_order) = epoch(0), epoch(1)
    assert sorted(order) == sorted(other_order) == list(inputs)
    assert list(order) != list(other_order)
    noise, other_noise = ((values - places)[np.argsort(places)] for values, places in (epoch(0), epoch(1)))
    assert not np.isclose(noise, other_noise).any()
    assert np.array_equal(epoch(1)[0], altered)
    following = list(data.from_epoch(0).skip(data.steps).take(data.steps).as_numpy_iterator())
    assert np.array_equal(np.concatenate([each[0] for each in following]), altered)


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


def test_auto_is_float32_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert devices.chosen_precision("auto") == "float32"
    assert "CPU core" in devices.describe()


@pytest.mark.parametrize(("capability", "precision"), [((9, 0), "mixed_float16"), ((6, 1), "float32")])
def test_auto_is_float16_on_tensor_cores(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    details = {"device_name": "NVIDIA H200", "compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["/physical_device:GPU:0"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert devices.chosen_precision("auto") == precision
    assert devices.chosen_precision("mixed_bfloat16") == "mixed_bfloat16"
    assert devices.describe() == "GPU NVIDIA H200"
