"""How far a window of rows differs from its reference, feature by feature.

The population stability index (PSI) is the sum over the bins of (q - p) ln(q / p), where p is a bin's share in the
reference and q its share in the window. Two samples of the same inputs differ, too: with n and m rows their PSI is
distributed about as (1/n + 1/m) times chi-square, with one degree of freedom less than there are bins (Yurdakul and
Naranjo, "Statistical properties of the population stability index", 2020). We subtract what chance exceeds once in a
thousand times. So the usual thresholds, 0.1 and 0.25, mean the same for a window of 50 rows as for one of a thousand,
and for a reference of 40 rows as for one of 60,000.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import msgspec
import numpy as np

from service.drift.accuracy import LEVELS, NAN_LEVEL
from service.drift.features import InputFeatures
from service.drift.reference import OUTLIER_EDGE, Reference
from service.tensors.dtypes import Array

# Names of a classifier's features, beside those of the inputs.
LABEL, CONFIDENCE, OUTLIER_SCORE = "label", "confidence", "outlier score"
# Rarer labels share a bin: with a thousand labels, a window would have one row each.
MIN_SHARE = 0.01

BY_CHANCE = 0.001
_DEVIATIONS = NormalDist().inv_cdf(1 - BY_CHANCE)


class FeatureBins(msgspec.Struct, frozen=True):
    """What the bins of a feature are, without the one for NaN. `edges`: the bins lie up to the first, up to the second
    ..., above the last; None for labels. `labels`: those of each bin; None for numbers. `shares`: in the reference."""

    feature: str
    edges: Sequence[float] | None
    labels: Sequence[Sequence[str]] | None
    shares: Sequence[float]


class Bins:
    """The bins of a reference's features. `names`: the features in the order of the columns: those of the inputs, then
    a classifier's outlier score, confidence and label. Each feature's last bin is for NaN. Of a classifier, one more
    column has the level of confidence."""

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
        of_inputs = len(binned)
        self.has_outlier_score = reference.outlier_score is not None
        binned += [each for each in (reference.outlier_score, reference.confidence) if each is not None]
        self._binned = binned
        self._labels: list[list[str]] = []
        shares = [[*each.shares, 0.0] for each in binned]
        # [edges, 1, features]: this order takes a third of the time.
        self._edges = np.full((max([len(each.edges) for each in binned]), 1, len(binned)), np.inf)
        for column, each in enumerate(binned):
            self._edges[: len(each.edges), 0, column] = each.edges
        self._nan_bins = np.array([len(each.edges) + 1 for each in binned], np.uint8)
        if reference.labels is not None and reference.held_out_rows is not None:
            bin_of, label_shares = _label_bins(reference.labels)
            self._label_bins = np.array([bin_of[label] for label in labels], np.uint8)
            self._nan_label_bin = len(label_shares)
            self._labels = [[label for label in labels if bin_of[label] == each] for each in range(len(label_shares))]
            self.names += [OUTLIER_SCORE] * self.has_outlier_score + [CONFIDENCE, LABEL]
            shares.append([*label_shares, 0.0])
            rows += [reference.held_out_rows] * (len(shares) - of_inputs)
        # Bytes of a row.
        self.columns = len(self.names) + (reference.labels is not None)
        self._first_outlier_bin = (
            0 if reference.outlier_score is None else reference.outlier_score.edges.index(OUTLIER_EDGE) + 1
        )
        self._shares = shares
        self.measure = Measure(shares, rows)
        self._first_cells = np.arange(len(shares)) * self.measure.bins

    def select(self, arrays: Sequence[Array]) -> list[Array]:
        """The measured values of the inputs' rows, and the scores behind them."""
        selected = [each.select(array) for each, array in zip(self._inputs, arrays, strict=False)]
        return [*selected, *arrays[len(selected) :]]

    def assign(self, selected: Sequence[Array], outlier_scores: Sequence[float] = ()) -> Array:
        """The bin of each row and feature, and a classifier's level of confidence: [n, columns] uint8.

        `outlier_scores`: one for each row, if the reference has any."""
        values = np.empty((len(selected[0]), len(self._nan_bins)))
        for feature, columns, array in zip(self._inputs, self._columns, selected, strict=False):
            feature.measure(array, values[:, columns])
        found = np.empty((len(values), self.columns), np.uint8)
        if len(selected) > len(self._inputs):
            scores = selected[-1]
            best = scores.argmax(axis=1)
            confidence = scores[np.arange(len(scores)), best]
            values[:, -1] = confidence
            found[:, -2] = self._label_bins[best]
            np.multiply(confidence, LEVELS, out=found[:, -1], casting="unsafe")
            if self.has_outlier_score:
                values[:, -2] = outlier_scores
        binned = found[:, : len(self._nan_bins)]
        np.add.reduce((values > self._edges).view(np.uint8), axis=0, out=binned)
        is_nan = np.isnan(values)
        if np.count_nonzero(is_nan):
            binned[is_nan] = np.broadcast_to(self._nan_bins, binned.shape)[is_nan]
            if len(selected) > len(self._inputs):
                found[is_nan[:, -1], -2:] = self._nan_label_bin, NAN_LEVEL
        return found

    def count(self, rows: Array) -> Array:
        """How many of the rows that `assign` returned each bin has: [features, bins]."""
        cells = (rows[:, : len(self.names)] + self._first_cells).ravel()
        size = len(self.names) * self.measure.bins
        return np.bincount(cells, minlength=size).reshape(-1, self.measure.bins)

    def described(self) -> list[FeatureBins]:
        """Of each feature, in the order of the names."""
        found = [
            FeatureBins(name, each.edges, None, each.shares)
            for name, each in zip(self.names, self._binned, strict=False)
        ]
        if self._labels:
            found.append(FeatureBins(LABEL, None, self._labels, self._shares[-1][:-1]))
        return found

    def outliers(self, counts: Array) -> float | None:
        """The share of outliers among the counted rows; None where the reference has no outlier score."""
        if not self.has_outlier_score:
            return None
        of_scores = counts[self.names.index(OUTLIER_SCORE)]
        return float(of_scores[self._first_outlier_bin :].sum() / of_scores.sum())


