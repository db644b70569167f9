"""A small fit as one of several workers: `python -m tests.integration.shared_fit FOLDER [STEP]`, with TF_CONFIG.

Prints the outcome as JSON. With STEP the process kills itself at that step of the second epoch.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from training.errors import RunError
from training.fit import strategy, train
from training.fit.strategy import Worker

EPOCHS, BATCH_SIZE, SEED = 3, 32, 1


class After(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Does something after a step of an epoch."""

    def __init__(self, epoch: int, step: int, action: Callable[[], None]) -> None:
        super().__init__()
        self.at, self.action, self.epoch = (epoch, step), action, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == self.at:
            self.action()


def examples(count: int, seed: int) -> tuple[Any, Any]:
    """Three overlapping clouds in eight dimensions."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=count)
    centers = np.random.default_rng(0).normal(size=(3, 8))
    return (centers[labels] + generator.normal(size=(count, 8))).astype(np.float32), labels


def fit(worker: Worker, folder: Path, callbacks: tuple[Any, ...] = ()) -> dict[str, Any]:
    train.make_repeatable(SEED)
    with worker.scope():
        inputs = keras.Input((8,))
        values = keras.layers.Dense(16, activation="relu")(inputs)
        model = worker.model(inputs, keras.layers.Dense(3)(values))
        rate = keras.optimizers.schedules.CosineDecay(0.1, EPOCHS * 10)
        model.compile(
            keras.optimizers.SGD(rate, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    fitted = train.fit(
        model,
        train.batches(*examples(310, seed=1), BATCH_SIZE, shuffle_seed=SEED),  # the last batch is a smaller one
        epochs=EPOCHS,
        validation=train.batches(*examples(200, seed=2), 50),
        quiet=True,
        backup=folder,
        worker=worker,
        callbacks=callbacks,
    )
    weights = [each.tolist() for each in model.get_weights()]
    return {"history": fitted.history, "weights": weights, "chief": worker.chief}


if __name__ == "__main__":
    kills = [After(1, int(step), lambda: os.kill(os.getpid(), signal.SIGKILL)) for step in sys.argv[2:]]
    try:
        print(json.dumps(fit(strategy.start("multiworker"), Path(sys.argv[1]), tuple(kills))))
    except RunError as error:
        sys.exit(f"{error}")
