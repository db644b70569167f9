import gc
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.errors import NotFound, Unavailable
from service.inference.folder import fingerprint
from service.inference.version import State
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Repository
from service.lifecycle.version_records import VersionRecords
from service.runtime.deaths import Deaths, Ending
from service.runtime.shared_memory import SharedMemory
from service.serving_config import InvalidServingConfig
from tests.unit.service.lifecycle.worker import Worker, while_scanning

MAX_WAIT_SECONDS = 10


def test_first_scan_loads_the_newest_versions_first(worker: Worker) -> None:
    worker.begin_with("b/1", "a/2", "a/10", "a/1")
    assert worker.loader.loaded == ["a/10", "b/1", "a/2", "a/1"]
    assert set(worker.states().values()) == {State.AVAILABLE}
    assert worker.registry.ready
    status = worker.registry.statuses()["a"][1]
    assert (status.engine, status.error) == ("fake", "")
    assert status.load_seconds >= 0
    # Once only.
    worker.scan()
    assert len(worker.loader.loaded) == 4


def test_first_versions_serve_while_others_load(worker: Worker) -> None:
    known: list[list[str]] = []
    served: list[int] = []

    def look() -> None:
        known.append(sorted(worker.states()))
        if len(known) == 2:
            served.append(worker.registry.get("a").version)

    worker.loader.meanwhile = look
    worker.begin_with("a/1", "b/1")
    assert known == [["a/1", "b/1"]] * 2
    assert served == [1]


def test_new_version_is_loaded_once_its_files_settle(worker: Worker) -> None:
    worker.begin_with()
    worker.add("a/1", b"half")
    worker.watcher.scan()
    worker.add("a/1", b"half and half")
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.START}
    assert worker.loader.loaded == []
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}


def test_vanished_version_is_unloaded(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    worker.begin_with("a/1", "a/2")
    shutil.rmtree(worker.models / "a" / "2")
    worker.scan_each_second()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.registry.get("a").version == 1
    assert "a version 2 has vanished" in caplog.text
    assert "a version 2 is unloaded" in caplog.text


def test_version_that_vanishes_and_is_not_loaded_is_forgotten(worker: Worker) -> None:
    worker.loader.errors["a/1"] = LoadError("broken")
    worker.begin_with("a/1")
    worker.add("a/2")
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END, "a/2": State.START}
    shutil.rmtree(worker.models / "a")
    worker.watcher.scan()
    assert worker.states() == {}
    assert worker.loader.loaded == ["a/1"]


def test_version_that_vanishes_while_loading_is_not_served(worker: Worker) -> None:
    def vanish() -> None:
        worker.loader.meanwhile = lambda: None
        shutil.rmtree(worker.models / "a" / "1")
        worker.watcher.poll()

    worker.loader.meanwhile = vanish
    worker.begin_with("a/1", "b/1")
    assert worker.states() == {"b/1": State.AVAILABLE}


def test_version_that_comes_back_waits_until_no_request_holds_the_old_one(worker: Worker) -> None:
    worker.begin_with("a/1")
    held = worker.registry.get("a")
    shutil.rmtree(worker.models / "a" / "1")
    worker.scan_each_second()
    worker.add("a/1")
    worker.scan()
    assert worker.states() == {"a/1": State.UNLOADING}
    with pytest.raises(NotFound, match="version 1 is UNLOADING"):
        worker.registry.get("a", 1)
    assert held.engine.signatures
    del held
    worker.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.loader.loaded == ["a/1", "a/1"]


