"""Occlusion maps: how much the score of a label falls when a patch of the picture is hidden."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt

import numpy as np

from service.errors import InvalidRequest
from service.inference.classification import label_scores
from service.inference.version import LoadedVersion
from service.tensors.dtypes import Array

# A person who clicks waits this long. More cells than the maximum show nothing new.
MAX_SECONDS = 1.0
MIN_CELLS, MAX_CELLS = 5, 20
# Of the picture's side. The score of a sure model does not fall for smaller patches.
PATCH = 1 / 4


@dataclass(frozen=True, slots=True)
class OcclusionMap:
    """`drops`, [rows, columns]: the fall of the score when the patch around a cell is hidden; negative if it rises."""

    label: str
    score: float
    drops: Array


def occlusion_map(
    loaded: LoadedVersion,
    signature_name: str,
    picture: Mapping[str, Array],
    label: str,
    check: Callable[[], None] = lambda: None,
) -> OcclusionMap:
    """`picture`: the signature's only input, one row of a float or integer [1, height, width] or [1, height, width,
    channels]. `label`: empty for the best one. `check` is called before each run, and may raise.

    Runs the engine itself: what a person tries out must not count as predictions, nor as drift.

    Raises:
        InvalidRequest: the version has no labels, or not this one.
    """
    if loaded.label_output(signature_name) is None:
        raise InvalidRequest(f"{loaded.model} has no labels for {signature_name!r}: no score to explain")
    labels = loaded.config.labels
    if label and label not in labels:
        raise InvalidRequest(f"{loaded.model} has no label {label[:80]!r}; it has {', '.join(map(repr, labels))}")
    ((name, rows),) = picture.items()
    run_name = loaded.signature_to_run(signature_name)

    def scores(batch: Array) -> Array:
        check()
        return label_scores(loaded, signature_name, loaded.health.run(loaded.engine.run, run_name, {name: batch}))

    seen = scores(rows)[0]
    place = labels.index(label) if label else int(seen.argmax())
    cells = cells_within(loaded.pace.row_seconds)
    hidden = [scores(batch)[:, place] for batch in _batches(rows[0], cells, loaded.limits.max_batch_size)]
    return OcclusionMap(labels[place], float(seen[place]), seen[place] - np.concatenate(hidden).reshape(cells, cells))


def cells_within(row_seconds: float) -> int:
    """Rows, and columns, of a map that takes at most MAX_SECONDS; at least MIN_CELLS."""
    affordable = isqrt(int(MAX_SECONDS / max(row_seconds, 1e-6)))
    return min(max(affordable, MIN_CELLS), MAX_CELLS)


def _batches(picture: Array, cells: int, size: int) -> Iterator[Array]:
    """The picture with the patch around each cell hidden, from the upper left row by row."""
    height, width = picture.shape[:2]
    ground = ground_of(picture)
    batch: list[Array] = []
    for row in range(cells):
        top, bottom = _span(row, cells, height)
        for column in range(cells):
            left, right = _span(column, cells, width)
            hidden = picture.copy()
            hidden[top:bottom, left:right] = ground
            batch.append(hidden)
            if len(batch) == size:
                yield np.stack(batch)
                batch = []
    if batch:
        yield np.stack(batch)


def _span(cell: int, cells: int, size: int) -> tuple[int, int]:
    middle, half = (cell + 0.5) * size / cells, PATCH * size / 2
    return max(0, round(middle - half)), min(size, max(round(middle + half), round(middle - half) + 1))


def ground_of(picture: Array) -> Array:
    """The mean of the outermost pixels, of each channel: what is behind the garment hides it best."""
    border = np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])
    ground: Array = border.mean(axis=0)
    return ground.astype(picture.dtype)
