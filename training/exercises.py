"""What more units, layers, epochs and convolutions do to Fashion-MNIST: a table and curves (docs/exercises.md).

Result: OUTPUT/table.md and pictures; test accuracy from 0.819 (pixels not scaled) to 0.910 (one convolution).
Cost: 20 minutes of processor time, one with --quick, which is a first look; --only NAME does one exercise.
"""

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from training.config import check_output, check_seed
from training.console import load_tensorflow, quiet
from training.data import Array, fashion_mnist
from training.errors import ConfigError
from training.evaluation.evaluate import microseconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Configuration

NAME = "exercises"
VALIDATION = 5_000  # the last of the training pictures
BATCH_SIZE = 32
ACCURACY_LEVEL = 0.9  # of the training accuracy
PATIENCE = 3  # epochs
QUICK_TRAINING, QUICK_VALIDATION, QUICK_TEST = 6_000, 1_000, 2_000
QUICK_EPOCHS = 5  # so many times fewer
TABLE_FILE = "table.md"


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """`filters` of each 3×3 convolution, which 2×2 pooling follows; `units` of each dense layer before the last."""

    name: str
    filters: tuple[int, ...] = ()
    units: tuple[int, ...] = (128,)
    scaled: bool = True
    epochs: int = 5
    stop: Literal["never", "level", "patience"] = "never"

    @property
    def label(self) -> str:
        """The name, which says how many epochs there are, also of those that --quick leaves."""
        return f"epochs-{self.epochs}" if self.name.startswith("epochs-") else self.name

    @property
    def layers(self) -> str:
        layers = [f"{filters} filters" for filters in self.filters] + [f"{units} units" for units in self.units]
        return " → ".join([*layers, "10"])


EXERCISES = (
    Exercise(name="units-128"),
    Exercise(name="units-512", units=(512,)),
    Exercise(name="units-1024", units=(1024,)),
    Exercise(name="two-layers", units=(512, 256)),
    Exercise(name="epochs-15", epochs=15),
    Exercise(name="epochs-30", epochs=30),
    Exercise(name="not-scaled", scaled=False),
    Exercise(name="stop-at-level", epochs=30, stop="level"),
    Exercise(name="stop-by-patience", epochs=30, stop="patience"),
    Exercise(name="one-convolution", filters=(64,)),
    Exercise(name="two-convolutions", filters=(64, 64)),
)

# A picture, and the exercises whose curves it compares.
CURVES = {
    "units": ("units-128", "units-512", "units-1024", "two-layers"),
    "epochs": ("epochs-30",),
    "scaling": ("units-128", "not-scaled"),
    "stopping": ("epochs-30", "stop-at-level", "stop-by-patience"),
    "convolutions": ("units-128", "one-convolution", "two-convolutions"),
}
COLOURS = ("#1f5fa8", "#d9622b", "#3a8a4d", "#8a4da8")
MAPS = 15  # of a layer, in the picture of what the filters see


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 1
    output: Path = field(default=Path("exercises"), metadata={"help": "folder of the table and the pictures"})
    only: str = field(default="", metadata={"help": "names of exercises, with commas between; empty: all"})
    quick: bool = field(default=False, metadata={"help": "fewer pictures and epochs: a first look, not the result"})

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_output(self.output)
        known = [exercise.name for exercise in EXERCISES]
        for name in self.only.split(",") if self.only else ():
            if name not in known:
                raise ConfigError(f"only has {name!r}, expected of {', '.join(known)}")

    @property
    def chosen(self) -> tuple[Exercise, ...]:
        names = self.only.split(",")
        return tuple(exercise for exercise in EXERCISES if not self.only or exercise.name in names)


# Network


def build(exercise: Exercise) -> Any:
    from keras import Input, Sequential, layers  # here and below: `--help` needs no TensorFlow

    network = [Input((28, 28), name="pixels")]
    if exercise.scaled:
        network.append(layers.Rescaling(1 / 255))
    if exercise.filters:
        network.append(layers.Reshape((28, 28, 1)))
    for filters in exercise.filters:
        network += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D(2)]
    network.append(layers.Flatten())
    network += [layers.Dense(units, activation="relu") for units in exercise.units]
    return Sequential([*network, layers.Dense(10, activation="softmax")])


