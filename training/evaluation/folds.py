"""Cross-validation: where every training example is too dear to be kept for validation alone."""

from collections.abc import Iterator

import numpy as np

from training.evaluation.evaluate import Integers


def stratified(labels: Integers, count: int, seed: int) -> Iterator[tuple[Integers, Integers]]:
    """`count` times (places to train on, places to validate on). Each place is validated on once, and every
    fold has the same share of each class, give or take one."""
    generator = np.random.default_rng(seed)
    fold = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        fold[generator.permutation(places)] = np.arange(len(places)) % count
    for held_out in range(count):
        yield np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
