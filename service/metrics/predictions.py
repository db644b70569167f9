"""What a version with labels predicts: which label comes first, and with which score."""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from service.metrics.instruments import Counter, Counters, Histogram
from service.tensors.json import Array

# Up to here Python's own lists are quicker than NumPy's calls.
FEW_ROWS = 8


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
        if len(scores) <= FEW_ROWS:
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
