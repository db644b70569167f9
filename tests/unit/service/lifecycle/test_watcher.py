import gc
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.errors import NotFound
from service.inference.folder import fingerprint
from service.inference.version import State
from service.lifecycle.repository import Repository
from service.lifecycle.version_records import VersionRecords
from service.runtime.deaths import Deaths, Ending
from service.runtime.shared_memory import SharedMemory
from service.serving_config import InvalidServingConfig
from tests.unit.service.lifecycle.conftest import MakeWorker
from tests.unit.service.lifecycle.worker import MAX_WAIT_SECONDS, Worker, while_scanning

BROKEN = LoadError("broken")


def test_first_scan_loads_each_version_once_newest_first(worker: Worker) -> None:
    worker.begin_with("b/1", "a/2", "a/10", "a/1")
    worker.scan()
    assert worker.loaded == ["a/10", "b/1", "a/2", "a/1"]
    assert set(worker.states().values()) == {State.AVAILABLE}
    assert worker.registry.ready
    status = worker.registry.statuses()["a"][1]
    assert (status.engine, status.error, status.load_seconds >= 0) == ("fake", "", True)


def test_first_versions_serve_while_others_load(worker: Worker) -> None:
    known: list[list[str]] = []

    def look() -> None:
        known.append(sorted(worker.states()))
        if len(known) == 2:
            assert worker.registry.get("a").version == 1

    worker.meanwhile = look
    worker.begin_with("a/1", "b/1")
    assert known == [["a/1", "b/1"]] * 2
    assert worker.failures == []


def test_new_version_is_loaded_once_its_files_settle(worker: Worker) -> None:
    worker.begin_with()
    for content in (b"half", b"half and half"):
        worker.add("a/1", content)
        worker.watcher.scan()
    assert worker.states() == {"a/1": State.START}
    worker.watcher.scan()
    assert worker.loaded == ["a/1"]


def test_vanished_version_that_is_not_loaded_is_forgotten(worker: Worker) -> None:
    worker.errors["a/1"] = BROKEN
    worker.begin_with("a/1")
    worker.add("a/2")
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END, "a/2": State.START}
    shutil.rmtree(worker.models / "a")
    worker.watcher.scan()
    assert worker.states() == {}


def test_version_that_vanishes_while_loading_is_not_served(worker: Worker) -> None:
    def vanish() -> None:
        worker.meanwhile = lambda: None
        shutil.rmtree(worker.models / "a/1")
        worker.watcher.poll()

    worker.meanwhile = vanish
    worker.begin_with("a/1", "b/1")
    assert worker.states() == {"b/1": State.AVAILABLE}


def test_vanished_version_is_unloaded_once_released(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    worker.begin_with("a/1", "a/2")
    held = worker.registry.get("a")
    shutil.rmtree(worker.models / "a/2")
    worker.scan(seconds=1)
    assert "a version 2 has vanished" in caplog.text
    assert worker.registry.get("a").version == 1
    # It comes back meanwhile.
    worker.add("a/2")
    worker.scan()
    assert worker.states() == {"a/1": State.AVAILABLE, "a/2": State.UNLOADING}
    with pytest.raises(NotFound, match="version 2 is UNLOADING"):
        worker.registry.get("a", held.version)
    del held
    worker.scan()
    assert "a version 2 is unloaded" in caplog.text
    assert worker.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}


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
    worker.errors["a/1"] = error
    worker.begin_with("a/1", "b/1")
    assert worker.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    shown = worker.error("a", 1)
    assert shown.startswith(f"{reason} (tried once; next at ")
    (record,) = caplog.records
    assert record.message == f"a version 1 cannot be loaded: {shown}"
    assert (record.levelno, bool(record.exc_info)) == (logging.ERROR, has_traceback)


def test_version_queued_twice_is_tried_once(worker: Worker) -> None:
    worker.errors["a/1"] = BROKEN
    worker.begin_with("a/1", "b/1")
    for model in ("a", "b"):
        worker.watcher._load((model, 1))
    assert sorted(worker.loaded) == ["a/1", "b/1"]


