"""Drift on the page of metrics, of a service whose versions are watched."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.inference.version import LoadedVersion
from tests.unit.service.fakes import FakeService, make_available
from tests.unit.service.watched_for_drift import honest, watched_version

PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
ROWS = 'serving_drift_window_rows{model="model",version="1"}'


def psi_of(feature: str) -> str:
    return f'serving_drift_psi{{feature="{feature}",model="model",version="1"}}'


def shift_of(feature: str) -> str:
    return f'serving_drift_shift{{feature="{feature}",model="model",version="1"}}'


def add(service: FakeService, folder: Path) -> LoadedVersion:
    loaded = watched_version(folder)
    make_available(service.registry, loaded)
    return loaded


def drift_lines(service: FakeService) -> list[str]:
    return [line for line in service.get("/metrics").text.splitlines() if line.startswith("serving_drift_")]


def test_requests_of_either_protocol_come_into_the_window(service: FakeService, tmp_path: Path) -> None:
    add(service, tmp_path)
    for value in honest(30).tolist():
        assert service.post(PREDICT, {"instances": [value]}).status_code == 200
    for values in honest(30).reshape(-1, 3).tolist():
        tensor = {"name": "x", "datatype": "FP32", "shape": [3], "data": values}
        assert service.post(INFER, {"inputs": [tensor]}).status_code == 200
    assert service.sample(ROWS) == "60.0"
    assert len(drift_lines(service)) == 1 + 3 + 2
    assert float(service.sample(psi_of("x")) or 1) < 0.1
    assert service.sample(shift_of("label")) is None


def test_drift_is_told_with_its_direction(service: FakeService, tmp_path: Path) -> None:
    add(service, tmp_path)
    assert service.post(PREDICT, {"instances": [0.5] * 100}).status_code == 200
    for feature in ("x", "label", "confidence"):
        assert float(service.sample(psi_of(feature)) or 0) > 0.25
    assert float(service.sample(shift_of("x")) or 0) == pytest.approx(-0.9)


def test_until_there_are_enough_rows_there_is_nothing_but_their_number(service: FakeService, tmp_path: Path) -> None:
    add(service, tmp_path)
    assert drift_lines(service) == [f"{ROWS} 0.0"]
    service.post(PREDICT, {"instances": [1.0] * 29})
    assert drift_lines(service) == [f"{ROWS} 29.0"]


def test_requests_that_fail_and_versions_without_a_reference_have_no_rows(service: FakeService, tmp_path: Path) -> None:
    loaded = add(service, tmp_path)
    make_available(service.registry, replace(loaded, model="other", drift=None))
    assert service.post(PREDICT, {"instances": ["a word"]}).status_code == 400
    assert service.post("/v1/models/other:predict", {"instances": [1.0] * 50}).status_code == 200
    assert drift_lines(service) == [f"{ROWS} 0.0"]


def test_what_is_shown_goes_with_the_version(service: FakeService, tmp_path: Path) -> None:
    add(service, tmp_path)
    service.post(PREDICT, {"instances": [1.0] * 50})
    assert drift_lines(service)
    service.registry.retire("model", 1)
    assert drift_lines(service) == []
