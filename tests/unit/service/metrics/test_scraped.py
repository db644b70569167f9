"""Metrics that are read at each scrape: states and health of versions, drift, and the processes."""

import os
import platform
import re
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry

from service.inference.version import State, VersionStatus
from service.lifecycle.policies import decode
from service.lifecycle.registry import Registry
from service.metrics import scraped
from service.metrics.definitions import Metrics, scrape_page
from service.metrics.scraped import Usage, usage
from service.runtime.build import VERSION
from service.runtime.cgroup import Memory
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.fakes import FakeService, any_shape, loaded_version, make_available, signature
from tests.unit.service.watched_for_drift import watched_version

MODEL = {"model": "model", "version": "1"}
LOADED = loaded_version(signature({"x": any_shape("DT_FLOAT")}))


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def page(metrics: Metrics, registry: Registry) -> CollectorRegistry:
    page = CollectorRegistry()
    page.register(scrape_page(metrics, registry))
    return page


def test_state_of_a_version_is_1_and_every_other_0(registry: Registry, page: CollectorRegistry) -> None:
    def states() -> dict[State, float | None]:
        return {name: page.get_sample_value("serving_model_state", {**MODEL, "state": name}) for name in State}

    registry.set_status("model", 1, VersionStatus(State.LOADING))
    assert states() == {name: float(name is State.LOADING) for name in State}
    assert page.get_sample_value("serving_model_load_seconds", MODEL) is None
    make_available(registry, LOADED)
    assert states() == {name: float(name is State.AVAILABLE) for name in State}
    assert page.get_sample_value("serving_model_load_seconds", MODEL) == 0.5


def test_labels_and_invalid_policies_are_shown(registry: Registry, page: CollectorRegistry) -> None:
    make_available(registry, LOADED)
    assert page.get_sample_value("serving_models_config_valid") == 1
    registry.set_policies(decode(b"[models.model.labels]\nstable = 1", Path("models.toml")), "it is invalid")
    assert page.get_sample_value("serving_models_config_valid") == 0
    assert page.get_sample_value("serving_model_label", {**MODEL, "label": "stable"}) == 1


def test_version_is_healthy_if_it_hangs_in_no_worker(registry: Registry) -> None:
    memory = SharedMemory()
    here, there = (Metrics(memory=memory, slot=slot) for slot in range(2))
    make_available(registry, LOADED)
    page = CollectorRegistry()
    page.register(scrape_page(here, registry))
    told = there.health_of("model", 1)
    here.health_of("model", 1)
    there.health_of("model", 2)(False)
    for is_healthy in (True, False, True):
        told(is_healthy)
        assert page.get_sample_value("serving_model_healthy", MODEL) == is_healthy
        assert page.get_sample_value("serving_model_unhealthy_workers", MODEL) == (not is_healthy)
    # Unknown versions are left out, and a version that is loaded again is healthy at first.
    assert page.get_sample_value("serving_model_healthy", {**MODEL, "version": "2"}) is None
    told(False)
    there.health_of("model", 1)
    assert page.get_sample_value("serving_model_healthy", MODEL) == 1


PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
ROWS = 'serving_drift_window_rows{model="model",version="1"}'


def drift_lines(service: FakeService) -> dict[str, float]:
    lines = re.findall("^(serving_drift_.*) (.*)$", service.get("/metrics").text, re.MULTILINE)
    return {series: float(value) for series, value in lines}


def series(kind: str, feature: str) -> str:
    return f'serving_drift_{kind}{{feature="{feature}",model="model",version="1"}}'


@pytest.fixture
def watched(service: FakeService, tmp_path: Path) -> FakeService:
    make_available(service.registry, watched_version(tmp_path))
    return service


def test_drift_of_requests_of_both_protocols(watched: FakeService) -> None:
    assert watched.post(PREDICT, {"instances": [0.5] * 30}).status_code == 200
    tensor = {"name": "x", "datatype": "FP32", "shape": [30], "data": [0.5] * 30}
    assert watched.post(INFER, {"inputs": [tensor]}).status_code == 200
    lines = drift_lines(watched)
    assert lines.pop(ROWS) == 60
    assert min(lines.pop(series("psi", feature)) for feature in ("x", "label", "confidence")) > 0.25
    assert lines.pop(series("shift", "x")) == pytest.approx(-0.9)
    # Labels have no order, and so no direction.
    assert list(lines) == [series("shift", "confidence")]


