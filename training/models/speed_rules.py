"""What the model is measured against: rules by speed, as one writes them before one learns from data."""

import math
from itertools import pairwise

import numpy as np

from training.data import Floats
from training.data.basic_motions import Labels, Motions

# Slower than the number is called so; the first that fits counts.
Rules = tuple[tuple[float, str], ...]

# The numbers that come to mind, without a look at the data.
BY_HAND: Rules = ((1, "Standing"), (4, "Walking"), (12, "Running"), (math.inf, "Badminton"))


def speeds(motions: Motions) -> Floats:
    """How strongly each recording moves: the mean length of its acceleration vector. A watch knows no km/h."""
    means: Floats = np.linalg.norm(motions[..., :3], axis=-1).mean(axis=-1)
    return means


def apply(rules: Rules, motions: Motions, names: tuple[str, ...]) -> Labels:
    called = [next(name for limit, name in rules if speed < limit) for speed in speeds(motions)]
    return np.array([names.index(name) for name in called])


def accuracy(rules: Rules, motions: Motions, labels: Labels, names: tuple[str, ...]) -> float:
    return float((apply(rules, motions, names) == labels).mean())


def tune(motions: Motions, labels: Labels, names: tuple[str, ...]) -> Rules:
    """The same kind of rules with order and limits from data: halfway between neighbouring classes' mean speeds."""
    found = speeds(motions)
    means = sorted((float(found[labels == label].mean()), name) for label, name in enumerate(names))
    limits = [(slower + faster) / 2 for (slower, _), (faster, _) in pairwise(means)]
    return tuple(zip([*limits, math.inf], (name for _, name in means), strict=True))
