"""How unlike its training data a network finds an input: the score, and probes that it should flag. Without TensorFlow.

The score is a Mahalanobis distance: from the place of an input (directions and lengths of its features, see
classifier.places) to that of the nearest class, measured in the spread that places have within classes. Why this one:
docs/adr/0012-outlier-score.md.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.serving_config import ImageSpec
from service.tensors.image import decode_picture
from training.data import Array, Floats, Integers

QUANTILE = 0.99  # of held-out examples; the others are what the score flags wrongly
MIN_HELD_OUT = 100  # examples: of fewer, not even one is above the threshold
MAX_DIRECTIONS = 64
SHRINKAGE = 0.01  # of all variances towards their mean, so that none is 0
MIN_VARIANCE = 1e-12
MAX_PROBES = 1_000  # of each kind
MAX_PIXELS = 100_000_000  # of a photo


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
        """[n, k] along `directions` and [n, d] of what is left, both divided by the standard deviation."""
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
    variances = (1 - SHRINKAGE) * np.maximum(variances, 0) + SHRINKAGE * variances.mean() + MIN_VARIANCE
    count = min(MAX_DIRECTIONS, len(variances) // 2)
    return Distance(directions[:, -count:], variances[-count:], float(variances[:-count].mean()), centers)


def threshold(distances: Floats) -> float:
    """The distance that one in a hundred held-out examples exceeds."""
    return float(np.quantile(distances, QUANTILE))


def describe_threshold(held_out: int, examples: str) -> str:
    """What a threshold is worth that was taken from so many pictures, photos or recordings."""
    if held_out < MIN_HELD_OUT:
        return f"too few {examples} to tell what is an outlier: from {held_out}, expected {MIN_HELD_OUT} or more"
    return f"from {held_out:,} held-out {examples}"


def probe_pictures(examples: Array, seed: int) -> dict[str, Array]:
    """Pictures made of held-out ones, by what was done to them; at most MAX_PROBES of each kind.

    `examples`: [n, height, width] or with channels, 0…255.
    """
    examples = examples[:MAX_PROBES].astype(np.float32)
    generator = np.random.default_rng(seed)
    shape = examples.shape
    shades = np.linspace(0, 255, 52, dtype=np.float32).reshape(-1, *[1] * (len(shape) - 1))
    return {
        "uniform noise": generator.uniform(0, 255, shape).astype(np.float32),
        "Gaussian noise": generator.normal(examples.mean(), examples.std(), shape).clip(0, 255).astype(np.float32),
        "pixels in random order": generator.permuted(examples.reshape(len(examples), -1), axis=1).reshape(shape),
        "inverted": 255 - examples,
        "upside down": examples[:, ::-1],
        "of one shade": np.broadcast_to(shades, (len(shades), *shape[1:])),
    }


def probe_recordings(examples: Array, seed: int) -> dict[str, Array]:
    """Recordings made of others, [n, steps, channels]; at most MAX_PROBES of each kind."""
    examples = examples[:MAX_PROBES].astype(np.float32)
    generator = np.random.default_rng(seed)
    mean, deviation = examples.mean(axis=(0, 1)), examples.std(axis=(0, 1))
    order = generator.permuted(np.tile(np.arange(examples.shape[1]), (len(examples), 1)), axis=1)
    return {
        "noise": generator.normal(mean, deviation, examples.shape).astype(np.float32),
        "a constant": np.broadcast_to(examples[:, :1], examples.shape),
        "in other units (× 9.81)": examples * np.float32(9.81),
        "steps in random order": np.take_along_axis(examples, order[..., np.newaxis], axis=1),
    }


def probe_photos(folder: Path, spec: ImageSpec) -> Array:
    """The pictures below `folder` as the service would give them to a model with that `spec`."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return np.stack([decode_picture(file.read_bytes(), spec, MAX_PIXELS, file.name) for file in files])
