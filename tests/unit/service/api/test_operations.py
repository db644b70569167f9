import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import create_app
from service.inference.version import State, VersionStatus
from tests.unit.service.fakes import FakeService, any_shape, signature

SIGNATURE = signature({"x": any_shape("DT_FLOAT")})


@pytest.fixture
def starting() -> FakeService:
    """A service that has not looked at its models folder yet."""
    from service.settings import Settings

    return FakeService(create_app(Settings()))


def test_it_is_live_before_it_is_ready(starting: FakeService) -> None:
    live = starting.get("/v2/health/live")
    assert (live.status_code, live.get_json()) == (200, {"live": True, "ready": False})
    ready = starting.get("/v2/health/ready")
    assert (ready.status_code, ready.get_json()) == (503, {"live": True, "ready": False})


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_it_is_ready_once_its_models_are_loaded(service: FakeService, path: str) -> None:
    service.add(SIGNATURE)
    response = service.get(path)
    assert (response.status_code, response.get_json()) == (200, {"live": True, "ready": True})


def test_it_is_not_ready_where_every_model_failed(service: FakeService) -> None:
    service.registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    assert service.get("/v2/health/ready").status_code == 503


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics"])
def test_prometheus_can_read_the_metrics(service: FakeService, path: str) -> None:
    service.add(SIGNATURE)
    service.post("/v1/models/model:predict", {"instances": [1.0]})
    response = service.get(path)
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name for family in text_string_to_metric_families(response.text)}
    assert {"serving_requests", "serving_model_state", "serving_inference_duration_seconds"} <= families


def test_what_the_operator_asks_is_no_request_to_a_model(service: FakeService) -> None:
    for path in ("/metrics", "/v2/health/live", "/nowhere"):
        service.get(path)
    assert "serving_requests_total{" not in service.get("/metrics").text


@pytest.mark.parametrize("model", ["my model", 'quo"ted', "back\\slash", "ünïcode"])
def test_a_model_of_any_name_does_not_break_the_metrics(service: FakeService, model: str) -> None:
    service.registry.set_status(model, 1, VersionStatus(State.END, error="broken"))
    response = service.get("/metrics")
    assert response.status_code == 200
    assert list(text_string_to_metric_families(response.text))