class Measure:
    """PSI and shift of features with these shares, each of a reference of this many rows. A feature's last bin is for
    NaN."""

    def __init__(self, shares: Sequence[Sequence[float]], rows: Sequence[int]) -> None:
        self.bins = max(map(len, shares))
        sizes = np.array([len(each) for each in shares])[:, np.newaxis]
        in_reference = np.array([[*each, *[0.0] * (self.bins - len(each))] for each in shares])
        counted = np.array(rows, float)[:, np.newaxis]
        is_bin = np.arange(self.bins) < sizes
        # Add half a row to each bin: an empty bin does not prove that such rows never come. The window gets as many,
        # distributed as in the reference, so that missing rows alone do not count as drift.
        self._added_rows = sizes / 2
        self._reference = np.where(is_bin, (in_reference * counted + 0.5) / (counted + self._added_rows), 0.0)
        self._added = self._added_rows * self._reference
        # Where a feature has fewer bins than others, take the logarithm of 1.
        self._filling = np.where(is_bin, 0.0, 1.0)
        self._reference_log = np.log(self._reference + self._filling)
        self._critical = np.array([chi_square(len(each) - 1) for each in shares])
        self._by_reference = self._critical / counted[:, 0]
        standing = 2 * np.cumsum(in_reference, axis=1) - in_reference - 1
        self._standing = np.where(np.arange(self.bins) < sizes - 1, standing, 0.0)

    def psi(self, counts: Array) -> Array:
        """[features], less what chance explains. `counts` [features, bins]: of the window, the same rows for each."""
        rows = counts[0].sum()
        window = (counts + self._added) / (rows + self._added_rows)
        logs = np.log(window + self._filling) - self._reference_log
        by_chance = self._critical / rows + self._by_reference
        found: Array = np.maximum(((window - self._reference) * logs).sum(axis=1) - by_chance, 0.0)
        return found

    def shift(self, counts: Array) -> Array:
        """[features] from -1 to 1: how much more often a row of the window lies above a row of the reference than below
        it. NaN lies nowhere."""
        found: Array = (counts * self._standing).sum(axis=1) / counts[0].sum()
        return found


def chi_square(degrees: int) -> float:
    """The value that chi-square exceeds once in a thousand times (Wilson and Hilferty's approximation, 1931)."""
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + _DEVIATIONS * spread**0.5) ** 3)


def _label_bins(shares: Mapping[str, float]) -> tuple[dict[str, int], list[float]]:
    """Each label's bin, and each bin's share. The rarest labels share bins of at least MIN_SHARE."""
    bin_of: dict[str, int] = {}
    found = [0.0]
    for label, share in sorted(shares.items(), key=lambda pair: pair[1]):
        if bin_of and max(share, found[-1]) >= MIN_SHARE:
            found.append(0.0)
        bin_of[label] = len(found) - 1
        found[-1] += share
    return bin_of, found
