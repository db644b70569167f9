import math

import numpy as np
import pytest

from training.data.basic_motions import Motions
from training.evaluation.classifier import HeldOut
from training.models import activity
from training.models.activity import Candidate

NAMES = ("Standing", "Running", "Walking", "Badminton")


def steady(*speeds: float) -> Motions:
    """A recording for each speed: acceleration along y of that size, to and fro, and a rotation that does not count."""
    motions = np.full((len(speeds), 10, 6), 99, np.float32)
    motions[..., :3] = 0
    motions[..., 1] = np.outer(speeds, [1, -1] * 5)
    return motions


def test_speed_is_the_mean_length_of_acceleration() -> None:
    np.testing.assert_allclose(activity.speeds(steady(0, 3, 12.5)), [0, 3, 12.5])
    diagonal = np.array([[[3, 0, 4, 9, 9, 9], [0, 0, 0, 9, 9, 9]]], np.float32)
    np.testing.assert_allclose(activity.speeds(diagonal), [2.5])


def test_rules_by_hand_go_up_with_speed() -> None:
    called = activity.apply_rules(activity.RULES_BY_HAND, steady(0.5, 1, 3.9, 4, 11, 12, 1000), NAMES)
    assert "".join(NAMES[label][0] for label in called) == "SWWRRBB"


def test_tuned_rules_come_from_the_data() -> None:
    motions, labels = steady(0, 2, 20, 22, 5, 7, 10, 12), np.array([0, 0, 1, 1, 2, 2, 3, 3])
    rules = activity.tune_rules(motions, labels, NAMES)
    assert [name for _, name in rules] == ["Standing", "Walking", "Badminton", "Running"]
    assert [limit for limit, _ in rules] == pytest.approx([3.5, 8.5, 16, math.inf])
    assert activity.apply_rules(rules, motions, NAMES).tolist() == labels.tolist()


def test_copies_keep_shape_and_labels() -> None:
    motions, labels = steady(1, 2, 3), np.array([2, 0, 1])
    many, many_labels = activity.copies(motions, labels, altered=True, seed=1)
    assert (many.shape, many.dtype.name) == ((3 * activity.COPIES, 10, 6), "float32")
    assert many_labels.tolist() == [2, 0, 1] * activity.COPIES
    assert len(np.unique(many, axis=0)) == len(many)
    np.testing.assert_array_equal(many, activity.copies(motions, labels, altered=True, seed=1)[0])
    unaltered, _ = activity.copies(motions, labels, altered=False, seed=1)
    np.testing.assert_array_equal(unaltered, np.tile(motions, (activity.COPIES, 1, 1)))


def test_altered_copy_is_shifted_scaled_and_noisy() -> None:
    recording = np.random.default_rng(0).normal(size=(1, 50, 6)).astype(np.float32)
    shifted = np.stack([np.roll(recording[0], shift, axis=0) for shift in range(50)])
    for copy in activity.copies(recording, np.array([0]), altered=True, seed=1)[0]:
        strengths = (shifted * copy).sum(axis=(1, 2)) / (recording**2).sum()
        best = strengths.argmax()
        assert 0.84 < strengths[best] < 1.16
        assert np.abs(copy - strengths[best] * shifted[best]).max() < 0.3


def test_proof_has_1000_shifted_recordings() -> None:
    motions = np.random.default_rng(0).normal(size=(40, 100, 6)).astype(np.float32)
    inputs = activity.proof_inputs(motions)
    assert inputs.shape == (1000, 100, 6)
    np.testing.assert_array_equal(inputs[:40], motions)
    np.testing.assert_array_equal(inputs[40, 4:], motions[0, :-4])


def test_most_accurate_candidate_is_chosen_then_lowest_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    results = dict(zip(activity.CANDIDATES, [(0.95, 0.1), (0.975, 0.3), (0.975, 0.2), (0.9, 0.05)], strict=True))

    def cross_validate(candidate: Candidate, *_: object) -> activity.CrossValidation:
        accuracy, loss = results[candidate]
        history = {"val_accuracy": [1.0, accuracy], "val_loss": [0.0, loss]}
        return activity.CrossValidation(history, HeldOut(np.array([]), np.array([]), np.array([])))

    monkeypatch.setattr(activity, "cross_validate", cross_validate)
    chosen, tried = activity.choose(activity.Config(), steady(1), np.array([0]))
    assert chosen == activity.CANDIDATES[2]
    assert list(tried) == list(activity.CANDIDATES)
