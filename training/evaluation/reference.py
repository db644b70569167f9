"""reference.json: the distribution of the training inputs, with which the service compares its requests (drift)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.drift import features
from service.drift.reference import OUTLIER_EDGE
from training.data import Array, Floats, Integers
from training.evaluation.calibration import DIGITS, accuracy_by_confidence

DECILES = np.arange(1, 10) / 10
SLICE = 1_000  # rows at once


def reference(
    inputs: Mapping[str, Array],
    probabilities: Floats | None = None,
    names: tuple[str, ...] = (),
    *,
    truth: Integers | None = None,
    outlier_scores: Floats | None = None,
) -> dict[str, Any]:
    """The content of reference.json. `inputs`: the training inputs by name. See `of_features` for the others."""
    count = len(next(iter(inputs.values())))
    parts = [
        features.features({name: values[start : start + SLICE] for name, values in inputs.items()})
        for start in range(0, count, SLICE)
    ]
    return of_features(count, parts, probabilities, names, truth=truth, outlier_scores=outlier_scores)


def of_features(
    rows: int,
    parts: Sequence[Mapping[str, Floats]],
    probabilities: Floats | None = None,
    names: tuple[str, ...] = (),
    *,
    truth: Integers | None = None,
    outlier_scores: Floats | None = None,
) -> dict[str, Any]:
    """The content of reference.json. `parts`: the inputs' features, of some of the rows each.

    `probabilities` [n, classes], `truth` [n], `outlier_scores` [n]: a classifier's on held-out examples; of the others
    it is surer than it will be in service.
    """
    found: dict[str, Any] = {
        "rows": rows,
        "inputs": {name: deciles(np.concatenate([part[name] for part in parts])) for name in parts[0]},
    }
    if probabilities is not None:
        found["held_out_rows"] = len(probabilities)
        labels = np.bincount(probabilities.argmax(axis=1), minlength=len(names)) / len(probabilities)
        found["labels"] = {name: round(float(share), DIGITS) for name, share in zip(names, labels, strict=True)}
        found["confidence"] = deciles(probabilities.max(axis=1))
        if outlier_scores is not None:
            found["outlier_score"] = deciles(outlier_scores, (OUTLIER_EDGE,))
        if truth is not None and (calibration := accuracy_by_confidence(truth, probabilities)):
            found["calibration"] = calibration
    return found


def deciles(values: Floats, more_edges: tuple[float, ...] = ()) -> dict[str, list[float]]:
    """`edges`, strictly increasing, and the share of the values in each of the len(edges) + 1 bins.

    An edge lies half-way between two values that occur, so that no rounding moves a value across it. A value that
    makes up a tenth or more, say the black of most pictures, gets a separate bin; if it is the smallest or the largest,
    the bin beyond it is for values that never occurred. Values that are not finite are left out.
    """
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return {"edges": [*more_edges], "shares": [1.0, *[0.0] * len(more_edges)]}
    distinct, counts = np.unique(values, return_counts=True)
    tenth = np.searchsorted(np.cumsum(counts), DECILES * len(values) - 1e-9)
    # An edge k lies below the value k.
    cuts = np.union1d(tenth + 1, tenth[counts[tenth] >= len(values) / 10])
    margin = (distinct[-1] - distinct[0] or abs(distinct[0]) or 1.0) / 1_000
    beyond = np.concatenate([[distinct[0] - 2 * margin], distinct, [distinct[-1] + 2 * margin]])
    edges = (beyond[cuts] + beyond[cuts + 1]) / 2
    edges = np.unique([*(float(f"{edge:.{DIGITS}g}") for edge in edges), *more_edges])
    # A value on an edge falls into the bin below.
    shares = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) / len(values)
    return {"edges": edges.tolist(), "shares": [round(float(share), DIGITS) for share in shares]}
