"""A convolutional network tells ten kinds of clothing apart (Fashion-MNIST, 28×28 grey pictures).

Result: test accuracy 0.948; with --network dense, which is version 1, 0.887.
Cost: 77 minutes of fitting on one busy core with --precision mixed_bfloat16 (dense: half a minute). Killed, it goes on
where it was when it is run again.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service.serving_config import ImageSpec
from training.config import Config as BaseConfig
from training.console import load_tensorflow
from training.data import clothing_photos, fashion_mnist
from training.errors import DatasetError
from training.evaluation import classifier, outliers
from training.evaluation.classifier import Examples
from training.evaluation.evaluate import describe_accuracy
from training.export import model_card
from training.fit import devices
from training.fit.devices import PRECISIONS, STRATEGIES

if TYPE_CHECKING:
    from training.fit.strategy import Worker
    from training.fit.train import Fit

# Configuration

NAME = "clothing"
CLASSES = 10
VALIDATION = 5_000  # the last of the training pictures; the test pictures are used once, at the end
IMAGE = ImageSpec(height=28, width=28, mode="L", fit="contain", ground="black")
SAMPLE = "Sneaker"

# Of the training pictures' pixels, which the convolution scales to a mean of 0 and a standard deviation of 1.
MEAN, DEVIATION = 72.9, 90.0

# The convolution's fit.
SMOOTHING = 0.1  # of the targets: 0.91 for the true class, 0.01 for each other
WEIGHT_DECAY = 5e-3  # of the learning rate, each step
WARM_UP = 0.05  # of all steps
SHIFT = 2  # pixels
ERASED_SHARE, ERASED_SIDE = 0.5, 13


@dataclass(frozen=True)
class Recipe:
    epochs: int
    learning_rate: float


RECIPES = {"convolution": Recipe(epochs=36, learning_rate=0.1), "dense": Recipe(epochs=12, learning_rate=0.002)}


def _of_each(setting: str, what: str) -> Any:
    values = ", ".join(f"{network} {getattr(recipe, setting):g}" for network, recipe in RECIPES.items())
    return field(default=None, metadata={"help": what, "default": values})


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    network: str = field(default="convolution", metadata={"choices": tuple(RECIPES), "help": "what is fitted"})
    epochs: int = _of_each("epochs", "passes over the training data")
    batch_size: int = 128
    learning_rate: float = _of_each("learning_rate", "largest step size")
    precision: str = field(
        default="auto",
        metadata={"choices": PRECISIONS, "help": "what the fit computes in; the model is float32 in any case"},
    )
    strategy: str = field(
        default="one",
        metadata={"choices": STRATEGIES, "help": "who fits: one process, or those that TF_CONFIG names"},
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(RECIPES[self.network], name))  # the dataclass is frozen
        super().__post_init__()


# Networks: from pixels [n, 28, 28], 0…255, to features [n, d] and logits [n, 10].


def build(network: str) -> Any:
    return {"convolution": convolution, "dense": dense}[network]()


def dense() -> Any:
    """The tutorial's network: Flatten, 128 units, 10."""
    import keras  # here and below: `--help` and the defaults need no TensorFlow

    pixels = keras.Input((28, 28), name="pixels")
    values = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    features = keras.layers.Dense(128, activation="relu")(values)
    return keras.Model(pixels, {"features": features, "logits": keras.layers.Dense(CLASSES)(features)})


def convolution() -> Any:
    """A small residual network: two convolutions from 28×28 to 14×14, two blocks there, two at 7×7."""
    import keras

    def convolved(values: Any, filters: int, *, size: int = 3, stride: int = 1, active: bool = True) -> Any:
        values = keras.layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(values)
        values = keras.layers.BatchNormalization(momentum=0.98)(values)
        return keras.layers.ReLU()(values) if active else values

    def residual(values: Any, filters: int, stride: int) -> Any:
        """Two convolutions learn what to add to their input (He et al., 2015)."""
        added = convolved(convolved(values, filters, stride=stride), filters, active=False)
        if stride > 1:
            # The average of every four places instead of one of them: nothing is lost.
            values = convolved(keras.layers.AveragePooling2D(stride)(values), filters, size=1, active=False)
        return keras.layers.ReLU()(keras.layers.add([values, added]))

    pixels = keras.Input((28, 28), name="pixels")
    values = keras.layers.Rescaling(1 / DEVIATION, -MEAN / DEVIATION)(pixels)
    values = keras.layers.Reshape((28, 28, 1))(values)
    values = convolved(convolved(values, 24), 48, stride=2)
    blocks = [values]
    for filters, stride in ((48, 1), (48, 1), (96, 2), (96, 1)):
        blocks.append(residual(blocks[-1], filters, stride))
    # float32, whatever the fit computes in: these are sums over many places, and differences that decide.
    means = [keras.layers.GlobalAveragePooling2D(dtype="float32")(block) for block in blocks]
    logits = keras.layers.Dense(CLASSES, dtype="float32")(means[-1])
    return keras.Model(pixels, {"features": means, "logits": logits})


# Fit


