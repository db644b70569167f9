"""How unlike its reference a window of rows is, feature by feature.

The population stability index is the sum over the bins of (q - p) ln(q / p), where p is a bin's share in the reference
and q that in the window. Two samples of the same inputs differ, too: with n and m rows it is then distributed about as
(1/n + 1/m) times chi-square, with one degree of freedom less than there are bins (Yurdakul and Naranjo, "Statistical
properties of the population stability index", 2020). What chance reaches once in a thousand times is taken off. So the
known thresholds, 0.1 and 0.25, mean the same for a window of 50 rows as for one of a thousand, and for a reference of
40 rows as for one of 60,000.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from service.drift.features import InputFeatures
from service.drift.reference import Reference
from service.tensors.dtypes import Array

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


# A reference's bins, and into which of them rows fall.

LABEL, CONFIDENCE = "label", "confidence"

# A label that is rarer is counted together with others: of a thousand labels a window would have one row each.
MIN_SHARE = 0.01


class Bins:
    """`names`: the features, in the order of the columns: those of the inputs, and of a classifier the confidence and
    the label. Every feature has a last bin for what is no number."""

    def __init__(self, inputs: Sequence[InputFeatures], reference: Reference, labels: Sequence[str]) -> None:
        """`labels`: the version's, in the order of its scores."""
        self._inputs = inputs
        # Of each input, and of the scores behind them.
        self.row_shapes: list[tuple[int, ...]] = [*(feature.row_shape for feature in inputs), (len(labels),)]
        self._columns: list[slice] = []
        self.names: list[str] = []
        for feature in inputs:
            self._columns.append(slice(len(self.names), len(self.names) + len(feature.names)))
            self.names += feature.names
        binned = [reference.inputs[name] for name in self.names]
        rows = [reference.rows] * len(binned)
        if reference.confidence is not None:
            binned.append(reference.confidence)
        shares = [[*each.shares, 0.0] for each in binned]
        # [edges, 1, features]: so it takes a third of the time.
        self._edges = np.full((max([len(each.edges) for each in binned]), 1, len(binned)), np.inf)
        for place, each in enumerate(binned):
            self._edges[: len(each.edges), 0, place] = each.edges
        self._no_number = np.array([len(each.edges) + 1 for each in binned], np.uint8)
        if reference.labels is not None and reference.held_out_rows is not None:
            bin_of, label_shares = _label_bins(reference.labels)
            self._label_bin = np.array([bin_of[label] for label in labels], np.uint8)
            self._no_label = len(label_shares)
            self.names += [CONFIDENCE, LABEL]
            shares.append([*label_shares, 0.0])
            rows += [reference.held_out_rows] * 2
        self.measure = Measure(shares, rows)
        self._first_cells = np.arange(len(shares)) * self.measure.bins

    def take(self, arrays: Sequence[Array]) -> list[Array]:
        """What is looked at of the inputs' rows, and all of the scores behind them."""
        taken = [each.take(array) for each, array in zip(self._inputs, arrays, strict=False)]
        return [*taken, *arrays[len(taken) :]]

    def of(self, taken: Sequence[Array]) -> Array:
        """[n, features] uint8."""
        values = np.empty((len(taken[0]), len(self._no_number)))
        for feature, columns, array in zip(self._inputs, self._columns, taken, strict=False):
            feature.measure(array, values[:, columns])
        found = np.empty((len(values), len(self.names)), np.uint8)
        if len(taken) > len(self._inputs):
            scores = taken[-1]
            best = scores.argmax(axis=1)
            confidence = scores[np.arange(len(scores)), best]
            values[:, -1] = confidence
            found[:, -1] = np.where(np.isnan(confidence), self._no_label, self._label_bin[best])
        binned = found[:, : len(self._no_number)]
        np.add.reduce((values > self._edges).view(np.uint8), axis=0, out=binned)
        no_number = np.isnan(values)
        if no_number.any():
            binned[no_number] = np.broadcast_to(self._no_number, binned.shape)[no_number]
        return found

    def count(self, rows: Array) -> Array:
        """[features, bins], of rows as `of` gives them."""
        cells = (rows + self._first_cells).ravel()
        size = len(self.names) * self.measure.bins
        return np.bincount(cells, minlength=size).reshape(-1, self.measure.bins)


def _label_bins(shares: Mapping[str, float]) -> tuple[dict[str, int], list[float]]:
    """Each label's bin, and each bin's share: the rarest labels together, until they are not rare any more."""
    bin_of: dict[str, int] = {}
    found = [0.0]
    for label, share in sorted(shares.items(), key=lambda pair: pair[1]):
        if bin_of and max(share, found[-1]) >= MIN_SHARE:
            found.append(0.0)
        bin_of[label] = len(found) - 1
        found[-1] += share
    return bin_of, found
