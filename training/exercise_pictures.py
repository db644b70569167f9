"""The exercises' pictures: curves to compare, and what a convolution sees."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from training.exercise_fit import Outcome

# A picture, and the exercises whose curves stand in it.
CURVES = {
    "units": ("units-128", "units-512", "units-1024", "two-layers"),
    "epochs": ("epochs-30",),
    "scaling": ("units-128", "not-scaled"),
    "stopping": ("epochs-30", "stop-at-level", "stop-by-patience"),
    "convolutions": ("units-128", "one-convolution", "two-convolutions"),
}
COLOURS = ("#1f5fa8", "#d9622b", "#3a8a4d", "#8a4da8")
MAPS = 15


def curves(outcomes: "list[Outcome]", folder: Path) -> None:
    """A picture for each comparison of which at least one exercise was done."""
    for name, compared in CURVES.items():
        shown = [each for each in outcomes if each.exercise.name in compared]
        if shown:
            _curves(shown, folder / f"{name}.png")


def _curves(shown: "list[Outcome]", path: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for panel, measure in enumerate(("loss", "accuracy"), start=1):
        axes = figure.add_subplot(1, 2, panel)
        for each, colour in zip(shown, COLOURS, strict=False):
            epochs = range(1, len(each.history[measure]) + 1)
            # One seed gives one way: a fit that stops early lies on the curve of the one that does not, as a band.
            band = each.exercise.stop != "never"
            style: dict[str, Any] = {"color": colour} | ({"linewidth": 7, "alpha": 0.35} if band else {})
            axes.plot(epochs, each.history[measure], label=each.exercise.name, **style)
            axes.plot(epochs, each.history[f"val_{measure}"], linestyle="-" if band else "--", **style)
        axes.set_title(f"{measure.capitalize()} (line: training, dashed: validation)", loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#d8dce1", linewidth=0.6)
        axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def filters(model: Any, picture: np.ndarray[Any, Any], path: Path) -> None:
    """The picture [28, 28], and what the first filters that answer to it make of it: a row for each convolution and
    each pooling, every map in shades of its own."""
    import keras

    seen = [layer for layer in model.layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.MaxPooling2D))]
    maps = keras.Model(model.inputs[0], [layer.output for layer in seen])(picture[np.newaxis])
    figure = Figure(figsize=(9, 0.75 * len(seen) + 0.2), layout="constrained")
    grid = figure.subplots(len(seen), MAPS + 1, squeeze=False)
    answering: list[int] = []
    for row, (layer, tensor) in enumerate(zip(seen, maps, strict=True)):
        values = np.asarray(tensor)[0]
        if isinstance(layer, keras.layers.Conv2D):  # the pooling below shows the same filters
            answering = np.flatnonzero(values.any(axis=(0, 1)))[:MAPS].tolist()
        for column, axes in enumerate(grid[row]):
            axes.set_axis_off()
            if 0 < column <= len(answering):
                axes.imshow(values[:, :, answering[column - 1]], cmap="viridis")
        size = f"{values.shape[0]}×{values.shape[1]}"
        grid[row][0].text(0, 0.1, f"{'pooled' if row % 2 else 'filters'}\n{size}", fontsize=8)
    grid[0][0].clear()
    grid[0][0].set_axis_off()
    grid[0][0].imshow(picture, cmap="gray")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    # matplotlib's version in the file would make every upgrade a change of all pictures.
    figure.savefig(path, dpi=90, metadata={"Software": None})
