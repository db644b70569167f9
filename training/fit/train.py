"""Fits a Keras model: seeds, batches, progress, history and cost."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.config import Config
from training.console import Line, duration
from training.data import Array
from training.errors import FitError
from training.fit import devices
from training.fit.backup import Backup
from training.fit.strategy import ALONE, Worker

# Takes a batch's inputs and targets and a stateless seed, [2] int32; gives what is trained on instead.
Augment = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Fit:
    """`history` has one value an epoch under Keras's names: loss, accuracy, val_loss, val_accuracy."""

    history: dict[str, list[float]]
    seconds: float
    cores: int


def settings_and_cost(config: Config, seconds: float, cores: int) -> dict[str, Any]:
    """What metrics.json states of every fit."""
    return {
        "seed": config.seed,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "seconds": round(seconds, 1),
        "cores": cores,
    }


def make_repeatable(seed: int) -> None:
    """Seeds everything. Call it before the model is built: the first weights come from the seed too."""
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else TensorFlow takes a GPU's whole memory
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


@dataclass(frozen=True)
class Batches:
    """Examples in batches. An epoch's order and augmentation depend on seed and epoch alone, not on what ran before."""

    inputs: Array
    targets: Array
    size: int
    shuffle_seed: int | None
    augment: Augment | None

    @property
    def steps(self) -> int:
        """Batches of an epoch; the last may be smaller."""
        return -(-len(self.inputs) // self.size)

    def from_epoch(self, first: int, shares: range = range(1), of: int = 1) -> Any:
        """An endless tf.data.Dataset of this epoch and those after it: of each batch, these shares in turn."""
        with tf.device("CPU:0"):
            inputs, targets = tf.constant(self.inputs), tf.constant(self.targets)
        count, steps = len(self.inputs), self.steps

        def share(places: Any, step: Any, number: Any) -> tuple[Any, Any]:
            mine = places[number::of]
            chosen = tf.gather(inputs, mine), tf.gather(targets, mine)
            return self.augment(*chosen, self._seed("augment", step * of + number)) if self.augment else chosen

        def epoch(number: Any) -> Any:
            order = tf.range(count)
            if self.shuffle_seed is not None:
                order = tf.random.experimental.stateless_shuffle(order, self._seed("shuffle", number))

            def element(place: Any) -> tuple[Any, Any]:
                step = place // len(shares)
                places = order[step * self.size : (step + 1) * self.size]
                return share(places, number * steps + step, shares.start + place % len(shares))

            return tf.data.Dataset.range(steps * len(shares)).map(element)

        return tf.data.Dataset.range(first, np.iinfo(np.int64).max).flat_map(epoch).prefetch(2)

    def distributed(self, first: int, worker: Worker) -> Any:
        """from_epoch for a worker, which reads its own shares. FitError if a batch has fewer examples than workers."""
        if worker.strategy is None:
            return self.from_epoch(first)
        for size in (self.size, len(self.inputs) % self.size or self.size):
            if size < worker.replicas:
                raise FitError(
                    f"{size} examples, which is a batch of the epoch, for {worker.replicas} workers: "
                    "expected one for each; try another --batch-size"
                )

        def read(context: Any) -> Any:
            replicas = context.num_replicas_in_sync // context.num_input_pipelines
            start = context.input_pipeline_id * replicas
            return self.from_epoch(first, range(start, start + replicas), context.num_replicas_in_sync)

        return worker.strategy.distribute_datasets_from_function(read)

    def _seed(self, use: str, number: Any) -> Any:
        # As int32, which every stateless operation takes.
        seed = np.array(self.shuffle_seed or 0, np.uint32).view(np.int32)
        return tf.random.experimental.stateless_fold_in([seed, ("shuffle", "augment").index(use)], number)


def batches(
    inputs: Array, targets: Array, size: int, *, shuffle_seed: int | None = None, augment: Augment | None = None
) -> Batches:
    """Batches in a new order each epoch if a seed is given; `augment` then gets a seed of each step."""
    return Batches(inputs, targets, size, shuffle_seed, augment)


class Epochs(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """Batches that depend on the epoch, which may begin at any."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0

    def on_epoch_end(self) -> None:
        self.epoch += 1


class Progress(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Says how far the fit is, and how long it and the `later_steps` of other fits take.

    The estimate leaves out the first step, in which TensorFlow compiles.
    """

    def __init__(self, line: Line, later_steps: int) -> None:
        super().__init__()
        self.line, self.later_steps = line, later_steps
        self.epoch = self.steps = 0
        self.since = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.steps += 1
        if self.steps == 1:
            self.since = time.perf_counter()
        share = (batch + 1) / self.params["steps"]
        self.line.show(f"{self._epoch}, {share:.0%}, {_values(logs or {})}{self._left(batch + 1)}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        held_out = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
        text = _values({name: value for name, value in logs.items() if not name.startswith("val_")})
        if held_out:
            text += f"; validation {_values(held_out)}"
        is_last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        self.line.keep(f"{self._epoch}, {text}{self._left(self.params['steps'])}", always=is_last)

    @property
    def _epoch(self) -> str:
        return f"{'Epoch':12}{self.epoch + 1} of {self.params['epochs']}"

    def _left(self, step: int) -> str:
        steps = (self.params["epochs"] - self.epoch) * self.params["steps"] - step + self.later_steps
        if self.steps < 2 or not steps:
            return ""
        return f", about {duration((time.perf_counter() - self.since) / (self.steps - 1) * steps)} left"


def _values(logs: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in logs.items())


def fit(
    model: Any,
    training: Any,
    *,
    epochs: int,
    validation: Any = None,
    quiet: bool = False,
    backup: Path | None = None,
    worker: Worker = ALONE,
    callbacks: tuple[Any, ...] = (),
    later_steps: int = 0,
) -> Fit:
    """Fits a compiled model in place. FitError if the loss is no longer finite, or another worker is lost.

    `training` and `validation` are Batches or, for one worker, whatever Keras takes. With the folder `backup` a run
    that was killed resumes after its last whole epoch and ends as one that was not; only Batches and Epochs can do that
    exactly, and the state of `callbacks` is not kept. The caller removes the folder, after the export. `later_steps`:
    of fits that follow, for the estimate of the time.
    """
    quiet = quiet or not worker.chief
    start = time.perf_counter()
    saving = Backup(backup, worker) if backup else None
    saved = saving.restore(model) if saving else None
    first = saved.epoch if saved else 0
    if not quiet:
        print(f"Fits on     {devices.describe()}" + (f" in {worker.count} processes" if worker.count > 1 else ""))
        if saved:
            print(f"Continues   after epoch {first} of {epochs} ({backup})")
    try:
        with Line() as line:
            own = [*([saving] if saving else []), *([] if quiet else [Progress(line, later_steps)])]
            history = model.fit(
                **_keras_arguments("", training, first, worker),
                **({} if validation is None else _keras_arguments("validation_", validation, 0, worker)),
                initial_epoch=first,
                epochs=epochs,
                shuffle=False,  # Batches does it
                verbose=0,
                callbacks=[keras.callbacks.TerminateOnNaN(), *callbacks, *own],
            ).history
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise FitError("the other workers are out of reach; start all of them again, and they go on") from error
    seconds = time.perf_counter() - start
    history = {name: [float(value) for value in values] for name, values in history.items()}
    if saved:
        history = {name: values + history.get(name, []) for name, values in saved.history.items()}
        seconds += saved.seconds
    if not np.isfinite(history["loss"]).all():
        if saving:
            saving.remove()  # it would end the same way again
        raise FitError(f"the loss was no finite number in epoch {len(history['loss'])}: try a smaller --learning-rate")
    return Fit(history, seconds, devices.cores())


def _keras_arguments(prefix: str, data: Any, first: int, worker: Worker) -> dict[str, Any]:
    name = f"{prefix}data" if prefix else "x"
    if isinstance(data, Epochs):
        data.epoch = first
    if not isinstance(data, Batches):
        return {name: data}
    return {name: data.distributed(first, worker), f"{prefix}steps" if prefix else "steps_per_epoch": data.steps}