# Fit


@dataclass(frozen=True)
class Split:
    """Pictures [n, 28, 28], 0 to 255, and labels [n]."""

    pictures: Array
    labels: Array

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


def stopping(exercise: Exercise, model: Any) -> tuple[Any, ...]:
    """The callbacks that end the fit before its last epoch."""
    from keras.callbacks import EarlyStopping, LambdaCallback

    if exercise.stop == "level":

        def stop_at_level(_epoch: int, logs: dict[str, float]) -> None:
            model.stop_training = logs["accuracy"] > ACCURACY_LEVEL

        return (LambdaCallback(on_epoch_end=stop_at_level),)
    if exercise.stop == "patience":
        return (EarlyStopping("val_loss", patience=PATIENCE, restore_best_weights=True),)
    return ()


def outcome(exercise: Exercise, seed: int, training: Split, validation: Split, test: Split) -> Outcome:
    """Fits and measures. The same seed gives the same, whatever was fitted before."""
    from training.fit import train

    train.make_repeatable(seed)
    model = build(exercise)
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    cpu_start = time.process_time()
    fit = train.fit(
        model,
        train.batches(training.pictures, training.labels, BATCH_SIZE, shuffle_seed=seed),
        epochs=exercise.epochs,
        validation=train.batches(validation.pictures, validation.labels, 1_000),
        callbacks=stopping(exercise, model),
    )
    cpu_seconds = time.process_time() - cpu_start
    with quiet():
        twin = convert(model)
        time_taken = time_of_a_prediction(twin, validation.pictures[:1])
    return Outcome(
        exercise,
        model,
        fit.history,
        fit.seconds,
        cpu_seconds,
        accuracy(model, training),
        accuracy(model, test),
        len(twin),
        time_taken,
    )


def accuracy(model: Any, split: Split) -> float:
    predicted = model.predict(split.pictures, batch_size=1_000, verbose=0).argmax(axis=1)
    return float((predicted == split.labels).mean())


def convert(model: Any) -> bytes:
    """For LiteRT, in float32, as a shipped model's twin is; here without the proof."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        content: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        return content


def time_of_a_prediction(twin: bytes, picture: Array) -> float:
    """Microseconds for one picture, [1, 28, 28], on one thread."""
    from ai_edge_litert.interpreter import Interpreter

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


# Run


def run(config: Config) -> None:
    data = fashion_mnist.load()
    load_tensorflow()
    pictures, labels = data.train_images.astype(np.float32), data.train_labels
    training = Split(pictures[:-VALIDATION], labels[:-VALIDATION])
    validation = Split(pictures[-VALIDATION:], labels[-VALIDATION:])
    # Nothing is chosen by these: each exercise's model is evaluated on them once, after its fit, for the table.
    test = Split(data.test_images.astype(np.float32), data.test_labels)
    if config.quick:
        training, validation = training.first(QUICK_TRAINING), validation.first(QUICK_VALIDATION)
        test = test.first(QUICK_TEST)
    boot = validation.pictures[validation.labels == data.names.index("Ankle boot")][0]
    outcomes = []
    for chosen in config.chosen:
        exercise = replace(chosen, epochs=-(-chosen.epochs // QUICK_EPOCHS)) if config.quick else chosen
        print(f"\n{exercise.label}: {exercise.layers}", flush=True)
        outcomes.append(outcome(exercise, config.seed, training, validation, test))
        if exercise.filters:
            plot_filters(outcomes[-1].model, boot, config.output / f"{exercise.name}-boot.png")
        # After each, so that a run that is ended leaves what it had.
        plot_curves(outcomes, config.output)
        text = table(outcomes, len(training.labels), len(test.labels), quick=config.quick)
        (config.output / TABLE_FILE).write_text(text, "utf-8")
    print(f"\n{text}\nWritten     {config.output / TABLE_FILE} and pictures")


def table(outcomes: list[Outcome], training: int, test: int, *, quick: bool) -> str:
    """In Markdown, with what its columns mean; of so many pictures to train and to test."""
    rows = "\n".join(
        f"| {each.exercise.label} | {each.exercise.layers} | {len(each.history['loss'])} "
        f"| {each.model.count_params():,} | {each.seconds:.0f} | {each.cpu_seconds:.0f} "
        f"| {each.train_accuracy:.4f} | {each.test_accuracy:.4f} "
        f"| {each.twin_bytes / 1000:,.0f} KB | {each.microseconds:.0f} |"
        for each in outcomes
    )
    hint = "**Quick look with fewer pictures and epochs: the numbers are not the exercises' results.**\n\n"
    return f"""{hint if quick else ""}\
{training:,} pictures to train, {test:,} to test. A layer of filters is a convolution of 3×3 with pooling of 2×2.
Seconds: of the fit, by the clock and of the processor's time. Size: of the LiteRT twin. µs: one picture by the twin, on
one thread, the median of many.

