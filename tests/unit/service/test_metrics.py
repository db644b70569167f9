import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.metrics import Metrics, RegistryCollector, scrape_registry
from service.registry import Registry, State, VersionStatus
from tests.unit.service.fakes import any_shape, loaded_version, make_available, signature

MODEL = {"model": "model", "version": "1"}
LOADED = loaded_version(signature({"x": any_shape("DT_FLOAT")}))

COUNT_IN_ANOTHER_PROCESS = """
from prometheus_client import CollectorRegistry
from service.metrics import Metrics
Metrics(CollectorRegistry()).rejected.labels("too_large").inc(3)
"""


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


def state(page: CollectorRegistry, name: State) -> float | None:
    return page.get_sample_value("serving_model_state", {**MODEL, "state": name})


def test_every_metric_has_the_prefix_and_its_unit() -> None:
    page = CollectorRegistry()
    Metrics(page)
    names = {family.name for family in page.collect()}
    assert names == {
        "serving_requests",
        "serving_request_duration_seconds",
        "serving_inference_duration_seconds",
        "serving_batch_size",
        "serving_queue_length",
        "serving_queue_wait_seconds",
        "serving_rejected",
        "serving_prediction",
        "serving_prediction_confidence",
    }


def test_two_services_in_one_process_do_not_share_their_metrics() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    Metrics(first).rejected.labels("too_large").inc()
    Metrics(second)
    assert first.get_sample_value("serving_rejected_total", {"reason": "too_large"}) == 1
    assert second.get_sample_value("serving_rejected_total", {"reason": "too_large"}) is None


def test_the_state_of_a_version_is_1_and_every_other_state_0() -> None:
    registry = Registry()
    page = CollectorRegistry()
    page.register(RegistryCollector(registry))
    registry.set_status("model", 1, VersionStatus(State.LOADING))
    assert {name: state(page, name) for name in State} == {name: float(name is State.LOADING) for name in State}
    make_available(registry, LOADED)
    assert (state(page, State.LOADING), state(page, State.AVAILABLE)) == (0, 1)


def test_the_time_that_loading_took_is_shown_for_what_is_available() -> None:
    registry = Registry()
    page = CollectorRegistry()
    page.register(RegistryCollector(registry))
    registry.set_status("model", 1, VersionStatus(State.END, error="broken"))
    assert page.get_sample_value("serving_model_load_seconds", MODEL) is None
    make_available(registry, LOADED)
    assert page.get_sample_value("serving_model_load_seconds", MODEL) == 0.5


def test_no_series_outlives_its_version() -> None:
    registry = Registry()
    page = CollectorRegistry()
    page.register(RegistryCollector(registry))
    make_available(registry, LOADED)
    registry.remove("model", 1)
    assert state(page, State.AVAILABLE) is None


def test_a_scrape_shows_the_metrics_and_the_states() -> None:
    registry, metrics = Registry(), Metrics(CollectorRegistry())
    page = scrape_registry(metrics, registry)
    make_available(registry, LOADED)
    metrics.rejected.labels("too_large").inc()
    text = generate_latest(page).decode()
    assert 'serving_rejected_total{reason="too_large"} 1.0' in text
    assert 'serving_model_state{model="model",state="AVAILABLE",version="1"} 1.0' in text


def test_with_several_processes_a_scrape_adds_up_what_all_of_them_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNT_IN_ANOTHER_PROCESS], check=True)
    registry = Registry()
    make_available(registry, LOADED)
    page = scrape_registry(Metrics(CollectorRegistry()), registry)
    assert page.get_sample_value("serving_rejected_total", {"reason": "too_large"}) == 6
    assert state(page, State.AVAILABLE) == 1
