import numpy as np
import pytest

from training.data import Floats, Integers
from training.evaluation.calibration import accuracy_by_confidence
from training.evaluation.reference import reference


def answered(confidence: Floats, accuracy: Floats) -> tuple[Integers, Floats]:
    """Truths and probabilities of two classes: the first is predicted, and right as often as `accuracy` says."""
    right = np.random.default_rng(1).uniform(size=len(confidence)) < accuracy
    return np.where(right, 0, 1), np.stack([confidence, 1 - confidence], axis=1)


def test_line_follows_the_accuracy() -> None:
    confidence = np.random.default_rng(0).uniform(0.5, 1, 20_000)
    found = accuracy_by_confidence(*answered(confidence, confidence**2))
    assert found is not None
    assert found["confidence"][0] == found["accuracy"][0] == 0
    assert (np.diff(found["confidence"]) > 0).all()
    assert (np.diff(found["accuracy"]) >= 0).all()
    tried = np.linspace(0.55, 0.95, 20)
    line = np.interp(tried, found["confidence"], found["accuracy"])
    np.testing.assert_allclose(line, tried**2, atol=0.05)


def test_one_confidence_is_one_point() -> None:
    found = accuracy_by_confidence(*answered(np.full(1_000, 0.9), np.full(1_000, 0.5)))
    assert found is not None
    assert found["confidence"] == [0.0, 0.9]
    assert found["accuracy"][1] == pytest.approx(0.5, abs=0.15)


def test_few_examples_and_other_scores_give_no_line() -> None:
    assert accuracy_by_confidence(*answered(np.full(499, 0.9), np.full(499, 0.9))) is None
    assert accuracy_by_confidence(*answered(np.full(500, 1.1), np.full(500, 0.9))) is None


def test_reference_has_line_and_scores_with_an_edge_at_1() -> None:
    truth, probabilities = answered(np.linspace(0.5, 1, 600), np.full(600, 0.9))
    scores = np.linspace(0.2, 1.1, 600)
    found = reference({"x": np.arange(6.0)}, probabilities, ("hat", "sock"), truth=truth, outlier_scores=scores)
    assert found["calibration"] == accuracy_by_confidence(truth, probabilities)
    above = found["outlier_score"]["edges"].index(1.0) + 1
    assert sum(found["outlier_score"]["shares"][above:]) == pytest.approx((scores > 1).mean(), abs=1e-4)
