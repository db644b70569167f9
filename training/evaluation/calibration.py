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
MAX_POINTS, MIN_POINTS = 20, 5  # of the line from confidence to accuracy
MIN_ROWS_A_POINT = 100
DIGITS = 6


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


def accuracy_by_confidence(truth: Integers, probabilities: Floats) -> dict[str, list[float]] | None:
    """The points of a line from confidence to the share that is right: `confidence`, which increases, and `accuracy`,
    which never falls. [n], [n, classes].

    It corrects what one temperature leaves over, which fits all classes and degrees of confidence at once. Each point
    stands for as many examples; neighbours that would fall are averaged (isotonic regression). None for fewer than 500
    examples, whose points would be chance, and for scores that are no probabilities.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    points = min(MAX_POINTS, len(confidence) // MIN_ROWS_A_POINT)
    if points < MIN_POINTS or not ((confidence >= 0) & (confidence <= 1)).all():
        return None
    bins = np.array_split(np.argsort(confidence, kind="stable"), points)
    means = [round(float(confidence[places].mean()), DIGITS) for places in bins]
    accuracies = _never_falling([float(right[places].mean()) for places in bins])
    # Later ones replace earlier ones of the same confidence. No confidence, never right.
    line = {0.0: 0.0} | dict(zip(means, accuracies, strict=True))
    return {"confidence": list(line), "accuracy": [round(accuracy, DIGITS) for accuracy in line.values()]}


def _never_falling(values: list[float]) -> list[float]:
    """The nearest values, by least squares, of which none is below its predecessor (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = value, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    return [mean for mean, size in pools for _ in range(size)]