def test_unreadable_models_folder_leaves_versions_serving(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.begin_with("a/1")
    worker.models.rename(worker.models.with_name("away"))
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert "cannot read the models folder (what is loaded goes on serving)" in caplog.text


def test_misplaced_models_make_the_service_unready(worker: Worker) -> None:
    worker.begin_with("x")
    assert not worker.registry.ready
    worker.add("y/1")
    worker.scan()
    assert worker.registry.ready


def test_polls_until_stopped_even_after_an_error(
    new_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def versions(repository: Repository) -> dict[tuple[str, int], Path]:
        if errors:
            raise errors.pop()
        return really(repository)

    errors = [RuntimeError("out of luck")]
    really = Repository.versions
    monkeypatch.setattr(Repository, "versions", versions)
    worker = new_worker(1, poll_seconds=0.001)
    worker.watcher.start()
    assert worker.registry.first_scan_done.wait(MAX_WAIT_SECONDS)
    is_loading = threading.Event()
    worker.meanwhile = is_loading.set
    worker.add("a/1")
    assert is_loading.wait(MAX_WAIT_SECONDS)
    worker.watcher.stop()
    for thread in threading.enumerate():
        if thread.name == "watcher":
            thread.join(MAX_WAIT_SECONDS)
            assert not thread.is_alive()
    assert "looking through the models folder failed; trying again" in caplog.text
    assert "out of luck" in caplog.text


def test_first_scan_waits_until_the_models_are_there(new_worker: MakeWorker) -> None:
    answers = [True, False, False]
    worker: Worker = new_worker(1, may_begin=lambda: answers.pop() and bool(worker.add("a/1")))
    worker.watcher.start()
    assert worker.registry.first_scan_done.wait(MAX_WAIT_SECONDS)
    worker.watcher.stop()
    assert worker.registry.get("a").version == 1


def test_bad_policy_file_is_logged_once_and_ignored(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.begin_with("a/1", "a/2", policies="[models.a.labels]\nstable = 1")
    worker.write_policies("[models.a.labels]\nstable = 'two'")
    worker.scan(3)
    assert worker.registry.get("a").version == 1
    (record,) = caplog.records
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


def test_moved_base_path_is_loaded_anew(worker: Worker, tmp_path: Path) -> None:
    for place in ("one", "other"):
        path = worker.add(tmp_path / place / "1")
        worker.write_policies(f"only_listed = true\n[models.a]\nbase_path = '{path.parent}'")
        worker.scan()
        assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.loaded == ["one/1", "other/1"]


def test_model_on_demand_is_loaded_by_its_first_request(worker: Worker) -> None:
    worker.begin_with("a/1", "b/1", policies="[models.a]\nload = 'on_demand'")
    assert worker.states() == {"a/1": State.START, "b/1": State.AVAILABLE}
    assert worker.registry.ready
    assert while_scanning(lambda: worker.registry.get("a"), worker).version == 1


def test_failed_model_on_demand_is_404_with_the_reason(worker: Worker) -> None:
    worker.errors["a/1"] = BROKEN
    worker.begin_with("a/1", policies="[default]\nload = 'on_demand'")
    with pytest.raises(NotFound, match=r"version 1 is END: broken \(tried once"):
        while_scanning(lambda: worker.registry.get("a"), worker)


@pytest.fixture
def mortal(new_worker: MakeWorker, memory: SharedMemory) -> Worker:
    """A worker process that shares its records of deaths."""
    return new_worker(2, records=VersionRecords(memory))


def die_of(memory: SharedMemory, folder: Path, times: int = 2) -> None:
    """Other worker processes die of the version."""
    deaths = Deaths(memory)
    for _ in range(times):
        with VersionRecords(memory, 1).loading("a", int(folder.name), fingerprint(folder)):
            deaths.worker_ended(1, Ending(code=0))


def test_deadly_version_is_unloaded(mortal: Worker, memory: SharedMemory) -> None:
    mortal.begin_with("a/1", "a/2")
    die_of(memory, mortal.models / "a/2")
    for _ in range(4):
        mortal.watcher.scan()
        gc.collect()
    assert mortal.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert mortal.registry.get("a").version == 1
    with pytest.raises(NotFound, match="2 worker processes died of it"):
        mortal.registry.get("a", 2)


def change_files(mortal: Worker) -> None:
    mortal.add("a/2", b"another graph")
    mortal.scan()


def load_by_command(mortal: Worker) -> None:
    while_scanning(lambda: mortal.watcher.load("a"), mortal)


@pytest.mark.parametrize("change", [change_files, load_by_command])
def test_deadly_version_is_not_loaded(mortal: Worker, memory: SharedMemory, change: Callable[[Worker], None]) -> None:
    # A command from before the deaths does not count.
    mortal.agreement.load_on_demand("a")
    for version, times in ((1, 1), (2, 2)):
        die_of(memory, mortal.add(f"a/{version}"), times)
    mortal.scan(3, seconds=1000)
    assert mortal.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert mortal.loaded == ["a/1"]
    error = "2 worker processes died of it; until its files change or a command loads it, none will"
    assert (mortal.error("a", 2), mortal.failures) == (error, [("a", 2)])
    change(mortal)
    assert mortal.states()["a/2"] is State.AVAILABLE
