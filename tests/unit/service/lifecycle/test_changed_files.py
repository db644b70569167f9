import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.inference.version import State
from service.lifecycle.succession import MIN_CHECK_PAUSE_SECONDS
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.lifecycle.worker import Worker, board_of

WAIT_SECONDS = 20


@pytest.fixture
def new_worker(tmp_path: Path, memory: SharedMemory) -> Callable[[int], Worker]:
    """Makes the worker process of a slot."""
    return lambda slot: Worker(tmp_path / "models", board=board_of(memory, slot), timeout_seconds=WAIT_SECONDS)


def poll(*workers: Worker, times: int = 3) -> None:
    """Often enough for changes to settle."""
    for _ in range(times):
        for worker in workers:
            worker.now += MIN_CHECK_PAUSE_SECONDS
            worker.watcher.scan()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "its files have changed" in line]


def identity(worker: Worker) -> str:
    folder = worker.registry.get("a").folder
    assert folder is not None
    return folder.identity


def change_graph(version: Path) -> None:
    (version / "saved_model.pb").write_bytes(b"another graph")


def add_serving_json(version: Path) -> None:
    (version / "assets.extra").mkdir()
    (version / "assets.extra/serving.json").write_text("{}")


def remove_variables(version: Path) -> None:
    (version / "variables/variables.index").unlink()


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (change_graph, "saved_model.pb"),
        (add_serving_json, "assets.extra/serving.json"),
        (remove_variables, "variables/variables.index"),
    ],
)
def test_changed_files_are_logged_once_and_not_loaded(
    worker: Worker, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None], file: str
) -> None:
    version = worker.add("a/1")
    (version / "variables").mkdir()
    (version / "variables/variables.index").write_bytes(b"weights")
    poll(worker)
    change(version)
    poll(worker)
    poll(worker)
    (line,) = warnings(caplog)
    assert line.startswith(
        f"a version 1: its files have changed since it was loaded ('{file}'); they are not looked at"
    )
    assert worker.loader.loaded == ["a/1"]


def test_changed_files_are_logged_once_they_settle(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    version = worker.add("a/1")
    poll(worker)
    for size in range(4):
        (version / "saved_model.pb").write_bytes(b"x" * size)
        poll(worker, times=1)
    assert warnings(caplog) == []
    poll(worker)
    assert len(warnings(caplog)) == 1


def test_unloaded_assets_may_change(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    version = worker.add("a/1")
    poll(worker)
    (version / "assets.extra").mkdir()
    (version / "assets.extra/README.md").write_text("# Card")
    poll(worker)
    assert warnings(caplog) == []


def test_removed_version_has_no_changed_files(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    version = worker.add("a/1")
    poll(worker)
    version.rename(worker.models / ".old")
    poll(worker)
    assert warnings(caplog) == []


def test_worker_processes_log_changed_files_once_together(
    new_worker: Callable[[int], Worker], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = new_worker(1), new_worker(2)
    version = one.add("a/1")
    poll(one, other)
    change_graph(version)
    poll(one, other)
    assert len(warnings(caplog)) == 1


def test_new_worker_with_changed_files_waits_for_the_others(new_worker: Callable[[int], Worker]) -> None:
    one, other = new_worker(1), new_worker(2)
    version = one.add("a/1")
    poll(one, other)
    before = identity(one)
    change_graph(version)
    poll(one, other)
    late = new_worker(3)
    is_loading = threading.Event()
    late.loader.meanwhile = is_loading.set
    begins = threading.Thread(target=late.watcher.scan)
    begins.start()
    assert is_loading.wait(WAIT_SECONDS)
    # It is not ready yet, so that only the others answer.
    assert not late.registry.first_scan_done.is_set()
    assert identity(one) == identity(other) == before
    while begins.is_alive():
        poll(one, other, times=1)
    poll(one, other, late)
    assert one.states() == other.states() == late.states() == {"a/1": State.AVAILABLE}
    assert identity(one) == identity(other) == identity(late) != before
    assert one.loader.loaded == other.loader.loaded == ["a/1", "a/1"]


def test_changed_files_that_fail_leave_the_others_serving(new_worker: Callable[[int], Worker]) -> None:
    one, late = new_worker(1), new_worker(2)
    version = one.add("a/1")
    poll(one)
    before = identity(one)
    change_graph(version)
    poll(one)
    for worker in (one, late):
        worker.loader.errors["a/1"] = LoadError("half of it is missing")
    late.watcher.scan()
    assert late.states() == {"a/1": State.END}
    poll(one)
    assert identity(one) == before
    assert "half of it is missing" in one.registry.statuses()["a"][1].error
