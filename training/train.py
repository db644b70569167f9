"""The fit: seeds, Keras's progress bars, what was seen on the way and what it cost."""

import os
import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.errors import FitError


@dataclass(frozen=True)
class Fit:
    """`history` has one value an epoch under Keras's names: loss, accuracy, val_loss, val_accuracy."""

    history: dict[str, list[float]]
    seconds: float
    cores: int


def make_repeatable(seed: int) -> None:
    """Before the model is built: the first weights come from the seed too."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def batches(
    inputs: np.ndarray[Any, Any], targets: np.ndarray[Any, Any], size: int, *, shuffle_seed: int | None = None
) -> Any:
    """A tf.data.Dataset of batches, in a new order each epoch where a seed is given.

    Keras could be given the arrays themselves, but makes parallel maps of them, which op determinism has to
    rewrite with an error in the log.
    """
    data = tf.data.Dataset.from_tensor_slices((inputs, targets))
    if shuffle_seed is not None:
        data = data.shuffle(len(inputs), seed=shuffle_seed)
    return data.batch(size).prefetch(2)


def fit(model: Any, training: Any, *, epochs: int, validation: Any = None, quiet: bool = False) -> Fit:
    """Fits a compiled model in place. FitError where the loss leaves the numbers."""
    start = time.perf_counter()
    history = model.fit(
        training,
        validation_data=validation,
        epochs=epochs,
        shuffle=False,  # batches() has seen to it
        verbose=0 if quiet else "auto",
        callbacks=[keras.callbacks.TerminateOnNaN()],
    ).history
    seconds = time.perf_counter() - start
    if not np.isfinite(history["loss"]).all():
        raise FitError(f"the loss was no finite number in epoch {len(history['loss'])}: try a smaller --learning-rate")
    history = {name: [float(value) for value in values] for name, values in history.items()}
    return Fit(history, seconds, cores())


def cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