@pytest.mark.parametrize(
    ("error", "reason", "has_traceback"),
    [
        (LoadError("TensorFlow is not installed"), "TensorFlow is not installed", False),
        (InvalidServingConfig("unknown field `lables`"), "unknown field `lables`", False),
        (MemoryError(), "MemoryError", True),
    ],
)
def test_failed_load_leaves_other_models_serving(
    worker: Worker, caplog: pytest.LogCaptureFixture, error: Exception, reason: str, has_traceback: bool
) -> None:
    worker.loader.errors["a/1"] = error
    worker.begin_with("a/1", "b/1")
    assert worker.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    shown = worker.registry.statuses()["a"][1].error
    assert shown.startswith(f"{reason} (tried once; next at ")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == f"a version 1 cannot be loaded: {shown}"
    assert bool(record.exc_info) is has_traceback


def test_failed_version_is_retried_after_a_pause_and_when_its_files_change(worker: Worker) -> None:
    worker.loader.errors["a/1"] = LoadError("broken")
    worker.begin_with("a/1")
    worker.scan()
    assert worker.loader.loaded == ["a/1"]
    worker.now += 1
    worker.scan()
    assert worker.loader.loaded == ["a/1", "a/1"]
    assert worker.failures == [("a", 1)] * 2
    assert "broken (tried 2 times; next at " in worker.registry.statuses()["a"][1].error
    worker.loader.errors.clear()
    worker.add("a/1", b"repaired")
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END}
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}


def test_version_queued_twice_is_tried_once(worker: Worker) -> None:
    worker.loader.errors["a/1"] = LoadError("broken")
    worker.begin_with("a/1", "b/1")
    worker.watcher._load(("a", 1))
    worker.watcher._load(("b", 1))
    assert sorted(worker.loader.loaded) == ["a/1", "b/1"]


