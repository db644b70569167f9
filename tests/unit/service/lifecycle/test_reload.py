"""Policies that a client sends: in force in all worker processes, until the operator's file changes."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound, ServingError, Unavailable
from service.inference.version import State
from service.lifecycle.model_server_config import ModelConfig, policies_of
from service.lifecycle.policies import ModelPolicy, Policies
from service.runtime.shared_memory import MIN_CAPACITY, Kind, SharedMemory
from tests.unit.service.lifecycle.worker import Worker, board_of

WAIT_SECONDS = 10


def config_of(**base_paths: Path) -> Policies:
    return policies_of(
        [ModelConfig(name=name, base_path=str(path), model_platform="tensorflow") for name, path in base_paths.items()]
    )


def version_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    return folder.parent


@contextmanager
def coordinating(*workers: Worker) -> Iterator[None]:
    """As their watchers do, in threads of their own."""
    stopped = threading.Event()

    def watch(worker: Worker) -> None:
        while not stopped.wait(0.001):
            worker.watcher.scan()

    threads = [threading.Thread(target=watch, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join(WAIT_SECONDS)


@pytest.fixture
def pair(tmp_path: Path, memory: SharedMemory) -> tuple[Worker, Worker]:
    one, other = (Worker(tmp_path / "models", board=board_of(memory, slot)) for slot in range(2))
    one.add("inside/1")
    with coordinating(one, other):
        for worker in (one, other):
            assert worker.registry.first_scan_done.wait(WAIT_SECONDS)
    return one, other


def test_all_workers_serve_what_was_sent_and_nothing_else(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    base_path = version_in(tmp_path / "elsewhere" / "3")
    version_in(tmp_path / "elsewhere" / "4")
    with coordinating(*pair):
        pair[0].watcher.reload(config_of(sent=base_path))
    for worker in pair:
        worker.scan_each_second()
        assert worker.states() == {"sent/4": State.AVAILABLE}
        assert worker.registry.get("sent").version == 4


def test_the_last_one_counts(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    one, other = (version_in(tmp_path / name / "1") for name in ("one", "other"))
    with coordinating(*pair):
        pair[0].watcher.reload(config_of(a=one))
        pair[1].watcher.reload(config_of(b=other))
    for worker in pair:
        worker.scan_each_second()
        assert worker.states() == {"b/1": State.AVAILABLE}


def test_it_counts_for_workers_that_start_later(
    pair: tuple[Worker, Worker], tmp_path: Path, memory: SharedMemory
) -> None:
    base_path = version_in(tmp_path / "elsewhere" / "1")
    with coordinating(*pair):
        pair[0].watcher.reload(config_of(sent=base_path))
    late = Worker(tmp_path / "models", board=board_of(memory, 2))
    with coordinating(*pair, late):
        assert late.registry.first_scan_done.wait(WAIT_SECONDS)
    assert late.states() == {"sent/1": State.AVAILABLE}


def test_a_changed_file_counts_again(worker: Worker, tmp_path: Path) -> None:
    worker.add("inside/1")
    base_path = version_in(tmp_path / "elsewhere" / "1")
    with coordinating(worker):
        worker.watcher.reload(config_of(sent=base_path))
    worker.write_policies("[models.inside]\nversions = 'all'")
    worker.scan()
    worker.scan_each_second()
    assert worker.states() == {"inside/1": State.AVAILABLE}


def test_a_model_that_cannot_be_loaded_is_an_error(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    base_path = version_in(tmp_path / "broken" / "1")
    for worker in pair:
        worker.loader.errors["broken/1"] = LoadError("it is broken")
    with coordinating(*pair), pytest.raises(InvalidRequest) as raised:
        pair[0].watcher.reload(config_of(a=base_path))
    assert str(raised.value).startswith("1 model(s) did not become available: a (version 1: it is broken")


def test_a_model_that_another_worker_cannot_load_is_an_error(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    base_path = version_in(tmp_path / "broken" / "1")
    pair[1].loader.errors["broken/1"] = LoadError("it is broken")
    with coordinating(*pair), pytest.raises(InvalidRequest, match="not by every worker process"):
        pair[0].watcher.reload(config_of(a=base_path))


def test_a_model_without_versions_is_an_error(worker: Worker, tmp_path: Path) -> None:
    with coordinating(worker), pytest.raises(InvalidRequest, match=r"a \(its base path cannot be read"):
        worker.watcher.reload(config_of(a=tmp_path / "none"))


def test_it_serves_until_all_workers_have_loaded_it(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    base_path = version_in(tmp_path / "elsewhere" / "1")
    go_on = threading.Event()

    def wait() -> None:
        go_on.wait(WAIT_SECONDS)

    pair[1].loader.meanwhile = wait
    errors: list[ServingError] = []

    def reload() -> None:
        try:
            pair[0].watcher.reload(config_of(sent=base_path))
        except ServingError as error:
            errors.append(error)

    with coordinating(*pair):
        thread = threading.Thread(target=reload)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        go_on.set()
        thread.join(WAIT_SECONDS)
    assert errors == []
    assert pair[1].states()["sent/1"] is State.AVAILABLE


def test_a_refused_one_changes_nothing(worker: Worker, tmp_path: Path) -> None:
    def refuse(_policies: Policies) -> None:
        raise FailedPrecondition("not yet")

    worker.add("inside/1")
    worker.watcher._check_reload = refuse
    with pytest.raises(FailedPrecondition):
        worker.watcher.reload(config_of(a=tmp_path))
    worker.scan()
    assert worker.states() == {"inside/1": State.AVAILABLE}


def test_it_takes_no_longer_than_the_timeout(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "models", timeout_seconds=0.05)
    with pytest.raises(Unavailable, match=r"takes longer than 0\.05 s"):
        worker.watcher.reload(config_of(a=tmp_path))


def test_full_memory_is_said(tmp_path: Path) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    worker = Worker(tmp_path / "models", board=board_of(memory, 0))
    with memory.locked():
        memory.append(Kind.COUNT, 0, b"", len(memory.view) - memory.end - 10_000)
    with pytest.raises(Unavailable, match="the worker processes cannot be told to reload"):
        worker.watcher.reload(config_of(**{f"model{number}": tmp_path for number in range(1000)}))


def test_what_is_no_longer_listed_is_not_found(worker: Worker, tmp_path: Path) -> None:
    worker.add("inside/1")
    worker.scan()
    base_path = version_in(tmp_path / "elsewhere" / "1")
    with coordinating(worker):
        worker.watcher.reload(config_of(sent=base_path))
    worker.scan_each_second()
    with pytest.raises(NotFound):
        worker.registry.get("inside")


def test_one_model_more_and_less(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    policy = ModelPolicy(base_path=str(version_in(tmp_path / "elsewhere" / "3")))
    with coordinating(*pair):
        pair[0].watcher.add("one", policy)
        pair[1].watcher.add("other", policy)
        for worker in pair:
            assert worker.states() == dict.fromkeys(("inside/1", "one/3", "other/3"), State.AVAILABLE)
        with pytest.raises(AlreadyExists):
            pair[1].watcher.add("one", policy)
        with ThreadPoolExecutor(1) as thread:
            removed = thread.submit(pair[1].watcher.remove, "one")
            # What is missing for a second counts as removed.
            while wait([removed], 0.001).not_done:
                for worker in pair:
                    worker.now += 1
        removed.result()
        for worker in pair:
            assert worker.states() == {"inside/1": State.AVAILABLE, "other/3": State.AVAILABLE}
        with pytest.raises(NotFound, match="one is not loaded"):
            pair[0].watcher.remove("one")


def test_model_that_cannot_be_added_is_not_kept(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    policy = ModelPolicy(base_path=str(tmp_path / "none"))
    with coordinating(*pair):
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="did not become available"):
                pair[0].watcher.add("one", policy)
