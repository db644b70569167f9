from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.inference.folder import Folder
from service.inference.version import State, VersionStatus
from service.lifecycle.registry import Registry
from service.metrics.definitions import Metrics, scrape_page
from service.metrics.exposition import Page
from tests.unit.service.fakes import any_shape, loaded_version, signature

LATENCY = ":tensorflow:serving:request_latency"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry()
    loaded = replace(loaded_version(signature({"x": any_shape("DT_FLOAT")})), folder=Folder(tmp_path))
    registry.set_status("model", 1, VersionStatus(State.AVAILABLE, load_seconds=0.5), loaded)
    return registry


@pytest.fixture
def page(metrics: Metrics, registry: Registry) -> Page:
    return scrape_page(metrics, registry, has_tensorflow_names=True)


def lines(page: Page, name: str) -> list[str]:
    return [line for line in page.text().decode().splitlines() if line.startswith((f"{name}{{", f"{name} "))]


def test_requests_of_all_versions_and_protocols_by_code(metrics: Metrics, page: Page) -> None:
    for version, protocol, verb, status in (
        ("1", "v1", "predict", 200),
        ("1", "grpc_v1", "predict", 200),
        ("2", "v2", "infer", 200),
        ("2", "v1", "classify", 400),
        ("1", "v1", "metadata", 200),
    ):
        metrics.of_request("model", version, protocol, verb, status).record(0.5, 0, 0)
    assert lines(page, ":tensorflow:serving:request_count") == [
        ':tensorflow:serving:request_count{model_name="model",status="OK"} 3',
        ':tensorflow:serving:request_count{model_name="model",status="INVALID_ARGUMENT"} 1',
    ]


def test_latency_in_microseconds(metrics: Metrics, page: Page) -> None:
    for seconds in (0.0002, 0.25, 20):
        metrics.of_request("model", "1", "v1", "predict", 200).record(seconds, 0, 0)
    metrics.of_request("model", "1", "grpc_v1", "classify", 200).record(0.25, 0, 0)
    labels = 'model_name="model",API="predict",entrypoint="REST"'
    buckets = [line for line in lines(page, f"{LATENCY}_bucket") if labels in line]
    found = [bucket.partition("le=")[2] for bucket in buckets]
    assert (found[:2], found[-2:]) == (['"100"} 0', '"250"} 1'], ['"1e+07"} 2', '"+Inf"} 3'])
    assert lines(page, f"{LATENCY}_sum")[0] == f"{LATENCY}_sum{{{labels}}} 20250200"
    assert lines(page, f"{LATENCY}_count") == [
        f"{LATENCY}_count{{{labels}}} 3",
        f'{LATENCY}_count{{model_name="model",API="Classify",entrypoint="GRPC"}} 1',
    ]


def test_runs_and_batches(metrics: Metrics, page: Page) -> None:
    for name in ("serving_default", "other"):
        metrics.of_inference("model", 1, "litert", name).observe(0.001)
    for rows in (2, 4):
        metrics.of_batch("model", 1).observe(rows)
    runtime = ":tensorflow:serving:runtime_latency"
    assert lines(page, f"{runtime}_sum") == [f'{runtime}_sum{{model_name="model",API="Predict",runtime="TF1"}} 2000']
    sizes = ":tensorflow:serving:batching_session:processed_batch_size"
    assert lines(page, f"{sizes}_sum") == [f'{sizes}_sum{{model_name="model"}} 6']
    assert lines(page, ":tensorflow:core:graph_runs") == [":tensorflow:core:graph_runs 2"]


def test_loads(metrics: Metrics, page: Page, tmp_path: Path) -> None:
    metrics.load_failures.labels("model", "2").inc(3)
    name = ":tensorflow:cc:saved_model"
    assert lines(page, f"{name}:load_attempt_count") == [
        f'{name}:load_attempt_count{{model_path="model/2",status="fail"}} 3',
        f'{name}:load_attempt_count{{model_path="{tmp_path}",status="success"}} 1',
    ]
    assert lines(page, f"{name}:load_latency") == [f'{name}:load_latency{{model_path="{tmp_path}"}} 500000']


def test_counters_do_not_fall_when_a_version_leaves(metrics: Metrics, registry: Registry, page: Page) -> None:
    metrics.of_request("model", "1", "v1", "predict", 200).record(0.5, 0, 0)
    registry.remove("model", 1)
    (line,) = lines(page, ":tensorflow:serving:request_count")
    assert line.endswith(" 1")


def test_page_is_valid(metrics: Metrics, page: Page) -> None:
    metrics.of_request('a"b\\', "1", "v1", "predict", 200).record(0.5, 0, 0)
    families = {family.name: family for family in text_string_to_metric_families(page.text().decode())}
    assert families[LATENCY].type == "histogram"
    assert families[":tensorflow:serving:request_count"].samples[0].labels["model_name"] == 'a"b\\'


def test_they_are_off(metrics: Metrics, registry: Registry) -> None:
    assert b":tensorflow:" not in scrape_page(metrics, registry).text()
