"""One exercise: its network, its fit, and what became of it."""

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from training.evaluation.evaluate import microseconds
from training.exercises import LEVEL, PATIENCE, Exercise
from training.fit import train

BATCH_SIZE = 32


@dataclass(frozen=True)
class Split:
    """Pictures [n, 28, 28], 0 to 255, and labels [n]."""

    pictures: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]

    def first(self, count: int) -> "Split":
        return Split(self.pictures[:count], self.labels[:count])


@dataclass(frozen=True)
class Outcome:
    """`seconds` are the fit's by the clock, `cpu_seconds` of the processor's time; `history` as Keras names it."""

    exercise: Exercise
    model: Any
    history: dict[str, list[float]]
    seconds: float
    cpu_seconds: float
    train_accuracy: float
    test_accuracy: float
    twin_bytes: int
    microseconds: float


def build(exercise: Exercise) -> Any:
    layers = keras.layers
    network = [keras.Input((28, 28), name="pixels")]
    if exercise.scaled:
        network.append(layers.Rescaling(1 / 255))
    if exercise.filters:
        network.append(layers.Reshape((28, 28, 1)))
    for filters in exercise.filters:
        network += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D(2)]
    network.append(layers.Flatten())
    network += [layers.Dense(units, activation="relu") for units in exercise.units]
    return keras.Sequential([*network, layers.Dense(10, activation="softmax")])


def stopping(exercise: Exercise, model: Any) -> tuple[Any, ...]:
    """The callbacks that end the fit before its last epoch."""
    if exercise.stop == "level":

        def look(_epoch: int, logs: dict[str, float]) -> None:
            model.stop_training = logs["accuracy"] > LEVEL

        return (keras.callbacks.LambdaCallback(on_epoch_end=look),)
    if exercise.stop == "patience":
        return (keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE, restore_best_weights=True),)
    return ()


def outcome(exercise: Exercise, epochs: int, seed: int, training: Split, validation: Split, test: Split) -> Outcome:
    """The same seed gives the same, whatever was fitted before."""
    train.make_repeatable(seed)
    model = build(exercise)
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    cpu_start = time.process_time()
    fit = train.fit(
        model,
        train.batches(training.pictures, training.labels, BATCH_SIZE, shuffle_seed=seed),
        epochs=epochs,
        validation=train.batches(validation.pictures, validation.labels, 1_000),
        callbacks=stopping(exercise, model),
    )
    cpu_seconds = time.process_time() - cpu_start
    twin = convert(model)
    return Outcome(
        exercise,
        model,
        fit.history,
        fit.seconds,
        cpu_seconds,
        accuracy(model, training),
        accuracy(model, test),
        len(twin),
        time_of_a_prediction(twin, validation.pictures[:1]),
    )


def accuracy(model: Any, split: Split) -> float:
    predicted = model.predict(split.pictures, batch_size=1_000, verbose=0).argmax(axis=1)
    return float((predicted == split.labels).mean())


def convert(model: Any) -> bytes:
    """For LiteRT, in float32, as a shipped model's twin is; here without the proof."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        content: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        return content


def time_of_a_prediction(twin: bytes, picture: np.ndarray[Any, Any]) -> float:
    """Microseconds for one picture, [1, 28, 28], on one thread."""
    interpreter = Interpreter(model_content=twin, num_threads=1)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, picture.shape)
    interpreter.allocate_tensors()
    output = interpreter.get_output_details()[0]["index"]

    def predict() -> Any:
        interpreter.set_tensor(place, picture)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return microseconds(predict)
