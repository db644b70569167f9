"""How each network of `clothing` is fitted: the optimizer, its rate over time, what is altered on the way."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.data import augmentation
from training.evaluation.classifier import Examples
from training.evaluation.evaluate import Integers
from training.fit import devices, train
from training.fit.strategy import Worker
from training.models.clothing_config import Config
from training.models.clothing_networks import CLASSES, NETWORKS

SMOOTHING = 0.1  # of the convolution's targets: 0.91 for what it is, 0.01 for each other class
WEIGHT_DECAY = 5e-3  # of the learning rate, each step
WARM_UP = 0.05  # of all steps


def fit(
    config: Config, training: Examples, validation: Examples, worker: Worker, backup: Path
) -> tuple[Any, train.Fit]:
    """The fitted network, in float32, and what was seen on the way. Inputs [n, 28, 28], 0…255."""
    train.make_repeatable(config.seed)
    batches = train.batches(
        training.inputs.astype(np.float32),
        _one_hot(training.labels),
        config.batch_size,
        shuffle_seed=config.seed,
        augment=_alter if config.network == "convolution" else None,
    )
    with worker.scope(), devices.computing_in(config.precision):
        network = NETWORKS[config.network]()
        model = worker.model(network.input, network.output["logits"])
        model.compile(**_settings(config, config.epochs * batches.steps), metrics=["accuracy"], jit_compile=False)
    fit = train.fit(
        model,
        batches,
        epochs=config.epochs,
        validation=train.batches(validation.inputs.astype(np.float32), _one_hot(validation.labels), 1_000),
        backup=backup,
        worker=worker,
    )
    exact = NETWORKS[config.network]()
    exact.set_weights(network.get_weights())
    return exact, fit


def _settings(config: Config, steps: int) -> dict[str, Any]:
    """The rate falls to zero, so that the last epochs settle and seeds and machines end close together."""
    if config.network == "dense":
        rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
        return {
            "optimizer": keras.optimizers.Adam(rate),
            "loss": keras.losses.CategoricalCrossentropy(from_logits=True),
        }
    rising = int(WARM_UP * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - rising, warmup_target=config.learning_rate, warmup_steps=rising
    )
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING)
    return {"optimizer": optimizer, "loss": loss}


def _one_hot(labels: Integers) -> Any:
    return np.eye(CLASSES, dtype=np.float32)[labels]


def _alter(pictures: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
    seeds = tf.random.experimental.stateless_split(seed, 3)
    pictures = augmentation.shift(augmentation.mirror(pictures, seeds[0]), seeds[1], pixels=2)
    return augmentation.erase(pictures, seeds[2], share=0.5, side=13), targets
