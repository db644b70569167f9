"""How unlike its reference a window of rows is, feature by feature.

The population stability index is the sum over the bins of (q - p) ln(q / p), where p is a bin's share in the reference
and q that in the window. Two samples of the same inputs differ, too: with n and m rows it is then distributed about as
(1/n + 1/m) times chi-square, with one degree of freedom less than there are bins (Yurdakul and Naranjo, "Statistical
properties of the population stability index", 2020). What chance reaches once in a thousand times is taken off. So the
known thresholds, 0.1 and 0.25, mean the same for a window of 50 rows as for one of a thousand, and for a reference of
40 rows as for one of 60,000.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from service.tensors.json import Array

BY_CHANCE = 0.001
_DEVIATIONS = NormalDist().inv_cdf(1 - BY_CHANCE)


class Measure:
    """Of features with these shares, each in a reference of so many rows. A feature's last bin is for what is no
    number."""

    def __init__(self, shares: Sequence[Sequence[float]], rows: Sequence[int]) -> None:
        self.bins = max(map(len, shares))
        sizes = np.array([len(each) for each in shares])[:, np.newaxis]
        in_reference = np.array([[*each, *[0.0] * (self.bins - len(each))] for each in shares])
        counted = np.array(rows, float)[:, np.newaxis]
        is_bin = np.arange(self.bins) < sizes
        # Half a row more for each bin: that there was none in so many rows does not say that there never is one. The
        # window gets as many, shared out as in the reference, so that what it lacks does not count by that alone.
        self._added_rows = sizes / 2
        self._reference = np.where(is_bin, (in_reference * counted + 0.5) / (counted + self._added_rows), 0.0)
        self._added = self._added_rows * self._reference
        # Where a feature has no bin any more, the logarithms are of 1.
        self._filling = np.where(is_bin, 0.0, 1.0)
        self._reference_log = np.log(self._reference + self._filling)
        self._critical = np.array([chi_square(len(each) - 1) for each in shares])
        self._by_reference = self._critical / counted[:, 0]
        standing = 2 * np.cumsum(in_reference, axis=1) - in_reference - 1
        self._standing = np.where(np.arange(self.bins) < sizes - 1, standing, 0.0)

    def psi(self, counts: Array) -> Array:
        """[features], beyond what chance makes of it. `counts` [features, bins] of the window, of as many rows each."""
        rows = counts[0].sum()
        window = (counts + self._added) / (rows + self._added_rows)
        logs = np.log(window + self._filling) - self._reference_log
        by_chance = self._critical / rows + self._by_reference
        found: Array = np.maximum(((window - self._reference) * logs).sum(axis=1) - by_chance, 0.0)
        return found

    def shift(self, counts: Array) -> Array:
        """[features] from -1 to 1: by how much more often a row of the window lies above one of the reference than
        below it. What is no number lies nowhere."""
        found: Array = (counts * self._standing).sum(axis=1) / counts[0].sum()
        return found


def chi_square(degrees: int) -> float:
    """What chi-square exceeds once in a thousand times (Wilson and Hilferty's approximation, 1931)."""
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + _DEVIATIONS * spread**0.5) ** 3)