def test_few_rows_have_only_their_number_which_vanishes_with_the_version(watched: FakeService) -> None:
    make_available(watched.registry, replace(watched.registry.get("model"), model="other", drift=None))
    assert watched.post(PREDICT, {"instances": ["a word"]}).status_code == 400
    assert watched.post("/v1/models/other:predict", {"instances": [1.0] * 50}).status_code == 200
    assert drift_lines(watched) == {ROWS: 0}
    watched.post(PREDICT, {"instances": [1.0] * 29})
    assert drift_lines(watched) == {ROWS: 29}
    watched.registry.retire("model", 1)
    assert drift_lines(watched) == {}


def test_memory_is_shown_if_it_has_a_limit(page: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    for memory, shown in ((None, [None, None]), (Memory(limit=1000, used=500), [1000, 500])):
        monkeypatch.setattr(scraped, "limited_memory", Mock(return_value=memory))
        assert [page.get_sample_value(f"serving_memory_{name}_bytes") for name in ("limit", "used")] == shown


def test_usage_of_the_worker_processes_is_shown(page: CollectorRegistry) -> None:
    assert page.get_sample_value("serving_workers") == 1
    if Path("/proc/self/stat").exists():
        open_files = len(list(Path("/proc/self/fd").iterdir()))
        assert page.get_sample_value("serving_process_open_fds") == pytest.approx(open_files, abs=5)
        assert (page.get_sample_value("serving_process_resident_memory_bytes") or 0) > 1e6


TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scraped, "PROC", tmp_path)
    (tmp_path / "stat").write_text("cpu 1 2 3\nbtime 1000\nprocesses 5\n")
    return tmp_path


def add_process(proc: Path, pid: int, cpu: int = 0, of_children: int = 0, start: int = 0, pages: int = 0) -> None:
    """Times in seconds."""
    files = proc / str(pid) / "fd"
    files.mkdir(parents=True, exist_ok=True)
    (files / "0").touch()
    fields = ["0"] * 40
    fields[11], fields[12], fields[13], fields[14] = str(cpu * TICKS), "0", "0", str(of_children * TICKS)
    fields[19], fields[21] = str(start * TICKS), str(pages)
    (proc / str(pid) / "stat").write_text(f"{pid} (a (strange) name) " + " ".join(fields))


def test_usage_adds_up_the_processes_and_the_time_of_ended_ones(proc: Path) -> None:
    add_process(proc, 1, cpu=100, of_children=50)
    add_process(proc, 2, cpu=2, of_children=1, start=10, pages=3)
    add_process(proc, 3, cpu=3, start=30, pages=4)
    assert usage([2, 3], None) == Usage(2 + 1 + 3, 7 * PAGE, 2, 1030)
    assert usage([2, 3], parent=1) == Usage(50 + 2 + 1 + 3, 7 * PAGE, 2, 1030)


def test_process_that_has_ended_uses_nothing(proc: Path) -> None:
    assert usage([1], None) is None
    add_process(proc, 1, cpu=2)
    assert usage([1, 2, 3], None) == Usage(2, 0, 1, 1000)


def test_process_that_ends_while_it_is_read_is_counted_once(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_process(proc, 1, of_children=50)
    add_process(proc, 2, cpu=3)
    read, reads = Path.read_text, count(1)

    def ends_before_the_second_read(file: Path) -> str:
        if file == proc / "2" / "stat" and next(reads) == 2:
            file.unlink()
            add_process(proc, 1, of_children=53)
        return read(file)

    monkeypatch.setattr(Path, "read_text", ends_before_the_second_read)
    found = usage([2], parent=1)
    assert found is not None
    assert found.cpu_seconds == 53


def test_build_info() -> None:
    families = {family.name: family.samples for family in scrape_page(Metrics(), Registry()).collect()}
    ((_, labels, value, *_),) = families["serving_build_info"]
    assert (value, labels["version"], labels["python"]) == (1, VERSION, platform.python_version())
    assert labels["litert"] == version("ai-edge-litert")