| exercise | layers | epochs | parameters | seconds | CPU seconds | train accuracy | test accuracy | size | µs |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|
{rows}
"""


# Pictures


def plot_curves(outcomes: list[Outcome], folder: Path) -> None:
    """A picture for each comparison of which at least one exercise was done."""
    for name, compared in CURVES.items():
        shown = [each for each in outcomes if each.exercise.name in compared]
        if shown:
            _plot_curves(shown, folder / f"{name}.png")


def _plot_curves(shown: list[Outcome], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for panel, measure in enumerate(("loss", "accuracy"), start=1):
        axes = figure.add_subplot(1, 2, panel)
        for each, colour in zip(shown, COLOURS, strict=False):
            epochs = range(1, len(each.history[measure]) + 1)
            # One seed gives one way: a fit that stops early lies on the curve of the one that does not, as a band.
            band = each.exercise.stop != "never"
            style: dict[str, Any] = {"color": colour} | ({"linewidth": 7, "alpha": 0.35} if band else {})
            axes.plot(epochs, each.history[measure], label=each.exercise.label, **style)
            axes.plot(epochs, each.history[f"val_{measure}"], linestyle="-" if band else "--", **style)
        axes.set_title(f"{measure.capitalize()} (line: training, dashed: validation)", loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#d8dce1", linewidth=0.6)
        axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def plot_filters(model: Any, picture: Array, path: Path) -> None:
    """The picture [28, 28], and what the first filters that respond to it make of it.

    A row for each convolution and each pooling, every map in shades of its own.
    """
    import keras
    from matplotlib.figure import Figure

    seen = [layer for layer in model.layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.MaxPooling2D))]
    maps = keras.Model(model.inputs[0], [layer.output for layer in seen])(picture[np.newaxis])
    figure = Figure(figsize=(9, 0.75 * len(seen) + 0.2), layout="constrained")
    grid = figure.subplots(len(seen), MAPS + 1, squeeze=False)
    responding: list[int] = []
    for row, (layer, tensor) in enumerate(zip(seen, maps, strict=True)):
        values = np.asarray(tensor)[0]
        if isinstance(layer, keras.layers.Conv2D):  # the pooling below shows the same filters
            responding = np.flatnonzero(values.any(axis=(0, 1)))[:MAPS].tolist()
        for column, axes in enumerate(grid[row]):
            axes.set_axis_off()
            if 0 < column <= len(responding):
                axes.imshow(values[:, :, responding[column - 1]], cmap="viridis")
        size = f"{values.shape[0]}×{values.shape[1]}"
        grid[row][0].text(0, 0.1, f"{'pooled' if row % 2 else 'filters'}\n{size}", fontsize=8)
    grid[0][0].clear()
    grid[0][0].set_axis_off()
    grid[0][0].imshow(picture, cmap="gray")
    _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    # matplotlib's version in the file would make every upgrade a change of all pictures.
    figure.savefig(path, dpi=90, metadata={"Software": None})
