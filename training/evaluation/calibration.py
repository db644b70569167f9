"""Calibration: of the predictions made with 0.8, about eight in ten should be right. Needs numpy only.

The logits are divided by one number, the temperature, before the softmax (Guo et al., 2017). It changes how sure a
prediction is, never which class comes first.
"""

from dataclasses import dataclass

import numpy as np

from training.data import Floats, Integers

BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
PRIOR = 20  # examples
STEPS = 60  # halvings: 2^-60 of the range


@dataclass(frozen=True)
class Bin:
    """Predictions of about one confidence: their mean confidence, the share that is right, their share of all."""

    confidence: float
    accuracy: float
    share: float


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """[n, classes], in float64."""
    scaled = logits.astype(np.float64) / temperature
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: Floats = raised / raised.sum(axis=1, keepdims=True)
    return probabilities


def fit_temperature(logits: Floats, truth: Integers) -> float:
    """The temperature with the least cross-entropy on examples that the network was not fitted to: [n, classes], [n].

    The loss is convex in 1/temperature, so its slope has one zero, which is found by bisection. PRIOR more examples are
    added whose truth is distributed as the network predicts: they do not matter beside thousands, but without them the
    best temperature for forty examples that are all classified correctly would be 0.
    """
    count = len(logits)
    logits = logits.astype(np.float64)
    of_the_truth = float(logits[np.arange(count), truth].mean())
    expected_at_first = _expected(logits, 1.0)

    def slope(inverse: float) -> float:
        expected = _expected(logits, inverse)
        return count * (expected - of_the_truth) + PRIOR * (expected - expected_at_first)

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def _expected(logits: Floats, inverse: float) -> float:
    """The mean logit of classes drawn by their probabilities."""
    return float((softmax(logits, 1 / inverse) * logits).sum(axis=1).mean())


def reliability(truth: Integers, probabilities: Floats) -> list[Bin]:
    """Predictions in BINS bins of equal width by the confidence of the class that comes first, without empty bins."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return [
        Bin(float(confidence[inside].mean()), float(right[inside].mean()), float(inside.mean()))
        for inside in (places == place for place in range(BINS))
        if inside.any()
    ]


def expected_calibration_error(truth: Integers, probabilities: Floats) -> float:
    """The mean difference of confidence and accuracy, 0 to 1 (Naeini et al., 2015)."""
    return sum(each.share * abs(each.confidence - each.accuracy) for each in reliability(truth, probabilities))
