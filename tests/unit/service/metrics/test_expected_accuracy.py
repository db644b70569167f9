"""Expected accuracy, the card's, and the share of outliers, as metrics of requests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from service.drift.card import Card
from tests.unit.service.fakes import FakeService, make_available
from tests.unit.service.scored import scored_version
from tests.unit.service.watched_for_drift import watched

REFERENCE: dict[str, Any] = {
    "rows": 100,
    "inputs": {},
    "held_out_rows": 100,
    "labels": {"dark": 0.5, "bright": 0.5},
    "confidence": {"edges": [0.75], "shares": [0.5, 0.5]},
    "outlier_score": {"edges": [1.0], "shares": [0.99, 0.01]},
    "calibration": {"confidence": [0.0], "accuracy": [0.75]},
}
NAMES = ("serving_card_accuracy", "serving_expected_accuracy", "serving_drift_window_outliers")


def values(service: FakeService) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in service.get("/metrics").text.splitlines() if line.startswith(NAMES))
    return {series.partition("{")[0]: float(value) for series, _, value in lines}


def send(service: FakeService, level: float, rows: int) -> None:
    instances = [[[level, level], [level, level]]] * rows
    assert service.post("/v1/models/model:predict", {"instances": instances}).status_code == 200


def test_accuracies_and_outliers_of_requests(service: FakeService, tmp_path: Path) -> None:
    loaded = replace(scored_version(), card=Card(accuracy=0.9))
    make_available(service.registry, replace(loaded, drift=watched(tmp_path, loaded, REFERENCE)))
    send(service, 10, 29)
    assert values(service) == {"serving_card_accuracy": 0.9}
    send(service, 200, 29)
    assert values(service) == dict(zip(NAMES, (0.9, 0.75, 0.5), strict=True))


def test_card_is_told_without_a_reference(service: FakeService) -> None:
    make_available(service.registry, replace(scored_version(), card=Card(accuracy=0.9)))
    assert values(service) == {"serving_card_accuracy": 0.9}
