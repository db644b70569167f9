from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.api.v2.statistics import statistics
from service.inference.version import State, VersionStatus
from service.lifecycle.registry import Registry
from service.metrics.definitions import Metrics, scrape_page
from tests.unit.service.api.models import LINEAR
from tests.unit.service.fakes import FakeService, loaded_version, make_available

INFER = "/v2/models/model/infer"


def test_requests_rows_and_runs(service: FakeService) -> None:
    service.add(LINEAR)
    for rows in (1, 2, 3):
        tensor = {"name": "x", "shape": [rows], "datatype": "FP32", "data": [1.0] * rows}
        service.post(INFER, {"inputs": [tensor]})
        service.post(INFER, {"inputs": []})
    service.post("/v1/models/model:predict", {"instances": [1.0]})
    service.get("/v2/models/model")  # is no inference
    (stats,) = service.get("/v2/models/model/stats").get_json()["model_stats"]
    assert (stats["name"], stats["version"], stats["batch_stats"]) == ("model", "1", [])
    assert (stats["inference_count"], stats["execution_count"]) == (7, 4)
    stages = stats["inference_stats"]
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    counts = {name: stage["count"] for name, stage in stages.items()}
    assert counts == {**dict.fromkeys(("success", *parts), 4), "fail": 3, "cache_hit": 0, "cache_miss": 0}
    nanoseconds = {name: stage["ns"] for name, stage in stages.items()}
    assert all(type(ns) is int and ns >= 0 for ns in nanoseconds.values())
    assert all(nanoseconds[name] for name in counts if counts[name] and name != "queue")
    assert abs(nanoseconds["success"] - sum(nanoseconds[part] for part in parts)) <= len(parts)


@pytest.mark.parametrize(
    ("model", "version", "found"),
    [
        (None, None, [("another", "1"), ("model", "1"), ("model", "2")]),
        ("model", None, [("model", "1"), ("model", "2")]),
        ("model", 2, [("model", "2")]),
    ],
)
def test_statistics_are_of_what_is_named(model: str | None, version: int | None, found: list[tuple[str, str]]) -> None:
    registry = Registry()
    for name, number in (("model", 1), ("model", 2), ("another", 1)):
        make_available(registry, loaded_version(LINEAR, model=name, version=number))
    registry.set_status("model", 3, VersionStatus(State.LOADING))
    page = scrape_page(Metrics(CollectorRegistry()), registry)
    described: Any = statistics(registry, page, model, version)["model_stats"]
    assert [(stats["name"], stats["version"]) for stats in described] == found
    assert {stats["inference_count"] for stats in described} == {0}
