"""Expected accuracy and the share of outliers, of the rows in the window."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.drift.accuracy import MAX_CALIBRATION_ERROR, ExpectedAccuracy
from service.drift.card import Card
from service.drift.monitor import MIN_ROWS, Drift, DriftMonitor
from service.drift.reference import Calibration
from service.inference.version import LoadedVersion
from service.serving_config import OutlierScore, ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import signature, tensor
from tests.unit.service.watched_for_drift import (
    LABELS,
    REFERENCE,
    SIGNATURE,
    honest,
    version,
    watched,
    write_reference,
)

HALVING = {"confidence": [0.0, 1.0], "accuracy": [0.0, 0.5]}
SCORES = {"edges": [0.5, 1.0], "shares": [0.5, 0.49, 0.01]}
X = {"x": tensor("DT_FLOAT", -1)}
SCORED = OutlierScore(signature="scored", output="score", threshold=2.0)


def scored_version() -> LoadedVersion:
    signatures = {DEFAULT_SIGNATURE: SIGNATURE, "scored": SIGNATURE, "other": signature(X, SIGNATURE.outputs)}
    return replace(version(signatures), config=ServingConfig(labels=LABELS, outlier_score=SCORED))


def of_confidence(confidence: Any) -> dict[str, Array]:
    best = np.asarray(confidence, np.float32)
    return {"scores": np.stack([1 - best, best], axis=1)}


def observe(drift: Drift, confidence: Any, scores: Any = (), name: str = DEFAULT_SIGNATURE) -> None:
    drift.observe(name, {"x": honest(len(confidence))}, of_confidence(confidence), scores)


def test_mean_confidence_is_the_accuracy_of_a_calibrated_version(tmp_path: Path) -> None:
    drift = watched(tmp_path, replace(version(), card=Card(0.9, MAX_CALIBRATION_ERROR)))
    confidence = np.random.default_rng(0).uniform(0.5, 1, 1_000)
    observe(drift, confidence)
    assert drift.now().expected_accuracy == pytest.approx(confidence.mean(), abs=1e-3)
    observe(drift, np.ones(1_000))
    assert drift.now().expected_accuracy == 1


@pytest.mark.parametrize("card", [Card(), Card(0.9, MAX_CALIBRATION_ERROR + 1e-6)])
def test_without_calibration_nothing_is_expected(tmp_path: Path, card: Card) -> None:
    drift = watched(tmp_path, replace(version(), card=card))
    observe(drift, np.full(100, 0.9))
    assert drift.now().expected_accuracy is None


def test_reference_says_how_often_a_confidence_is_right(tmp_path: Path) -> None:
    drift = watched(tmp_path, version(), REFERENCE | {"calibration": HALVING})
    observe(drift, np.repeat([0.6, 0.8], 500))
    assert drift.now().expected_accuracy == pytest.approx(0.35, abs=2e-3)


@pytest.mark.parametrize("rows_a_request", [1, 40])
def test_nan_is_never_right(tmp_path: Path, rows_a_request: int) -> None:
    drift = watched(tmp_path, version(), REFERENCE | {"calibration": {"confidence": [0.0], "accuracy": [1.0]}})
    observe(drift, np.ones(60))
    for _ in range(0, 40, rows_a_request):
        observe(drift, np.full(rows_a_request, np.nan))
    assert drift.now().expected_accuracy == pytest.approx(0.6)


def test_line_is_level_beyond_its_points() -> None:
    expected = ExpectedAccuracy(Calibration((0.25, 0.75), (0.4, 0.8)))
    assert expected.of(np.array([0, 254], np.uint8)) == pytest.approx(0.6)
    assert expected.of(np.array([127], np.uint8)) == pytest.approx(0.6, abs=2e-3)


@pytest.mark.parametrize("rows_a_request", [1, 40])
def test_outliers_are_rows_above_1_and_those_without_a_number(tmp_path: Path, rows_a_request: int) -> None:
    drift = watched(tmp_path, scored_version(), REFERENCE | {"outlier_score": SCORES})
    scores = [0.3, 1.0, 1.01, np.inf, np.nan] * 40
    for start in range(0, 200, rows_a_request):
        observe(drift, np.full(rows_a_request, 0.9), scores[start : start + rows_a_request])
    assert drift.now().outliers == pytest.approx(0.6)


def test_outlier_score_drifts(tmp_path: Path) -> None:
    drift = watched(tmp_path, scored_version(), REFERENCE | {"outlier_score": SCORES})
    random = np.random.default_rng(0)
    observe(drift, np.full(1_000, 0.9), random.uniform(0, 1, 1_000).tolist(), "scored")
    (psi,) = (each.psi for each in drift.now().features if each.feature == "outlier score")
    assert psi < 0.1
    observe(drift, np.full(1_000, 0.9), random.uniform(0.5, 1.5, 1_000).tolist())
    (drifted,) = (each for each in drift.now().features if each.feature == "outlier score")
    assert drifted.psi > 0.25
    assert drifted.shift is not None
    assert drifted.shift > 0.25


def test_rows_without_a_score_do_not_count_beside_those_with_one(tmp_path: Path) -> None:
    drift = watched(tmp_path, scored_version(), REFERENCE | {"outlier_score": SCORES})
    observe(drift, np.full(100, 0.9), [0.5] * 100, "other")
    observe(drift, np.full(100, 0.9))
    assert drift.now().rows == 0


def test_few_rows_tell_nothing(tmp_path: Path) -> None:
    content = REFERENCE | {"outlier_score": SCORES, "calibration": HALVING}
    drift = watched(tmp_path, scored_version(), content)
    observe(drift, np.full(MIN_ROWS - 1, 0.9), [0.5] * (MIN_ROWS - 1))
    now = drift.now()
    assert (now.expected_accuracy, now.outliers) == (None, None)


def test_reference_without_outlier_scores_tells_no_outliers(tmp_path: Path) -> None:
    drift = watched(tmp_path, scored_version())
    observe(drift, np.full(100, 0.9), [5.0] * 100)
    assert drift.now().rows == 100
    assert drift.now().outliers is None


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "no edge at 1": ({"outlier_score": {"edges": [0.5], "shares": [0.5, 0.5]}}, "'outlier_score' has no edge at 1"),
    "other lengths": ({"calibration": {"confidence": [0.0, 1.0], "accuracy": [0.5]}}, "2 of 'confidence' and 1 of"),
    "no points": ({"calibration": {"confidence": [], "accuracy": []}}, "'confidence' that increases"),
    "falling": ({"calibration": {"confidence": [0.5, 0.5], "accuracy": [0.5, 0.5]}}, "'confidence' that increases"),
    "beyond 1": ({"calibration": {"confidence": [1.5], "accuracy": [0.5]}}, "<= 1"),
    "no labels": (
        {"calibration": HALVING, "labels": None, "confidence": None, "held_out_rows": None},
        "'outlier_score' and 'calibration' need 'labels'",
    ),
    "version without scores": ({"outlier_score": SCORES}, "it has 'outlier_score', and the version gives none"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_reference_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    changes, why = INVALID[name]
    write_reference(tmp_path, REFERENCE | changes)
    assert DriftMonitor(1_000).watch(version(), tmp_path) is None
    assert why in caplog.text