def compile_settings(config: Config, steps: int) -> dict[str, Any]:
    """The optimizer and the loss.

    The rate falls to zero, so that the last epochs settle, and runs with other seeds or machines end close together.
    """
    import keras

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


def augment(pictures: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    from training.data import augmentation

    seeds = tf.random.experimental.stateless_split(seed, 3)
    pictures = augmentation.shift(augmentation.mirror(pictures, seeds[0]), seeds[1], pixels=SHIFT)
    return augmentation.erase(pictures, seeds[2], share=ERASED_SHARE, side=ERASED_SIDE), targets


def fit(config: Config, training: Examples, validation: Examples, worker: "Worker", backup: Path) -> tuple[Any, "Fit"]:
    """The fitted network, in float32, and the fit's history. Inputs [n, 28, 28], 0…255."""
    from training.fit import train

    one_hot = np.eye(CLASSES, dtype=np.float32)
    train.make_repeatable(config.seed)
    batches = train.batches(
        training.inputs.astype(np.float32),
        one_hot[training.labels],
        config.batch_size,
        shuffle_seed=config.seed,
        augment=augment if config.network == "convolution" else None,
    )
    with worker.scope(), devices.precision_scope(config.precision):
        network = build(config.network)
        model = worker.model(network.input, network.output["logits"])
        model.compile(
            **compile_settings(config, config.epochs * batches.steps), metrics=["accuracy"], jit_compile=False
        )
    fit = train.fit(
        model,
        batches,
        epochs=config.epochs,
        validation=train.batches(validation.inputs.astype(np.float32), one_hot[validation.labels], 1_000),
        backup=backup,
        worker=worker,
    )
    in_float32 = build(config.network)
    in_float32.set_weights(network.get_weights())
    return in_float32, fit


# Run


def run(config: Config) -> None:
    data = fashion_mnist.load()
    load_tensorflow()

    from PIL import Image

    from training.data import samples
    from training.evaluation import plots
    from training.export import twin, version
    from training.export.saved_model import classifier_graph
    from training.fit import backup, strategy, train

    worker = strategy.start(config.strategy)
    training = Examples(data.train_images[:-VALIDATION], data.train_labels[:-VALIDATION])
    validation = Examples(data.train_images[-VALIDATION:], data.train_labels[-VALIDATION:])
    backup_folder = backup.folder(config.output / NAME, config)
    with backup.resumable(backup_folder):
        network, fitting = fit(config, training, validation, worker, backup_folder)
    if not worker.chief:
        print(f"Done        worker {worker.index + 1} of {worker.count}; the first one evaluates and exports")
        return

    fitted = classifier.assemble(network, data.names, training, validation)
    # The test pictures are used only now.
    test = Examples(data.test_images, data.test_labels)
    probes = outliers.probe_pictures(test.inputs, config.seed)
    with suppress(DatasetError):  # if the photos are on this machine
        probes["photos of clothing"] = outliers.probe_photos(clothing_photos.local_folder() / "validation", IMAGE)
    metrics = {
        **classifier.metrics(fitted, test, probes),
        "training_examples": len(training.labels),
        "network": config.network,
        "precision": devices.chosen_precision(config.precision),
        **train.settings_and_cost(config, fitting.seconds, fitting.cores * worker.count),
    }

    def pictures(folder: Path) -> None:
        plots.classifier_plots(fitted, metrics, fitting.history, folder)
        # The validation picture of its class that the model is surest of.
        wanted = data.names.index(SAMPLE)
        certainty = fitted.predict_held_out().probabilities[:, wanted]
        best = np.where(validation.labels == wanted, certainty, -1).argmax()
        Image.fromarray(validation.inputs[best]).save(folder / "sample.png")

    exported = version.export(
        version.Package(
            name=NAME,
            graph=classifier_graph(fitted, "pixels"),
            twin=twin.Plan(inputs=validation.inputs),
            metrics=metrics,
            reference=fitted.reference("pixels", training.inputs),
            card=card,
            pictures=pictures,
            example={"picture": "sample.png"},
            labels=data.names,
            image=IMAGE,
            samples=lambda assets: samples.pictures(assets, data.test_images, data.test_labels, data.names),
            samples_from="test",
        ),
        config.output,
    )
    backup.Backup(backup_folder, worker).remove()
    sample = exported.version_dir / "assets.extra" / "sample.png"
    exported.print_summary(
        version.curl(exported.version_dir, "classify", sample),
        Accuracy=f"{describe_accuracy(metrics['accuracy'], metrics['test_examples'])} test pictures",
        Outliers=outliers.describe_threshold(metrics["validation_examples"], "pictures"),
    )


def card(metrics: dict[str, Any], twin: str) -> str:
    network = metrics["network"]
    values = model_card.classifier_values(metrics, twin, "pictures")
    return model_card.fill(
        "clothing",
        values
        | {
            "network_points": model_card.wrap(model_card.fill_part(f"_clothing_{network}", values)),
            "twin_point": model_card.wrap(f"- **Twin:** {twin}; the inputs are the validation pictures."),
            "runs": model_card.fill("_clothing_runs", {}) if network == "convolution" else "",
        },
    )
