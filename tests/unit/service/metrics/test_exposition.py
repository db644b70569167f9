from functools import partial

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.inference.version import State, VersionStatus
from service.lifecycle.registry import Registry
from service.metrics.definitions import Metrics, scrape_page
from service.metrics.exposition import Page
from service.runtime.shared_memory import FIRST_PROCESS, Areas, Kind, SharedMemory, series_key
from tests.unit.service.fakes import any_shape, loaded_version, make_available, signature
from tests.unit.service.forked import Forked

MODEL = {"model": "model", "version": "1"}
TOO_LARGE = {"reason": "too_large"}
LOADED = loaded_version(signature({"x": any_shape("DT_FLOAT")}))


def count(memory: SharedMemory, slot: int, times: int, _go: object = None) -> None:
    """As the worker process of that slot."""
    metrics = Metrics(memory=memory, slot=slot)
    metrics.queue_length.labels("model", "1").set(3)
    for _ in range(times):
        metrics.rejected.labels("too_large").inc()
        metrics.batch_size.labels("model", "1").observe(2)


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    make_available(registry, LOADED)
    return registry


@pytest.fixture
def memory() -> SharedMemory:
    """Its first slot is the test's."""
    memory = SharedMemory()
    memory.reserve_slot()
    return memory


def samples(page: Page) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(page)
    return registry


def test_no_series_outlives_its_version(registry: Registry) -> None:
    metrics = Metrics()
    page = samples(scrape_page(metrics, registry))
    found = metrics.of_request("model", "1", "v1", "predict", 404).record
    found(0.5, 0, 0)
    metrics.of_request("", "", "v1", "predict", 404).record(0.5, 0, 0)
    metrics.rejected.labels("too_large").inc()
    labels = {**MODEL, "protocol": "v1", "verb": "predict", "status": "404"}
    assert page.get_sample_value("serving_requests_total", labels) == 1
    registry.remove("model", 1)
    assert not [sample for family in page.collect() for sample in family.samples if sample.labels.get("model")]
    # Requests that found no version, and metrics without one, stay.
    assert page.get_sample_value("serving_requests_total", {**labels, "model": "", "version": ""}) == 1
    assert page.get_sample_value("serving_rejected_total", TOO_LARGE) == 1
    # If the version comes back, its counters have not fallen.
    make_available(registry, LOADED)
    found(0.5, 0, 0)
    assert page.get_sample_value("serving_requests_total", labels) == 2


def test_page_is_what_the_prometheus_client_writes(registry: Registry) -> None:
    metrics = Metrics()
    metrics.of_request("model", "1", "v1", "predict", 200).record(0.75, 0.25, 0.5)
    metrics.queue_length.labels("model", "1").set(2)
    page = scrape_page(metrics, registry)

    def without_usage(text: bytes) -> list[str]:
        return [line for line in text.decode().splitlines() if not line.startswith(("serving_process", "serving_mem"))]

    lines = without_usage(page.text())
    assert lines == without_usage(generate_latest(samples(page)))
    assert 'serving_model_state{model="model",state="AVAILABLE",version="1"} 1.0' in lines


@pytest.mark.parametrize("name", ["my model", 'quo"ted', "back\\nslash", "new\nline", "ünïcode", 'le="0"', "a,b={c}"])
def test_label_may_be_any_text(name: str) -> None:
    registry, metrics = Registry(), Metrics()
    registry.set_status(name, 1, VersionStatus(State.END, error="broken"))
    metrics.batch_size.labels(name, "1").observe(300)
    page = samples(scrape_page(metrics, registry))
    labels = {"model": name, "version": "1"}
    assert page.get_sample_value("serving_batch_size_bucket", {**labels, "le": "256.0"}) == 0
    assert page.get_sample_value("serving_batch_size_bucket", {**labels, "le": "+Inf"}) == 1
    assert page.get_sample_value("serving_model_state", {**labels, "state": "END"}) == 1
    registry.set_status("\udcff", 1, VersionStatus(State.END, error="broken"))
    assert b'model="?"' in scrape_page(metrics, registry).text()


def test_scrape_adds_up_all_processes(memory: SharedMemory, registry: Registry) -> None:
    page = samples(scrape_page(Metrics(memory=memory), registry))
    count(memory, 0, times=1)
    slots = [memory.reserve_slot() for _ in range(2)]
    children = [Forked(partial(count, memory, slot, 1_000)) for slot in slots]
    assert [child.join() for child in children] == [0, 0]
    assert page.get_sample_value("serving_rejected_total", TOO_LARGE) == 2_001
    assert page.get_sample_value("serving_batch_size_sum", MODEL) == 4_002
    assert page.get_sample_value("serving_queue_length", MODEL) == 9
    assert page.get_sample_value("serving_workers") == 3


def test_counts_outlive_their_process_and_gauges_do_not(memory: SharedMemory, registry: Registry) -> None:
    page = samples(scrape_page(Metrics(memory=memory), registry))

    def shown() -> list[float | None]:
        names = {"serving_workers": {}, "serving_queue_length": MODEL, "serving_rejected_total": TOO_LARGE}
        return [page.get_sample_value(name, labels) for name, labels in names.items()]

    slot = memory.reserve_slot()
    count(memory, slot, times=2)
    assert shown() == [2, 3, 2]
    memory.free_slot(slot)
    assert shown() == [1, None, 2]
    end = memory.end
    count(memory, memory.reserve_slot(), times=1)
    assert shown() == [2, 3, 3]
    assert memory.end == end, "it goes on with the cells of the one before it"


def test_series_that_begin_after_a_scrape_are_on_the_next(memory: SharedMemory, registry: Registry) -> None:
    first, second = (Metrics(memory=memory, slot=slot) for slot in range(2))
    page = samples(scrape_page(first, registry))
    first.rejected.labels("a").inc()
    second.rejected.labels("b").inc()
    assert page.get_sample_value("serving_rejected_total", {"reason": "b"}) == 1
    second.rejected.labels("a").inc()
    for reason in map(str, range(500)):
        second.rejected.labels(reason).inc()
    assert page.get_sample_value("serving_rejected_total", {"reason": "a"}) == 2
    assert page.get_sample_value("serving_rejected_total", {"reason": "499"}) == 1


def test_counts_of_the_first_process_are_on_the_page(memory: SharedMemory, registry: Registry) -> None:
    page = samples(scrape_page(Metrics(memory=memory), registry))
    area = Areas(memory, Kind.COUNT).take(FIRST_PROCESS, series_key("serving_model_deaths", ("model", "1")), 8)
    memory.doubles_of(area)[0] = 2
    assert page.get_sample_value("serving_model_deaths_total", MODEL) == 2
