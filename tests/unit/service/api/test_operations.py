from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import create_app
from service.api.operations import health
from service.inference.version import State, VersionStatus
from service.lifecycle.registry import Registry
from service.settings import Settings
from tests.unit.service.fakes import FakeService, any_shape, loaded_version, make_available, signature

SIGNATURE = signature({"x": any_shape("DT_FLOAT")})


@pytest.mark.parametrize(("verb", "status"), [("live", 200), ("ready", 503)])
def test_live_is_not_ready(verb: str, status: int) -> None:
    registry = Registry()
    for _ in range(2):
        response = health(registry, verb)
        assert (response.status, orjson.loads(response.body)) == (status, {"live": True, "ready": False})
        registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
        registry.end_first_scan()


@pytest.mark.parametrize("verb", ["live", "ready"])
def test_ready(verb: str) -> None:
    registry = Registry()
    registry.end_first_scan()
    make_available(registry, loaded_version(SIGNATURE))
    response = health(registry, verb)
    assert (response.status, orjson.loads(response.body)) == (200, {"live": True, "ready": True})


def test_health_while_starting(tmp_path: Path) -> None:
    starting = FakeService(create_app(Settings(models=str(tmp_path))))
    assert (starting.get("/v2/health/live").status_code, starting.get("/v2/health/ready").status_code) == (200, 503)


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics"])
def test_metrics(service: FakeService, path: str) -> None:
    service.add(SIGNATURE)
    service.post("/v1/models/model:predict", {"instances": [1.0]})
    for name in ("my model", 'quo"ted', "back\\slash", "ünïcode"):
        service.registry.set_status(name, 1, VersionStatus(State.END, error="broken"))
    response = service.get(path)
    assert (response.status_code, response.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name for family in text_string_to_metric_families(response.text)}
    assert {"serving_requests", "serving_model_state", "serving_inference_duration_seconds"} <= families


def test_operations_are_not_counted_as_requests(service: FakeService) -> None:
    for path in ("/metrics", "/v2/health/live", "/nowhere"):
        service.get(path)
    assert "serving_requests_total{" not in service.get("/metrics").text
