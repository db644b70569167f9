"""The networks that `clothing` can be: from [n, 28, 28] pixels, 0…255, to features [n, d] and logits [n, 10]."""

from collections.abc import Callable
from typing import Any

import keras

CLASSES = 10
# Of the training pictures' pixels: they come out with a mean of 0 and a standard deviation of 1.
MEAN, DEVIATION = 72.9, 90.0


def dense() -> Any:
    """The jam's: Flatten, 128 units, 10."""
    pixels = keras.Input((28, 28), name="pixels")
    values = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    features = keras.layers.Dense(128, activation="relu")(values)
    return keras.Model(pixels, {"features": features, "logits": keras.layers.Dense(CLASSES)(features)})


def convolution() -> Any:
    """A small residual network: two convolutions that bring 28×28 to 14×14, two blocks there, two at 7×7."""
    pixels = keras.Input((28, 28), name="pixels")
    values = keras.layers.Rescaling(1 / DEVIATION, -MEAN / DEVIATION)(pixels)
    values = keras.layers.Reshape((28, 28, 1))(values)
    values = _convolved(_convolved(values, 24), 48, stride=2)
    blocks = [values]
    for filters, stride in ((48, 1), (48, 1), (96, 2), (96, 1)):
        blocks.append(_residual(blocks[-1], filters, stride))
    # float32, also where the fit computes in less: sums over many places, and differences that decide.
    means = [keras.layers.GlobalAveragePooling2D(dtype="float32")(block) for block in blocks]
    logits = keras.layers.Dense(CLASSES, dtype="float32")(means[-1])
    return keras.Model(pixels, {"features": means, "logits": logits})


NETWORKS: dict[str, Callable[[], Any]] = {"convolution": convolution, "dense": dense}


def _convolved(values: Any, filters: int, *, size: int = 3, stride: int = 1, active: bool = True) -> Any:
    values = keras.layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(values)
    values = keras.layers.BatchNormalization(momentum=0.98)(values)
    return keras.layers.ReLU()(values) if active else values


def _residual(values: Any, filters: int, stride: int) -> Any:
    """Two convolutions learn what is to be added to their input (He et al., 2015)."""
    added = _convolved(_convolved(values, filters, stride=stride), filters, active=False)
    if stride > 1:
        # An average of every four instead of one of them: nothing is thrown away.
        values = _convolved(keras.layers.AveragePooling2D(stride)(values), filters, size=1, active=False)
    return keras.layers.ReLU()(keras.layers.add([values, added]))
