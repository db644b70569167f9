"""How unlike its training data a network finds an input. Needs numpy only.

The score is a Mahalanobis distance: from the place of an input (directions and lengths of its features, see
classifier.places) to that of the nearest class, measured in the spread that places have within classes. Why this one:
docs/adr/0012-outlier-score.md.
"""

from dataclasses import dataclass

import numpy as np

from training.evaluation.evaluate import Floats, Integers

QUANTILE = 0.99  # of held-out examples; the others are what the score flags wrongly
MOST_DIRECTIONS = 64
SHRINKAGE = 0.01  # of all variances towards their mean, so that none is 0
SMALLEST = 1e-12  # variance


@dataclass(frozen=True)
class Distance:
    """From places [n, d] to the distance to the nearest class, [n].

    `directions` [d, k]: in which places spread most within classes, `variances` [k]: by how much; in all other
    directions by `rest` each (probabilistic PCA, Tipping and Bishop, 1999). `centers` [classes, d]: the means.
    """

    directions: Floats
    variances: Floats
    rest: float
    centers: Floats

    def __call__(self, places: Floats) -> Floats:
        inside, outside = self.split(places.astype(np.float64))
        squares = [
            ((inside - center_inside) ** 2).sum(axis=1) + ((outside - center_outside) ** 2).sum(axis=1)
            for center_inside, center_outside in zip(*self.split(self.centers), strict=True)
        ]
        distances: Floats = np.sqrt(np.min(squares, axis=0))
        return distances

    def split(self, places: Floats) -> tuple[Floats, Floats]:
        """[n, k] along `directions` and [n, d] of what is left, both in units of the spread."""
        along = places @ self.directions
        left = places - along @ self.directions.T
        return along / np.sqrt(self.variances), left / np.sqrt(self.rest)


def fit(places: Floats, labels: Integers) -> Distance:
    """From the places [n, d] and labels [n] of training examples. A class without examples has no centre."""
    places = places.astype(np.float64)
    classes = np.unique(labels)
    centers = np.stack([places[labels == label].mean(axis=0) for label in classes])
    away = places - centers[np.searchsorted(classes, labels)]
    variances, directions = np.linalg.eigh(away.T @ away / len(away))  # smallest first
    variances = (1 - SHRINKAGE) * np.maximum(variances, 0) + SHRINKAGE * variances.mean() + SMALLEST
    count = min(MOST_DIRECTIONS, len(variances) // 2)
    return Distance(directions[:, -count:], variances[-count:], float(variances[:-count].mean()), centers)


def threshold(distances: Floats) -> float:
    """The distance that one in a hundred held-out examples exceeds."""
    return float(np.quantile(distances, QUANTILE))


def auroc(inside: Floats, outside: Floats) -> float:
    """How often an outlier's score is above that of an input that is none: 0.5 is guessing, 1 is always."""
    order = np.sort(inside)
    below = np.searchsorted(order, outside, "left") + np.searchsorted(order, outside, "right")
    return float(below.mean() / (2 * len(order)))
