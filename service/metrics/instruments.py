"""Counters, gauges and histograms in the cells of a store. A family has one for each set of labels."""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from math import isfinite
from threading import Lock
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.runtime.shared_memory import Cells, Kind, Store

Array = NDArray[Any]


class Counter:
    __slots__ = ("cells", "lock")

    def __init__(self, cells: Cells, lock: Lock) -> None:
        self.cells = cells
        self.lock = lock

    def inc(self, amount: float = 1) -> None:
        with self.lock:
            self.cells[0] += amount


class Gauge:
    __slots__ = ("cells",)

    def __init__(self, cells: Cells) -> None:
        self.cells = cells

    def set(self, value: float) -> None:
        self.cells[0] = value


class Histogram:
    """Its cells: one count for each bound, of the values up to it and above the one before; the count of those above
    all bounds; the sum of all values."""

    __slots__ = ("bounds", "cells", "lock")

    def __init__(self, cells: Cells, lock: Lock, bounds: Sequence[float]) -> None:
        self.cells = cells
        self.lock = lock
        self.bounds = bounds

    def observe(self, value: float) -> None:
        with self.lock:
            self.observe_locked(value)

    def observe_all(self, values: Array) -> None:
        """Observe many values, [count]."""
        places = np.bincount(np.searchsorted(self.bounds, values)).tolist()
        with self.lock:
            for place, count in enumerate(places):
                if count:
                    self.cells[place] += count
            self.cells[-1] += float(values.sum())

    def observe_locked(self, value: float) -> None:
        """Observe while holding the lock, to record several things at once."""
        cells = self.cells
        cells[bisect_left(self.bounds, value)] += 1.0
        cells[-1] += value


Instrument = TypeVar("Instrument")


class Family(ABC, Generic[Instrument]):
    """One metric. `name` lacks the `_total` of counters."""

    type: ClassVar[str]
    kind: ClassVar[Kind] = Kind.COUNT
    size = 1

    def __init__(self, store: Store, name: str, documentation: str, label_names: Sequence[str]) -> None:
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(label_names)
        self._store = store
        self._instruments: dict[tuple[str, ...], Instrument] = {}

    def labels(self, *values: str) -> Instrument:
        """This process's instrument for these values, which are in the order of the names."""
        instrument = self._instruments.get(values)
        if instrument is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, not {len(values)}: {values}")
            cells = self._store.cells(self.kind, self.name, values, self.size)
            instrument = self._instruments[values] = self._instrument(cells)
        return instrument

    @abstractmethod
    def _instrument(self, cells: Cells) -> Instrument: ...


class Counters(Family[Counter]):
    type = "counter"

    def _instrument(self, cells: Cells) -> Counter:
        return Counter(cells, self._store.lock)


class Gauges(Family[Gauge]):
    """Added up over the living processes."""

    type = "gauge"
    kind = Kind.GAUGE

    def _instrument(self, cells: Cells) -> Gauge:
        return Gauge(cells)


class Histograms(Family[Histogram]):
    type = "histogram"

    def __init__(
        self, store: Store, name: str, documentation: str, label_names: Sequence[str], bounds: Sequence[float]
    ) -> None:
        super().__init__(store, name, documentation, label_names)
        self.bounds = tuple(bounds)
        self.size = len(bounds) + 2

    def _instrument(self, cells: Cells) -> Histogram:
        return Histogram(cells, self._store.lock, self.bounds)


# Up to here a Python loop is quicker than NumPy's calls.
MAX_LOOPED_ROWS = 8


class PredictionMetrics:
    """The predictions of a version with labels: the best label and its score."""

    def __init__(self, predictions: Counters, confidence: Histogram, model: str, version: str) -> None:
        self._predictions = predictions
        self._confidence = confidence
        self._version = (model, version)
        self._counters: dict[str, Counter] = {}

    def record(self, labels: Sequence[str], places: Sequence[int], confidences: Sequence[float]) -> None:
        """Of each row, the best label's place among `labels` and its score. Rows whose score is not finite are left
        out: one NaN would make the sum NaN for ever."""
        if len(places) <= MAX_LOOPED_ROWS:
            for row, place in enumerate(places):
                confidence = confidences[row]
                if isfinite(confidence):
                    self._counter(labels[place]).inc()
                    self._confidence.observe(confidence)
            return
        scores = np.asarray(confidences)
        finite = np.isfinite(scores)
        for place, count in enumerate(np.bincount(np.asarray(places)[finite]).tolist()):
            if count:
                self._counter(labels[place]).inc(count)
        self._confidence.observe_all(scores[finite])

    def _counter(self, label: str) -> Counter:
        counter = self._counters.get(label)
        if counter is None:
            counter = self._counters[label] = self._predictions.labels(*self._version, label)
        return counter


class OutlierScoreMetrics:
    """The outlier scores of a version, as a histogram."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def record(self, scores: Sequence[float]) -> None:
        """`scores`: 1 is the threshold. A score that is not finite counts as above all bounds, and is left out of the
        sum, which it would spoil for ever."""
        histogram = self._histogram
        with histogram.lock:
            for score in scores:
                if isfinite(score):
                    histogram.observe_locked(score)
                else:
                    histogram.cells[-2] += 1.0
