"""Transfer: the lower stages of EfficientNet-Lite0 stay as ImageNet made them, the upper ones are fitted to new photos.

What the lower stages make of a photo is computed once, of the photo itself and of an altered view for each epoch, and
kept in a file. The filters over a channel's neighbourhood (depthwise) stay as they are too: fitting them would double
the cost of a step.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from service.serving_config import ImageSpec
from training.data import Array, Integers, augmentation
from training.data.picture_folder import PictureFolder
from training.fit import efficientnet, train

SIDE = efficientnet.SIDE
LARGER = ImageSpec(height=256, width=256, mode="RGB", fit="cover")  # what the views are cut from
FROZEN = 4  # stages
BATCH = 64  # photos through the frozen stages at once


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
    """From what the frozen stages give; features are the means of the last block's 320 channels."""
    upper = efficientnet.upper(FROZEN, drop_path)
    features = keras.layers.GlobalAveragePooling2D()(upper.get_layer(efficientnet.LAST_BLOCK).output)
    logits = keras.layers.Dense(classes, name="logits")(keras.layers.Dropout(dropout)(upper.output))
    return keras.Model(upper.input, {"features": features, "logits": logits})


class HalfStored(keras.DTypePolicy):  # type: ignore[misc]  # Keras has no types
    """Computes in float32 with weights that are kept in float16: half the bytes on disk."""

    def __init__(self) -> None:
        super().__init__("float32")

    @property
    def variable_dtype(self) -> str:
        return "float16"


def whole_network(upper: Any) -> Any:
    """From pixels, with the frozen stages before; its weights rounded to float16.

    Built anew, without dropout: what is exported should hold nothing that is for the fit alone.
    """
    keras.config.set_dtype_policy(HalfStored())
    lower = efficientnet.lower(FROZEN)
    rounded = upper_network(upper.output["logits"].shape[1])
    keras.config.set_dtype_policy("float32")
    efficientnet.load(lower, efficientnet.pretrained())
    rounded.set_weights(upper.get_weights())
    return keras.Model(lower.input, rounded(lower.output))


def reach(photos: PictureFolder, views: int, seed: int, file: Path) -> Array:
    """What the frozen stages make of each photo: [n, 1 + views, ...] float16 in `file`, first of the photo itself."""
    lower = efficientnet.lower(FROZEN)
    efficientnet.load(lower, efficientnet.pretrained())
    compute = tf.function(lambda pixels: lower(pixels, training=False), reduce_retracing=True)
    count = len(photos.files)
    reached = np.lib.format.open_memmap(file, "w+", np.float16, (count, 1 + views, *lower.output.shape[1:]))
    generator = np.random.default_rng(seed)
    progress = keras.utils.Progbar(count, unit_name="photo")
    for start in range(0, count, BATCH):
        places = np.arange(start, min(start + BATCH, count))
        reached[places, 0] = compute(tf.constant(photos.pixels[places], tf.float32))
        larger = photos.larger(LARGER, places)
        for view in range(1, 1 + views):
            reached[places, view] = compute(augmentation.photo_views(larger, SIDE, generator))
        progress.add(len(places))
    return reached


def fit(
    recipe: Recipe, reached: Array, labels: Integers, places: Integers, held_out: Integers | None = None
) -> tuple[Any, train.Fit]:
    """The upper network, fitted to the photos at `places`, and what was seen on the way."""
    train.make_repeatable(recipe.seed)
    targets = np.eye(labels.max() + 1, dtype=np.float32)[labels]
    network = upper_network(targets.shape[1], recipe.dropout, recipe.drop_path)
    efficientnet.load(network, efficientnet.pretrained())
    for layer in network.layers:
        layer.trainable = not isinstance(layer, keras.layers.DepthwiseConv2D)
    batches = Batches(recipe, reached, targets, places)
    model = keras.Model(network.input, network.output["logits"])
    model.compile(
        _optimizer(recipe, len(batches)),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.smoothing),
        metrics=["accuracy"],
    )
    validation = None
    if held_out is not None:
        validation = train.batches(reached[held_out, 0].astype(np.float32), targets[held_out], 128)
    return network, train.fit(model, batches, epochs=recipe.epochs, validation=validation)


def _optimizer(recipe: Recipe, steps: int) -> Any:
    """The rate rises during half an epoch, then falls to 0 along a cosine."""
    rising = steps // 2
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, recipe.epochs * steps - rising, warmup_target=recipe.learning_rate, warmup_steps=rising
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, beta_2=0.99, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """Each epoch in a new order, of each photo another view, and each photo mixed with another of its batch."""

    def __init__(self, recipe: Recipe, reached: Array, targets: Array, places: Integers) -> None:
        super().__init__()
        self.recipe, self.reached, self.targets, self.places = recipe, reached, targets, places
        self.epoch = 0

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def __len__(self) -> int:
        return -(-len(self.places) // self.recipe.batch_size)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        order = np.random.default_rng([self.recipe.seed, self.epoch]).permutation(self.places)
        places = order[index * self.recipe.batch_size :][: self.recipe.batch_size]
        views = self.reached.shape[1] - 1
        values = self.reached[places, 1 + (places + self.epoch) % views].astype(np.float32)
        generator = np.random.default_rng([self.recipe.seed, self.epoch, index])
        share = generator.beta(self.recipe.mixing, self.recipe.mixing, len(places)).astype(np.float32)
        share = np.maximum(share, 1 - share)
        return _mix(values, share), _mix(self.targets[places], share)


def _mix(values: Array, share: Array) -> Array:
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    mixed: Array = share * values + (1 - share) * values[::-1]
    return mixed
