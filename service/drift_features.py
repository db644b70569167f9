"""What is watched of a model's inputs: a few numbers a row, each with the deciles it had in training.

Used by both sides: training counts the training inputs into bins, the service what it is asked. NumPy only.
"""

from collections.abc import Mapping

import numpy as np

from service.tensors import Array

# A row of at most so many values is watched value by value, a larger one (a picture, a recording) by its statistics,
MOST_VALUES = 32
# by those of each channel where its last axis has at most so many,
MOST_CHANNELS = 8
# and of a large one by those of every second, third ... place: so many tell about as much, in a fraction of the time.
ENOUGH_PLACES = 4_096

STATISTICS = ("mean", "deviation", "smallest", "largest")


def features(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Each feature's value for each row, [n] float64, by name: "x", "sizes[3]", "pixels mean", "motion[0] largest".

    `inputs` are a signature's, the first axis the batch; what is no number, or is empty, has none.
    """
    found: dict[str, Array] = {}
    for name, array in inputs.items():
        if array.size and array.ndim and array.dtype.kind in "fiub":
            found |= _values(name, array) if array[:1].size <= MOST_VALUES else _statistics(name, array)
    return found


def _values(name: str, array: Array) -> dict[str, Array]:
    rows = array.reshape(len(array), -1).astype(np.float64)
    if rows.shape[1] == 1:
        return {name: rows[:, 0]}
    return {f"{name}[{place}]": rows[:, place] for place in range(rows.shape[1])}


def _statistics(name: str, array: Array) -> dict[str, Array]:
    channels = array.shape[-1] if array.ndim > 2 and array.shape[-1] <= MOST_CHANNELS else 1
    rows = array.reshape(len(array), -1, channels)
    if rows.shape[1] > ENOUGH_PLACES:
        rows = rows[:, :: rows.shape[1] // ENOUGH_PLACES]
    rows = np.ascontiguousarray(rows.transpose(0, 2, 1), np.float64)
    mean = rows.sum(axis=2) / rows.shape[2]
    square = np.einsum("ncv,ncv->nc", rows, rows) / rows.shape[2]
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    columns = (mean, deviation, rows.min(axis=2), rows.max(axis=2))
    return {
        f"{name}{f'[{channel}]' if channels > 1 else ''} {statistic}": column[:, channel]
        for channel in range(channels)
        for statistic, column in zip(STATISTICS, columns, strict=True)
    }


def count(values: Array, edges: Array) -> Array:
    """How many values fall into each bin, [len(edges) + 1]: up to the first edge, up to the second ..., above the last.

    What is no number (NaN) is not counted."""
    return np.bincount(np.searchsorted(edges, values[~np.isnan(values)]), minlength=len(edges) + 1)
