"""What more units, layers, epochs and convolutions do to Fashion-MNIST: a table and curves (docs/exercises.md).

Result: OUTPUT/table.md and pictures; test accuracy from 0.819 (pixels not scaled) to 0.910 (one convolution).
Cost: 20 minutes of processor time, one with --quick, which is a first look; --only NAME does one exercise.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from training.config import check_output, check_seed
from training.data import datasets
from training.errors import ConfigError

if TYPE_CHECKING:
    from training.exercise_fit import Outcome

NAME = "exercises"
VALIDATION = 5_000  # the last of the training pictures
QUICK_TRAINING, QUICK_VALIDATION, QUICK_TEST = 6_000, 1_000, 2_000
QUICK_EPOCHS = 5  # so many times fewer
LEVEL = 0.9  # of the training accuracy
PATIENCE = 3  # epochs
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


def run(config: Config) -> None:
    data = datasets.fashion_mnist()

    from training import exercise_fit, exercise_pictures

    pictures, labels = data.train_images.astype(np.float32), data.train_labels
    training = exercise_fit.Split(pictures[:-VALIDATION], labels[:-VALIDATION])
    validation = exercise_fit.Split(pictures[-VALIDATION:], labels[-VALIDATION:])
    # Nothing is chosen by these: each exercise's model is asked about them once, after its fit, for the table.
    test = exercise_fit.Split(data.test_images.astype(np.float32), data.test_labels)
    if config.quick:
        training, validation = training.first(QUICK_TRAINING), validation.first(QUICK_VALIDATION)
        test = test.first(QUICK_TEST)
    boot = validation.pictures[validation.labels == data.names.index("Ankle boot")][0]
    outcomes = []
    for exercise in config.chosen:
        print(f"\n{exercise.name}: {exercise.layers}", flush=True)
        epochs = -(-exercise.epochs // QUICK_EPOCHS) if config.quick else exercise.epochs
        outcomes.append(exercise_fit.outcome(exercise, epochs, config.seed, training, validation, test))
        if exercise.filters:
            exercise_pictures.filters(outcomes[-1].model, boot, config.output / f"{exercise.name}-boot.png")
        # After each, so that a run that is ended leaves what it had.
        exercise_pictures.curves(outcomes, config.output)
        text = table(outcomes, len(training.labels), len(test.labels), quick=config.quick)
        (config.output / TABLE_FILE).write_text(text, "utf-8")
    print(f"\n{text}\nWritten     {config.output / TABLE_FILE} and pictures")


def table(outcomes: "list[Outcome]", training: int, test: int, *, quick: bool) -> str:
    """In Markdown, with what its columns mean; of so many pictures to train and to test."""
    rows = "\n".join(
        f"| {each.exercise.name} | {each.exercise.layers} | {len(each.history['loss'])} "
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
