"""The plots of a model card. Without pyplot, which has global state and may need a display."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.data import Array
from training.evaluation import calibration
from training.evaluation.calibration import Bin
from training.evaluation.classifier import Classifier

BLUE, ORANGE, GREY = "#1f5fa8", "#d9622b", "#5b6470"


def classifier_plots(
    classifier: Classifier,
    metrics: dict[str, Any],
    history: dict[str, list[float]],
    folder: Path,
    examples: str = "pictures",
) -> None:
    """Learning curve, confusion matrix (test) and reliability diagram (validation)."""
    learning_curve(history, folder / "learning_curve.png")
    confusion(np.array(metrics["confusion_matrix"]), classifier.names, folder / "confusion_matrix.png", examples)
    predictions = classifier.predict_held_out()
    before, after = (
        calibration.reliability(classifier.held_out.labels, each)
        for each in (predictions.uncalibrated, predictions.probabilities)
    )
    reliability(before, after, folder / "reliability.png", examples)


def learning_curve(history: dict[str, list[float]], path: Path, *, log: bool = False) -> None:
    """Loss, and accuracy where there is one, over the epochs; the validation's beside the training's."""
    measures = [name for name in ("loss", "accuracy") if name in history]
    figure = Figure(figsize=(5.2 * len(measures), 4), layout="constrained")
    for panel, measure in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), panel)
        epochs = range(1, len(history[measure]) + 1)
        marker = "o" if len(epochs) <= 40 else ""
        axes.plot(epochs, history[measure], color=BLUE, marker=marker, markersize=4, label="training")
        validation = history.get(f"val_{measure}")
        if validation:
            axes.plot(epochs, validation, color=ORANGE, marker=marker, markersize=4, label="validation")
            axes.legend(frameon=False)
        if log:
            axes.set_yscale("log")
        axes.set_title(f"{measure.capitalize()} per epoch", loc="left")
        axes.set_xlabel("epoch")
        axes.set_ylabel(measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes)
    _save(figure, path)


def confusion(matrix: Array, names: tuple[str, ...], path: Path, examples: str = "pictures") -> None:
    """Every cell shows its count; its shade is the share of the row, so that rare classes show as well."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(8.2, 7.4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        # Zeros are left out: what is wrong shows at a glance.
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count or ""), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("called by the model")
    axes.set_ylabel("what it is")
    axes.set_title(f"Confusion matrix, {matrix.sum():,} test {examples}", loc="left")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the row")
    _save(figure, path)


def reliability(before: list[Bin], after: list[Bin], path: Path, examples: str = "pictures") -> None:
    """Accuracy by confidence, before and after the temperature; a point's size is its share of the predictions."""
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as sure as right")
    for bins, colour, label in ((before, ORANGE, "before"), (after, BLUE, "after the temperature")):
        confidence, accuracy = [each.confidence for each in bins], [each.accuracy for each in bins]
        axes.plot(confidence, accuracy, color=colour, linewidth=1, label=label)
        axes.scatter(confidence, accuracy, [8 + 200 * each.share for each in bins], color=colour, alpha=0.8)
    axes.set_title(f"Confidence and accuracy, validation {examples}", loc="left")
    axes.set_xlabel("confidence of the answers")
    axes.set_ylabel("share that is right")
    axes.legend(frameon=False, loc="upper left")
    _tidy(axes)
    _save(figure, path)


def fitted_line(x: Array, y: Array, weight: float, bias: float, at: float, path: Path) -> None:
    """The points, the line through them, and its value at an x that was not trained on."""
    figure = Figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.add_subplot()
    ends = np.array([float(np.min(x)) - 1, at + 1])
    axes.plot(ends, weight * ends + bias, color=BLUE, label=f"fitted: y = {weight:.3f}·x + {bias:.3f}")
    axes.plot(x, y, "o", color=ORANGE, label="training points")
    answer = weight * at + bias
    axes.plot([at], [answer], "D", color=GREY, label=f"asked: x = {at:g}, answered {answer:.2f}")
    axes.set_title("Points and fitted line", loc="left")
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.legend(frameon=False, loc="upper left")
    _tidy(axes)
    _save(figure, path)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#d8dce1", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    # matplotlib's version in the file would make every upgrade a change of all pictures.
    figure.savefig(path, dpi=110, metadata={"Software": None})
