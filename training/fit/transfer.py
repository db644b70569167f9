"""Transfer: the lower stages of EfficientNet-Lite0 stay frozen, the upper ones are fitted to new photos.

The frozen stages' outputs are computed once, for each photo and for one altered view of it an epoch, and kept in a
file. The depthwise filters stay frozen too: fitting them would double the cost of a step.
"""

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from service.serving_config import ImageSpec
from training.console import Line
from training.data import Array, Integers, augmentation
from training.data.picture_folder import PictureFolder
from training.errors import RunError
from training.fit import efficientnet, train

SIDE = efficientnet.SIDE
LARGER = ImageSpec(height=256, width=256, mode="RGB", fit="cover")  # what the views are cut from
FROZEN = 4  # stages
FROZEN_BATCH = 64  # photos through the frozen stages at once


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`mixing`: the parameter of the beta distribution by which pairs are mixed (Zhang et al., 2018)."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    weight_decay: float = 0.02
    smoothing: float = 0.1
    mixing: float = 0.2
    dropout: float = 0.3
    drop_path: float = 0.1


def upper_network(classes: int, dropout: float = 0.0, drop_path: float = 0.0) -> Any:
    """From the frozen stages' outputs; features are the means of the last block's 320 channels."""
    upper = efficientnet.upper(FROZEN, drop_path)
    features = keras.layers.GlobalAveragePooling2D()(upper.get_layer(efficientnet.LAST_BLOCK).output)
    logits = keras.layers.Dense(classes, name="logits")(keras.layers.Dropout(dropout)(upper.output))
    return keras.Model(upper.input, {"features": features, "logits": logits})


class HalfStored(keras.DTypePolicy):  # type: ignore[misc]  # Keras has no types
    """Computes in float32 with weights in float16: half the bytes on disk."""

    def __init__(self) -> None:
        super().__init__("float32")

    @property
    def variable_dtype(self) -> str:
        return "float16"


def whole_network(upper: Any) -> Any:
    """The network to export: frozen stages and upper network, from pixels, with weights rounded to float16.

    It is built anew, without dropout, so that the export holds nothing that is for the fit alone.
    """
    keras.config.set_dtype_policy(HalfStored())
    lower = efficientnet.lower(FROZEN)
    rounded = upper_network(upper.output["logits"].shape[1])
    keras.config.set_dtype_policy("float32")
    efficientnet.load(lower, efficientnet.pretrained())
    rounded.set_weights(upper.get_weights())
    return keras.Model(lower.input, rounded(lower.output))


def frozen_outputs(photos: PictureFolder, views: int, seed: int) -> Array:
    """The frozen stages' outputs for each photo and its views, in a temporary file: [n, 1 + views, ...] float16."""
    lower = efficientnet.lower(FROZEN)
    efficientnet.load(lower, efficientnet.pretrained())
    compute = tf.function(lambda pixels: lower(pixels, training=False), reduce_retracing=True)
    count = len(photos.files)
    outputs = _temporary((count, 1 + views, *lower.output.shape[1:]))
    generator = np.random.default_rng(seed)
    with Line() as line:
        for start in line.counted(range(0, count, FROZEN_BATCH), "Photos"):
            places = np.arange(start, min(start + FROZEN_BATCH, count))
            outputs[places, 0] = compute(tf.constant(photos.pixels[places], tf.float32))
            larger = photos.larger(LARGER, places)
            for view in range(1, 1 + views):
                outputs[places, view] = compute(augmentation.photo_views(larger, SIDE, generator))
    return outputs


def _temporary(shape: tuple[int, ...]) -> Array:
    """In a file without a name, which goes with the array, also after a kill. RunError if the disk has no room."""
    size = math.prod(shape) * np.dtype(np.float16).itemsize
    with tempfile.TemporaryFile() as file:
        try:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # macOS has none
                # All of it now: a page that finds no room later kills the process.
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise RunError(
                f"{tempfile.gettempdir()}: {error.strerror}; training needs {size / 1e6:,.0f} MB there (TMPDIR names "
                "another folder)"
            ) from None
        return np.memmap(file, np.float16, "r+", shape=shape)


def fit(
    recipe: Recipe,
    outputs: Array,
    labels: Integers,
    places: Integers,
    held_out: Integers | None = None,
    *,
    later_photos: int = 0,
    backup: Path | None = None,
) -> tuple[Any, train.Fit]:
    """Fits the upper network to the photos at `places`. `outputs`: from frozen_outputs.

    `later_photos`: of fits that follow, for the estimate of the time. `backup`: the folder from which a fit that was
    killed resumes.
    """
    train.make_repeatable(recipe.seed)
    targets = np.eye(labels.max() + 1, dtype=np.float32)[labels]
    network = upper_network(targets.shape[1], recipe.dropout, recipe.drop_path)
    efficientnet.load(network, efficientnet.pretrained())
    for layer in network.layers:
        layer.trainable = not isinstance(layer, keras.layers.DepthwiseConv2D)
    batches = Batches(recipe, outputs, targets, places)
    model = keras.Model(network.input, network.output["logits"])
    model.compile(
        _optimizer(recipe, len(batches)),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.smoothing),
        metrics=["accuracy"],
    )
    validation = None
    if held_out is not None:
        validation = train.batches(outputs[held_out, 0].astype(np.float32), targets[held_out], 128)
    later_steps = recipe.epochs * later_photos // recipe.batch_size
    return network, train.fit(
        model, batches, epochs=recipe.epochs, validation=validation, backup=backup, later_steps=later_steps
    )


def _optimizer(recipe: Recipe, steps: int) -> Any:
    """AdamW; its rate rises during half an epoch, then falls to 0 along a cosine."""
    rising = steps // 2
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, recipe.epochs * steps - rising, warmup_target=recipe.learning_rate, warmup_steps=rising
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, beta_2=0.99, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


class Batches(train.Epochs):
    """Each epoch has a new order and another view of each photo, and mixes each photo with another of its batch."""

    def __init__(self, recipe: Recipe, outputs: Array, targets: Array, places: Integers) -> None:
        super().__init__()
        self.recipe, self.outputs, self.targets, self.places = recipe, outputs, targets, places

    def __len__(self) -> int:
        return -(-len(self.places) // self.recipe.batch_size)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        order = np.random.default_rng([self.recipe.seed, self.epoch]).permutation(self.places)
        places = order[index * self.recipe.batch_size :][: self.recipe.batch_size]
        views = self.outputs.shape[1] - 1
        values = self.outputs[places, 1 + (places + self.epoch) % views].astype(np.float32)
        generator = np.random.default_rng([self.recipe.seed, self.epoch, index])
        share = generator.beta(self.recipe.mixing, self.recipe.mixing, len(places)).astype(np.float32)
        share = np.maximum(share, 1 - share)
        return _mix(values, share), _mix(self.targets[places], share)


def _mix(values: Array, share: Array) -> Array:
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    mixed: Array = share * values + (1 - share) * values[::-1]
    return mixed