def test_unreadable_models_folder_leaves_versions_serving(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.begin_with("a/1")
    worker.models.rename(worker.models.with_name("away"))
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert "cannot read the models folder (what is loaded goes on serving)" in caplog.text


def test_misplaced_models_make_the_service_unready(worker: Worker) -> None:
    worker.add("x")
    worker.begin_with()
    assert not worker.registry.ready
    worker.add("y/1")
    worker.scan()
    assert worker.registry.ready


def test_polls_until_stopped_even_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def versions(repository: Repository) -> dict[tuple[str, int], Path]:
        if errors:
            raise errors.pop()
        return really(repository)

    errors = [RuntimeError("out of luck")]
    really = Repository.versions
    monkeypatch.setattr(Repository, "versions", versions)
    worker = Worker(tmp_path / "models", poll_seconds=0.001)
    worker.watcher.start()
    assert worker.registry.first_scan_done.wait(MAX_WAIT_SECONDS)
    is_loading = threading.Event()
    worker.loader.meanwhile = is_loading.set
    worker.add("a/1")
    assert is_loading.wait(MAX_WAIT_SECONDS)
    worker.watcher.stop()
    for thread in threading.enumerate():
        if thread.name == "watcher":
            thread.join(MAX_WAIT_SECONDS)
            assert not thread.is_alive()
    assert "looking through the models folder failed; trying again" in caplog.text
    assert "out of luck" in caplog.text


def test_first_scan_waits_until_the_models_are_there(tmp_path: Path) -> None:
    answers = [True, False, False]
    worker = Worker(tmp_path / "models", may_begin=lambda: answers.pop() and bool(worker.add("a/1")))
    worker.watcher.start()
    assert worker.registry.first_scan_done.wait(MAX_WAIT_SECONDS)
    worker.watcher.stop()
    assert worker.registry.get("a").version == 1


def test_bad_policy_file_is_logged_once_and_ignored(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.begin_with("a/1", "a/2", policies="[models.a.labels]\nstable = 1")
    worker.write_policies("[models.a.labels]\nstable = 'two'")
    worker.scan(3)
    assert worker.registry.get("a").version == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "models.toml: Expected `int | object`, got `str`" in record.message
    assert "what it said before goes on to count" in record.message


def test_new_batching_keeps_the_engine(worker: Worker) -> None:
    worker.begin_with("a/1")
    before = worker.registry.get("a")
    worker.write_policies("[models.a.batching]\nmax_batch_size = 2")
    worker.watcher.scan()
    after = worker.registry.get("a")
    assert after.engine is before.engine
    assert after.batcher is not before.batcher
    assert worker.loader.loaded == ["a/1"]


def test_model_on_demand_is_loaded_by_its_first_request(worker: Worker) -> None:
    worker.begin_with("a/1", "b/1", policies="[models.a]\nload = 'on_demand'")
    assert worker.states() == {"a/1": State.START, "b/1": State.AVAILABLE}
    assert worker.registry.ready
    assert not worker.registry.is_quick("a")
    assert while_scanning(lambda: worker.registry.get("a"), worker).version == 1
    assert worker.states() == {"a/1": State.AVAILABLE, "b/1": State.AVAILABLE}


def test_slow_model_on_demand_is_503(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "models", registry=Registry(timeout_seconds=0))
    worker.begin_with("a/1", policies="[default]\nload = 'on_demand'")
    with pytest.raises(Unavailable, match="a is loaded on demand, which takes longer than 0 s"):
        worker.registry.get("a")
    worker.scan()
    assert worker.registry.get("a").version == 1


def test_failed_model_on_demand_is_404_with_the_reason(worker: Worker) -> None:
    worker.loader.errors["a/1"] = LoadError("broken")
    worker.begin_with("a/1", policies="[default]\nload = 'on_demand'")
    with pytest.raises(NotFound, match=r"version 1 is END: broken \(tried once"):
        while_scanning(lambda: worker.registry.get("a"), worker)


@pytest.fixture
def mortal(tmp_path: Path, memory: SharedMemory) -> Worker:
    """A worker process that shares its records of deaths."""
    return Worker(tmp_path / "models", records=VersionRecords(memory))


def die_of(memory: SharedMemory, folder: Path, times: int = 2) -> None:
    """Other worker processes die of the version."""
    deaths = Deaths(memory)
    for _ in range(times):
        with VersionRecords(memory, 1).loading("a", int(folder.name), fingerprint(folder)):
            deaths.worker_ended(1, Ending(code=0))


def test_deadly_version_is_not_loaded(mortal: Worker, memory: SharedMemory) -> None:
    die_of(memory, mortal.add("a/1"), times=1)
    die_of(memory, mortal.add("a/2"), times=2)
    for _ in range(3):
        mortal.watcher.scan()
        mortal.now += 1000
    assert mortal.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert mortal.loader.loaded == ["a/1"]
    error = mortal.registry.statuses()["a"][2].error
    assert error == "2 worker processes died of it; until its files change or a command loads it, none will"
    assert mortal.failures == [("a", 2)]


def test_deadly_version_is_unloaded(mortal: Worker, memory: SharedMemory) -> None:
    mortal.begin_with("a/1", "a/2")
    assert mortal.registry.get("a").version == 2
    die_of(memory, mortal.models / "a" / "2")
    for _ in range(4):
        mortal.watcher.scan()
        gc.collect()
    assert mortal.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert mortal.registry.get("a").version == 1
    with pytest.raises(NotFound, match="2 worker processes died of it"):
        mortal.registry.get("a", 2)


def change_files(mortal: Worker) -> None:
    mortal.add("a/1", b"another graph")
    mortal.scan()


def load_by_command(mortal: Worker) -> None:
    while_scanning(lambda: mortal.watcher.load("a"), mortal)


@pytest.mark.parametrize("change", [change_files, load_by_command])
def test_deadly_version_is_loaded_again(mortal: Worker, memory: SharedMemory, change: Callable[[Worker], None]) -> None:
    # A command from before the deaths does not count.
    mortal.agreement.load_on_demand("a")
    die_of(memory, mortal.add("a/1"))
    mortal.watcher.scan()
    assert mortal.states() == {"a/1": State.END}
    assert mortal.loader.loaded == []
    change(mortal)
    assert mortal.states() == {"a/1": State.AVAILABLE}
