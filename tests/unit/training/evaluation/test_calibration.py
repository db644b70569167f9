import numpy as np
import pytest

from training.data import Floats, Integers
from training.evaluation import calibration
from training.evaluation.calibration import expected_calibration_error, fit_temperature, reliability, softmax


def drawn(count: int, sharpness: float) -> tuple[Floats, Integers]:
    """Logits of three classes, and truths drawn by the probabilities that softmax gives them, then made `sharpness`
    times as sure."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (count, 3))
    chances = softmax(logits).cumsum(axis=1)
    truth = (generator.uniform(size=(count, 1)) > chances).sum(axis=1)
    return sharpness * logits, truth


def test_softmax_survives_large_logits() -> None:
    probabilities = softmax(np.array([[1000.0, 999.0], [-1000.0, -1000.0]], np.float32))
    np.testing.assert_allclose(probabilities, [[0.731, 0.269], [0.5, 0.5]], atol=1e-3)


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 3.0])
def test_temperature_undoes_overconfidence(sharpness: float) -> None:
    logits, truth = drawn(20_000, sharpness)
    temperature = fit_temperature(logits, truth)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    assert expected_calibration_error(truth, softmax(logits, temperature)) < 0.015


@pytest.mark.parametrize("count", [1, 40, 10_000])
def test_temperature_is_finite_where_all_are_right_wrong_or_equal(count: int) -> None:
    logits, zeros = np.tile([4.0, 0.0, 0.0], (count, 1)), np.zeros(count, np.int64)
    assert calibration.MIN_TEMPERATURE < fit_temperature(logits, zeros) < 1
    assert 1 < fit_temperature(logits, zeros + 1) <= calibration.MAX_TEMPERATURE
    assert calibration.MIN_TEMPERATURE <= fit_temperature(0 * logits, zeros) <= calibration.MAX_TEMPERATURE


def test_few_examples_keep_the_temperature_near_1() -> None:
    distances = []
    for count in (5, 50, 5_000):
        truth = np.arange(count) % 2  # half of what is answered with 0.88 is right
        distances.append(fit_temperature(np.tile([[2.0, 0.0]], (count, 1)), truth) - 1)
    assert 0 < distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize(("right", "error"), [(5, 0.3), (8, 0.0), (10, 0.2)])
def test_calibration_error_is_between_confidence_and_accuracy(right: int, error: float) -> None:
    truth = np.array([0] * right + [1] * (10 - right))
    assert expected_calibration_error(truth, np.array([[0.8, 0.2]] * 10)) == pytest.approx(error)


def test_bins_group_by_confidence_without_empty_ones() -> None:
    probabilities = np.array([[1.0, 0.0], [0.99, 0.01], [0.55, 0.45], [0.5, 0.5]])
    bins = reliability(np.array([0, 1, 0, 1]), probabilities)
    assert [each.share for each in bins] == [0.25, 0.25, 0.5]
    assert [each.accuracy for each in bins] == [0, 1, 0.5]
    assert bins[-1].confidence == pytest.approx(0.995)
