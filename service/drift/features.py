"""What is watched of a model's inputs: a few numbers a row, each with the deciles it had in training.

Used by both sides: training sees of what size they are in its inputs, the service in what it is asked. NumPy only.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from service.tensors.dtypes import Array

# A row of at most so many values is watched value by value, a larger one (a picture, a recording) by its statistics,
MAX_VALUES = 32
# by those of each channel where its last axis has at most so many,
MAX_CHANNELS = 8
# and of a large one by those of every second, third ... place: so many tell as much, in a fraction of the time.
ENOUGH_PLACES = 256

# The last: the share of the places that have the smallest value, as the ground of a picture has. Of several channels
# there is also what each one's mean is above the next one's: photos are warm, inverted ones cold, and else quite alike.
STATISTICS = ("mean", "deviation", "smallest", "largest", "ground")


class InputFeatures:
    """Those of one input with rows of this shape, `size` values each. `names`: "x", "sizes[3]", "pixels mean",
    "motion[0] largest", "motion[0]-[1]"."""

    def __init__(self, name: str, row_shape: Sequence[int]) -> None:
        self.row_shape = tuple(row_shape)
        self.size = size = prod(row_shape)
        self._is_small = size <= MAX_VALUES
        self._channels = row_shape[-1] if len(row_shape) > 1 and row_shape[-1] <= MAX_CHANNELS else 1
        self._step = max(1, size // self._channels // ENOUGH_PLACES)
        if self._is_small:
            self.names = [name] if size == 1 else [f"{name}[{place}]" for place in range(size)]
        else:
            parts = [name] if self._channels == 1 else [f"{name}[{channel}]" for channel in range(self._channels)]
            self.names = [f"{part} {statistic}" for part in parts for statistic in STATISTICS]
            self.names += [f"{name}[{channel}]-[{channel + 1}]" for channel in range(self._channels - 1)]

    def take(self, rows: Array) -> Array:
        """What is looked at: [n, values] of small rows, [n, channels, places] of large ones; a view."""
        if self._is_small:
            return rows.reshape(len(rows), -1)
        by_channel = rows.reshape(len(rows), -1, self._channels).transpose(0, 2, 1)
        return by_channel[:, :, :: self._step]

    def measure(self, taken: Array, found: Array) -> None:
        """Into `found`, [n, names] float64."""
        if self._is_small:
            found[:] = taken
            return
        values = np.ascontiguousarray(taken, np.float64)
        places = values.shape[2]
        mean = np.add.reduce(values, axis=2) / places
        square = np.einsum("ncv,ncv->nc", values, values) / places
        smallest = np.minimum.reduce(values, axis=2)
        is_ground = (values == smallest[..., np.newaxis]).view(np.uint8)
        ground = np.add.reduce(is_ground, axis=2, dtype=np.uint16) / places
        deviation = np.sqrt(np.maximum(square - mean * mean, 0))
        measured = (mean, deviation, smallest, np.maximum.reduce(values, axis=2), ground)
        differences = len(STATISTICS) * self._channels
        for place, statistic in enumerate(measured):
            found[:, place : differences : len(STATISTICS)] = statistic
        np.subtract(mean[:, :-1], mean[:, 1:], out=found[:, differences:])


def features(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Each feature's value for each row, [n] float64, by its name.

    `inputs` are a signature's, the first axis the batch; what is no number, or is empty, has none.
    """
    found: dict[str, Array] = {}
    for name, array in inputs.items():
        if array.size and array.ndim and array.dtype.kind in "fiub":
            watched = InputFeatures(name, array.shape[1:])
            values = np.empty((len(array), len(watched.names)))
            watched.measure(watched.take(array), values)
            found |= zip(watched.names, values.T, strict=True)
    return found
