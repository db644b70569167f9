"""Features of a model's inputs: a few numbers for each row, whose distribution drifts when the inputs do.

Training measures them on its inputs, the service on requests. Needs only NumPy.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from service.tensors.dtypes import Array

# A row with at most this many values has a feature for each value. A larger one, such as a picture, has statistics,
MAX_VALUES = 32
# for each channel if its last axis has at most this many,
MAX_CHANNELS = 8
# computed over every second, third ... place of a large one: this many say as much, in a fraction of the time.
ENOUGH_PLACES = 256

# "ground": the share of places that have the smallest value, like the ground of a picture. Neighbouring channels have
# one more feature, the difference of their means: photos are warm, inverted ones cold, and otherwise much the same.
STATISTICS = ("mean", "deviation", "smallest", "largest", "ground")


class InputFeatures:
    """Features of one input with rows of this shape. `size`: values in a row. `names`: "x", "sizes[3]", "pixels mean",
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

    def select(self, rows: Array) -> Array:
        """The measured values: [n, values] of small rows, [n, channels, places] of large ones; a view."""
        if self._is_small:
            return rows.reshape(len(rows), -1)
        by_channel = rows.reshape(len(rows), -1, self._channels).transpose(0, 2, 1)
        return by_channel[:, :, :: self._step]

    def measure(self, selected: Array, found: Array) -> None:
        """Write the features into `found`, [n, names] float64."""
        if self._is_small:
            found[:] = selected
            return
        values = np.ascontiguousarray(selected, np.float64)
        places = values.shape[2]
        mean = np.add.reduce(values, axis=2) / places
        square = np.einsum("ncv,ncv->nc", values, values) / places
        smallest = np.minimum.reduce(values, axis=2)
        is_ground = (values == smallest[..., np.newaxis]).view(np.uint8)
        ground = np.add.reduce(is_ground, axis=2, dtype=np.uint16) / places
        deviation = np.sqrt(np.maximum(square - mean * mean, 0))
        measured = (mean, deviation, smallest, np.maximum.reduce(values, axis=2), ground)
        differences = len(STATISTICS) * self._channels
        for index, statistic in enumerate(measured):
            found[:, index : differences : len(STATISTICS)] = statistic
        if self._channels > 1:
            np.subtract(mean[:, :-1], mean[:, 1:], out=found[:, differences:])


def features(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Each feature's value for each row, [n] float64, by its name.

    `inputs` are a signature's, with the batch as the first axis. Strings and empty arrays have no features.
    """
    found: dict[str, Array] = {}
    for name, array in inputs.items():
        if array.size and array.ndim and array.dtype.kind in "fiub":
            of_input = InputFeatures(name, array.shape[1:])
            values = np.empty((len(array), len(of_input.names)))
            of_input.measure(of_input.select(array), values)
            found |= zip(of_input.names, values.T, strict=True)
    return found
