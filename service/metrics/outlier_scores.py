"""Outlier scores, as a histogram."""

from collections.abc import Sequence
from math import isfinite

from service.metrics.instruments import Histogram


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
