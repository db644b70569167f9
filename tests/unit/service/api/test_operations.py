import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.operations import health
from service.inference.version import State, VersionStatus
from service.lifecycle.registry import Registry
from tests.unit.service.fakes import FakeService, any_shape, loaded_version, make_available, signature

SIGNATURE = signature({"x": any_shape("DT_FLOAT")})


def health_of(registry: Registry) -> list[tuple[int, object]]:
    responses = [health(registry, verb) for verb in ("live", "ready")]
    return [(response.status, orjson.loads(response.body)) for response in responses]


def test_live_is_not_ready() -> None:
    registry = Registry()
    for _ in range(2):
        assert health_of(registry) == [(200, {"live": True, "ready": False}), (503, {"live": True, "ready": False})]
        registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
        registry.end_first_scan()
    make_available(registry, loaded_version(SIGNATURE, model="another"))
    assert health_of(registry) == [(200, {"live": True, "ready": True})] * 2


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics"])
def test_metrics(service: FakeService, path: str) -> None:
    service.add(SIGNATURE, model='my "back\\slash" ü')
    response = service.get(path)
    assert (response.status_code, response.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "serving_model_state" in {family.name for family in text_string_to_metric_families(response.text)}


def test_operations_are_not_counted_as_requests(service: FakeService) -> None:
    for path in ("/metrics", "/v2/health/live", "/nowhere"):
        service.get(path)
    assert "serving_requests_total{" not in service.get("/metrics").text
