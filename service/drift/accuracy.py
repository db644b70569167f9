"""How often a version is expected to be right, from its confidence alone: true labels come late, or never.

The confidence of a calibrated classifier is the probability that it is right, so the mean over a window of rows is the
share of them that it should get right (confidence-based performance estimation). That holds while inputs resemble those
that it was calibrated on: of outliers a network may be sure and wrong.
"""

import numpy as np

from service.drift.card import Card
from service.drift.reference import Calibration, Reference
from service.tensors.dtypes import Array

# A confidence is kept in a byte: its level, the last for NaN.
LEVELS = 254
NAN_LEVEL = 255
# Without a calibration in the reference, confidence is taken at its word where it was off by at most this much on
# held-out examples.
MAX_CALIBRATION_ERROR = 0.02


class ExpectedAccuracy:
    """`calibration`: None takes confidence for accuracy."""

    def __init__(self, calibration: Calibration | None) -> None:
        # A level stands for the middle of the confidences in it.
        accuracies = np.minimum((np.arange(LEVELS + 2) + 0.5) / LEVELS, 1.0)
        if calibration is not None:
            accuracies = np.interp(accuracies, calibration.confidence, calibration.accuracy)
        # No label was right.
        accuracies[NAN_LEVEL] = 0.0
        self._accuracies = accuracies

    def of(self, levels: Array) -> float:
        """Of rows with these levels of confidence, [n] uint8."""
        return float(self._accuracies[levels].mean())


def expected_accuracy(reference: Reference, card: Card) -> ExpectedAccuracy | None:
    """None for a version whose confidence does not tell how often it is right."""
    if reference.calibration is not None:
        return ExpectedAccuracy(reference.calibration)
    is_calibrated = card.calibration_error is not None and card.calibration_error <= MAX_CALIBRATION_ERROR
    return ExpectedAccuracy(None) if reference.labels is not None and is_calibrated else None
