import numpy as np
import pytest

from training.data import Floats, Integers
from training.evaluation import calibration


def drawn(count: int, sharpness: float, seed: int = 0) -> tuple[Floats, Integers]:
    """Logits of three classes, and truths drawn by the probabilities that softmax gives them, then made `sharpness`
    times as sure."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 3))
    chances = calibration.softmax(logits).cumsum(axis=1)
    truth = (generator.uniform(size=(count, 1)) > chances).sum(axis=1)
    return sharpness * logits, truth


def test_softmax_survives_large_logits() -> None:
    probabilities = calibration.softmax(np.array([[1000.0, 999.0], [-1000.0, -1000.0]], np.float32))
    np.testing.assert_allclose(probabilities, [[0.731, 0.269], [0.5, 0.5]], atol=1e-3)


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 3.0])
def test_temperature_undoes_overconfidence(sharpness: float) -> None:
    logits, truth = drawn(20_000, sharpness)
    temperature = calibration.fit_temperature(logits, truth)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    error = calibration.expected_calibration_error(truth, calibration.softmax(logits, temperature))
    assert error < 0.015


def test_temperature_has_the_least_cross_entropy() -> None:
    logits, truth = drawn(20_000, 2.0)

    def loss(temperature: float) -> float:
        return float(-np.log(calibration.softmax(logits, temperature)[np.arange(len(truth)), truth]).mean())

    found = calibration.fit_temperature(logits, truth)
    assert loss(found) < min(loss(0.97 * found), loss(1.03 * found), loss(1.0))


@pytest.mark.parametrize("count", [1, 8, 40, 10_000])
def test_all_right_keeps_the_temperature_above_0(count: int) -> None:
    logits = np.tile([4.0, 0.0, 0.0], (count, 1))
    temperature = calibration.fit_temperature(logits, np.zeros(count, np.int64))
    assert calibration.MIN_TEMPERATURE < temperature < 1


@pytest.mark.parametrize("count", [1, 40, 10_000])
def test_all_wrong_ends_at_the_highest_temperature(count: int) -> None:
    logits = np.tile([4.0, 0.0, 0.0], (count, 1))
    temperature = calibration.fit_temperature(logits, np.ones(count, np.int64))
    assert 1 < temperature <= calibration.MAX_TEMPERATURE


def test_few_examples_keep_the_temperature_near_1() -> None:
    distances = []
    for count in (5, 50, 5_000):
        logits = np.tile([[2.0, 0.0]], (count, 1))
        truth = np.arange(count) % 2  # half of what is answered with 0.88 is right
        distances.append(calibration.fit_temperature(logits, truth) - 1)
    assert 0 < distances[0] < distances[1] < distances[2]


def test_equal_logits_give_a_finite_temperature() -> None:
    temperature = calibration.fit_temperature(np.zeros((10, 4)), np.zeros(10, np.int64))
    assert calibration.MIN_TEMPERATURE <= temperature <= calibration.MAX_TEMPERATURE


def test_calibration_error_is_confidence_minus_accuracy() -> None:
    probabilities = np.array([[0.8, 0.2]] * 10)
    truth = np.array([0] * 5 + [1] * 5)
    assert calibration.expected_calibration_error(truth, probabilities) == pytest.approx(0.3)
    assert calibration.expected_calibration_error(np.array([0] * 8 + [1] * 2), probabilities) == pytest.approx(0)


def test_bins_group_by_confidence_without_empty_ones() -> None:
    probabilities = np.array([[1.0, 0.0], [0.99, 0.01], [0.55, 0.45], [0.5, 0.5]])
    bins = calibration.reliability(np.array([0, 1, 0, 1]), probabilities)
    assert [each.share for each in bins] == [0.25, 0.25, 0.5]
    assert [each.accuracy for each in bins] == [0, 1, 0.5]
    assert bins[-1].confidence == pytest.approx(0.995)
