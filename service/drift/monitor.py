"""Drift of one version: what it is asked and answers comes row by row into a window, which is compared with its
reference."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import random
from time import perf_counter

import numpy as np

from service.drift.features import InputFeatures
from service.drift.psi import LABEL, Bins
from service.drift.window import Sample, Window
from service.tensors.dtypes import Array

# To measure many rows together takes a fraction of the time, so that they wait for each other: so many at most,
WAITING_ROWS = 32
# and after so many seconds only for the next.
WAITING_SECONDS = 1.0
# Of a row with more values only those that are looked at wait,
MAX_QUEUED_VALUES = 4_096
# and two of five requests with such rows are looked at: they take longer.
SHARE_OF_LARGE = 0.4
# Rows of one request that are measured together.
MAX_ROWS_AT_ONCE = 1_000
# With fewer in the window even what is quite foreign does not stand out.
MIN_ROWS = 30


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """`shift`: None for labels, which have no order."""

    feature: str
    psi: float
    shift: float | None


@dataclass(frozen=True, slots=True)
class DriftNow:
    """`rows`: in the window; as long as they are too few, `features` is empty."""

    rows: int
    features: Sequence[FeatureDrift]


class Drift:
    def __init__(
        self,
        inputs: Mapping[str, InputFeatures],
        bins: Bins,
        signatures: Mapping[str, str | None],
        window: Window,
        requests_per_second: float,
        draw: Callable[[], float] = random,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`inputs`: by name, in the order of the bins. `signatures`: those that take these inputs, each with the output
        that holds a classifier's scores. `requests_per_second`: that are looked at; `draw`: which, see Sample."""
        self._names = list(inputs)
        self._bins = bins
        self._signatures = signatures
        self._window = window
        self._clock = clock
        self._is_large = sum(each.size for each in inputs.values()) > MAX_QUEUED_VALUES
        self._sample = Sample(SHARE_OF_LARGE if self._is_large else 1.0, requests_per_second, draw, clock)
        self._lock = threading.Lock()
        self._waiting: list[list[Array]] = []
        self._waiting_rows = 0
        self._measured_at = clock()
        self._latest: tuple[int, DriftNow] | None = None

    def observe(self, signature: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """What it was asked, and answered."""
        if signature not in self._signatures or not self._sample.takes():
            return
        arrays = [inputs[name] for name in self._names]
        if scores := self._signatures[signature]:
            arrays.append(outputs[scores])
        rows = arrays[0].shape[0] if arrays[0].ndim else 0
        for array, row_shape in zip(arrays, self._bins.row_shapes, strict=False):
            # A graph may take, and give, other shapes than its signature says.
            if not rows or array.shape != (rows, *row_shape):
                return
        if rows >= WAITING_ROWS:
            self._measure_many(arrays, rows)
            return
        if self._is_large:
            arrays = [array.copy() for array in self._bins.take(arrays)]
        with self._lock:
            self._waiting.append(arrays)
            self._waiting_rows += rows
            if self._waiting_rows >= WAITING_ROWS or self._clock() - self._measured_at >= WAITING_SECONDS:
                self._measure_waiting()

    def now(self) -> DriftNow:
        with self._lock:
            self._measure_waiting()
            came = self._window.came
            if self._latest is None or self._latest[0] != came:
                self._latest = came, self._compare(self._window.rows())
            return self._latest[1]

    def _measure_many(self, arrays: Sequence[Array], rows: int) -> None:
        # Of more than the window holds, some from everywhere.
        step = -(-rows // self._window.size)
        for first in range(0, rows, MAX_ROWS_AT_ONCE * step):
            taken = self._bins.take([array[first : first + MAX_ROWS_AT_ONCE * step : step] for array in arrays])
            with self._lock:
                self._add(taken)

    def _measure_waiting(self) -> None:
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        self._measured_at = self._clock()
        if waiting:
            together = [np.concatenate(arrays) for arrays in zip(*waiting, strict=True)]
            self._add(together if self._is_large else self._bins.take(together))

    def _add(self, taken: Sequence[Array]) -> None:
        # Infinite inputs are no fault of ours.
        with np.errstate(invalid="ignore", over="ignore"):
            self._window.append(self._bins.of(taken))

    def _compare(self, rows: Array) -> DriftNow:
        if len(rows) < MIN_ROWS:
            return DriftNow(len(rows), ())
        counts = self._bins.count(rows)
        psi, shift = (found.tolist() for found in (self._bins.measure.psi(counts), self._bins.measure.shift(counts)))
        return DriftNow(
            len(rows),
            [
                FeatureDrift(name, psi[place], None if name == LABEL else shift[place])
                for place, name in enumerate(self._bins.names)
            ],
        )
