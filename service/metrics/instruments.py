"""Counters, gauges and histograms over the cells of a store, and families of them, one for each set of labels."""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from math import isfinite
from threading import Lock
from typing import ClassVar, Generic, TypeVar

import numpy as np

from service.runtime.shared_memory import Cells, Kind, Store
from service.tensors.dtypes import Array


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
    """Its cells: how many were at most the first bound, how many more the second, ... how many above all; the sum."""

    __slots__ = ("bounds", "cells", "lock")

    def __init__(self, cells: Cells, lock: Lock, bounds: Sequence[float]) -> None:
        self.cells = cells
        self.lock = lock
        self.bounds = bounds

    def observe(self, value: float) -> None:
        with self.lock:
            self.observe_locked(value)

    def observe_all(self, values: Array) -> None:
        """Many at once, [count]."""
        places = np.bincount(np.searchsorted(self.bounds, values)).tolist()
        with self.lock:
            for place, count in enumerate(places):
                if count:
                    self.cells[place] += count
            self.cells[-1] += float(values.sum())

    def observe_locked(self, value: float) -> None:
        """For who has taken the lock, to record several things at once."""
        cells = self.cells
        cells[bisect_left(self.bounds, value)] += 1.0
        cells[-1] += value


Instrument = TypeVar("Instrument")


class Family(ABC, Generic[Instrument]):
    """One metric. `name` is without the `_total` that Prometheus wants behind a counter's."""

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
        """The one instrument of this process for these values. They stand in the order of the names."""
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
    """Added up over the processes that live."""

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


# What a version with labels predicts: which label comes first, and with which score.

# Up to here Python's own lists are quicker than NumPy's calls.
MAX_LOOPED_ROWS = 8


class PredictionMetrics:
    """Of one version."""

    def __init__(self, predictions: Counters, confidence: Histogram, model: str, version: str) -> None:
        self._predictions = predictions
        self._confidence = confidence
        self._version = (model, version)
        self._counters: dict[str, Counter] = {}

    def record(self, labels: Sequence[str], scores: Array) -> None:
        """`scores`: [batch, labels]. Rows whose best is not finite are left out: one NaN would make the sum of all
        confidences NaN for ever."""
        if len(scores) <= MAX_LOOPED_ROWS:
            for row in scores.tolist():
                confidence = max(row)
                if isfinite(confidence):
                    self._counter(labels[row.index(confidence)]).inc()
                    self._confidence.observe(confidence)
            return
        confidences = scores.max(axis=1)
        finite = np.isfinite(confidences)
        for place, count in enumerate(np.bincount(scores.argmax(axis=1)[finite]).tolist()):
            if count:
                self._counter(labels[place]).inc(count)
        self._confidence.observe_all(confidences[finite])

    def _counter(self, label: str) -> Counter:
        counter = self._counters.get(label)
        if counter is None:
            counter = self._counters[label] = self._predictions.labels(*self._version, label)
        return counter


# Outlier scores, as a histogram.


class OutlierScoreMetrics:
    """Of one version."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def record(self, scores: Sequence[float]) -> None:
        """In units of the threshold. What is no finite number counts as above all bounds, and is left out of the sum,
        which would never be a number again."""
        histogram = self._histogram
        with histogram.lock:
            for score in scores:
                if isfinite(score):
                    histogram.observe_locked(score)
                else:
                    histogram.cells[-2] += 1.0
