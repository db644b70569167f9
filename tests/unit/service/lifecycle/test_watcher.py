import gc
import logging
import shutil
import threading
from pathlib import Path

import pytest

from service.engines.base import Engine, LoadError
from service.errors import NotFound, Unavailable
from service.inference.folder import fingerprint
from service.inference.version import LoadedVersion, State
from service.lifecycle.policies import policy_file
from service.lifecycle.policy_source import PolicySource
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Repository
from service.lifecycle.version_records import VersionRecords
from service.lifecycle.watcher import Watcher
from service.lifecycle.workers import Agreement
from service.runtime.deaths import Deaths, Ending
from service.runtime.shared_memory import SharedMemory
from service.runtime.shared_values import Values
from service.serving_config import ASSETS, CONFIG_FILE, ServingConfig
from service.settings import Settings
from tests.unit.service.lifecycle.worker import FakeLoader, Worker, new_loader

MAX_WAIT_SECONDS = 10


def test_first_scan_loads_the_newest_versions_first(worker: Worker) -> None:
    for name in ("b/1", "a/2", "a/10", "a/1"):
        worker.add(name)
    worker.watcher.scan()
    assert worker.loader.loaded == ["a/10", "b/1", "a/2", "a/1"]
    assert set(worker.states().values()) == {State.AVAILABLE}
    assert worker.registry.ready


def test_status_has_engine_and_seconds(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    status = worker.registry.statuses()["a"][1]
    assert (status.engine, status.error) == ("fake", "")
    assert status.load_seconds >= 0


def test_loaded_version_is_not_loaded_again(worker: Worker) -> None:
    worker.add("a/1")
    for _ in range(3):
        worker.watcher.scan()
    assert worker.loader.loaded == ["a/1"]


def test_new_version_is_loaded_once_its_files_settle(worker: Worker) -> None:
    worker.watcher.scan()
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
    worker.add("a/1")
    worker.add("a/2")
    worker.watcher.scan()
    shutil.rmtree(worker.models / "a" / "2")
    worker.scan_after_absence()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.registry.get("a").version == 1
    assert "a version 2 has vanished" in caplog.text
    assert "a version 2 is unloaded" in caplog.text


def test_version_that_vanishes_before_loading_is_forgotten(worker: Worker) -> None:
    worker.watcher.scan()
    folder = worker.add("a/1")
    worker.watcher.scan()
    shutil.rmtree(folder)
    worker.watcher.scan()
    assert worker.states() == {}
    assert worker.loader.loaded == []


def test_version_that_vanishes_while_loading_is_not_served(worker: Worker) -> None:
    folder = worker.add("a/1")
    worker.add("b/1")

    def vanish() -> None:
        if folder.exists():
            shutil.rmtree(folder)
            worker.watcher.poll()

    worker.loader.meanwhile = vanish
    worker.watcher.scan()
    assert worker.states() == {"b/1": State.AVAILABLE}


def test_first_versions_serve_while_others_load(tmp_path: Path) -> None:
    class Waiting(FakeLoader):
        def __call__(self, path: Path, config: ServingConfig) -> Engine:
            if path.parts[-2] == "b":
                served.append(worker.registry.get("a"))
            return super().__call__(path, config)

    served: list[LoadedVersion] = []
    worker = Worker(tmp_path / "models", loader=Waiting())
    worker.add("a/1")
    worker.add("b/1")
    worker.watcher.scan()
    assert [loaded.model for loaded in served] == ["a"]


def test_all_versions_are_known_before_the_first_is_loaded(tmp_path: Path) -> None:
    known_at_the_first: list[str] = []

    class Looking(FakeLoader):
        def __call__(self, path: Path, config: ServingConfig) -> Engine:
            if not known_at_the_first:
                known_at_the_first.extend(worker.states())
            return super().__call__(path, config)

    worker = Worker(tmp_path / "models", loader=Looking())
    worker.add("a/1")
    worker.add("b/1")
    worker.watcher.scan()
    assert sorted(known_at_the_first) == ["a/1", "b/1"]


def test_version_that_comes_back_is_loaded_again(worker: Worker) -> None:
    folder = worker.add("a/1")
    worker.watcher.scan()
    shutil.rmtree(folder)
    worker.scan_after_absence()
    worker.add("a/1")
    worker.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.loader.loaded == ["a/1", "a/1"]


def test_version_is_unloading_while_a_request_holds_it(worker: Worker) -> None:
    folder = worker.add("a/1")
    worker.watcher.scan()
    held = worker.registry.get("a")
    shutil.rmtree(folder)
    worker.scan_after_absence()
    assert worker.states() == {"a/1": State.UNLOADING}
    with pytest.raises(NotFound, match="version 1 is UNLOADING"):
        worker.registry.get("a", 1)
    assert held.engine.signatures
    del held
    worker.watcher.scan()
    assert worker.states() == {}


def test_version_that_comes_back_waits_until_the_old_one_is_unloaded(worker: Worker) -> None:
    folder = worker.add("a/1")
    worker.watcher.scan()
    held = worker.registry.get("a")
    shutil.rmtree(folder)
    worker.scan_after_absence()
    worker.add("a/1")
    worker.scan()
    assert worker.states() == {"a/1": State.UNLOADING}
    del held
    worker.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.loader.loaded == ["a/1", "a/1"]


def test_failed_load_leaves_other_models_serving(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.add("a/1")
    worker.add("b/1")
    worker.loader.errors["a/1"] = LoadError("TensorFlow is not installed; install it with pip")
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    error = worker.registry.statuses()["a"][1].error
    assert error.startswith("TensorFlow is not installed; install it with pip (tried once; next at ")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == f"a version 1 cannot be loaded: {error}"
    assert not record.exc_info


def test_unexpected_error_is_logged_with_traceback(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.add("a/1")
    worker.add("b/1")
    worker.loader.errors["a/1"] = MemoryError()
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    assert worker.registry.statuses()["a"][1].error.startswith("MemoryError (tried once")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info


def test_broken_serving_json_fails_only_its_version(worker: Worker) -> None:
    folder = worker.add("a/1")
    worker.add("b/1")
    (folder / ASSETS).mkdir()
    (folder / ASSETS / CONFIG_FILE).write_text('{"lables": []}')
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END, "b/1": State.AVAILABLE}
    assert "unknown field `lables`" in worker.registry.statuses()["a"][1].error


def test_failed_version_is_retried_when_its_files_change(worker: Worker) -> None:
    worker.add("a/1", b"broken")
    worker.loader.errors["a/1"] = LoadError("broken")
    for _ in range(3):
        worker.watcher.scan()
    assert worker.loader.loaded == ["a/1"]
    worker.loader.errors.clear()
    worker.add("a/1", b"repaired")
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END}
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}


def test_failed_version_is_retried_after_growing_pauses(worker: Worker) -> None:
    worker.add("a/1")
    worker.loader.errors["a/1"] = LoadError("broken")
    tries = []
    for second in range(40):
        worker.now = float(second)
        worker.watcher.scan()
        tries.append(len(worker.loader.loaded))
    assert [second for second in range(1, 40) if tries[second] > tries[second - 1]] == [1, 3, 7, 15, 31]
    assert "broken (tried 6 times; next at " in worker.registry.statuses()["a"][1].error
    assert worker.failures == [("a", 1)] * 6
    worker.loader.errors.clear()
    worker.now = 63.0
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}


def test_failed_version_that_vanishes_is_forgotten(worker: Worker) -> None:
    folder = worker.add("a/1")
    worker.loader.errors["a/1"] = LoadError("broken")
    worker.watcher.scan()
    shutil.rmtree(folder)
    worker.watcher.scan()
    assert worker.states() == {}


def test_version_queued_twice_is_tried_once(worker: Worker) -> None:
    worker.add("a/1")
    worker.loader.errors["a/1"] = LoadError("broken")
    worker.watcher.scan()
    worker.add("b/1")
    worker.scan()
    worker.watcher._load(("a", 1))
    worker.watcher._load(("b", 1))
    assert worker.loader.loaded == ["a/1", "b/1"]


def test_unreadable_models_folder_leaves_versions_serving(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    worker.models.rename(worker.models.with_name("away"))
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert "cannot read the models folder (what is loaded goes on serving)" in caplog.text


def test_misplaced_models_make_the_service_unready(worker: Worker) -> None:
    worker.scan()
    assert worker.registry.ready
    (worker.models / "x").mkdir()
    (worker.models / "x" / "saved_model.pb").write_bytes(b"graph")
    worker.scan()
    assert not worker.registry.ready
    worker.add("y/1")
    worker.scan()
    assert worker.registry.ready


def test_polls_until_stopped_even_after_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    third_poll = threading.Event()
    polls = 0

    class Flaky(Repository):
        def versions(self) -> dict[tuple[str, int], Path]:
            nonlocal polls
            polls += 1
            if polls == 1:
                raise RuntimeError("out of luck")
            if polls == 3:
                third_poll.set()
            return {}

    registry = Registry()
    policies = PolicySource(policy_file(Settings(models=tmp_path)), Values(SharedMemory()))
    watcher = Watcher(Flaky(tmp_path), registry, new_loader(FakeLoader()), 0.001, policies, Agreement(registry))
    watcher.start()
    assert third_poll.wait(MAX_WAIT_SECONDS)
    watcher.stop()
    for thread in threading.enumerate():
        if thread.name == "watcher":
            thread.join(MAX_WAIT_SECONDS)
            assert not thread.is_alive()
    assert registry.ready
    assert "looking through the models folder failed; trying again" in caplog.text
    assert "out of luck" in caplog.text


def test_policy_selects_versions(worker: Worker) -> None:
    for number in range(1, 5):
        worker.add(f"a/{number}")
    worker.write_policies("[models.a]\nversions = {latest = 2}")
    worker.watcher.scan()
    assert worker.states() == {"a/3": State.AVAILABLE, "a/4": State.AVAILABLE}
    worker.write_policies("[models.a]\nversions = [1]")
    worker.scan(3)
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert worker.registry.get("a").version == 1


def test_bad_policy_file_is_logged_once_and_ignored(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.add("a/1")
    worker.add("a/2")
    worker.write_policies("[models.a.labels]\nstable = 1")
    worker.watcher.scan()
    worker.write_policies("[models.a.labels]\nstable = 'two'")
    for _ in range(3):
        worker.watcher.scan()
    assert worker.registry.get("a").version == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "models.toml: Expected `int | object`, got `str`" in record.message
    assert "what it said before goes on to count" in record.message


def test_new_batching_keeps_the_engine(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    before = worker.registry.get("a")
    worker.write_policies("[models.a.batching]\nmax_batch_size = 2")
    worker.watcher.scan()
    after = worker.registry.get("a")
    assert after.engine is before.engine
    assert after.batcher is not before.batcher
    assert worker.loader.loaded == ["a/1"]


def test_model_on_demand_is_loaded_by_its_first_request(worker: Worker) -> None:
    worker.add("a/1")
    worker.add("b/1")
    worker.write_policies("[models.a]\nload = 'on_demand'")
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.START, "b/1": State.AVAILABLE}
    assert worker.registry.ready
    assert not worker.registry.is_quick("a")
    answers: list[int] = []
    request = threading.Thread(target=lambda: answers.append(worker.registry.get("a").version))
    request.start()
    while request.is_alive():
        worker.watcher.scan()
    assert answers == [1]
    assert worker.states() == {"a/1": State.AVAILABLE, "b/1": State.AVAILABLE}


def test_slow_model_on_demand_is_503(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "models", registry=Registry(timeout_seconds=0))
    worker.add("a/1")
    worker.write_policies("[default]\nload = 'on_demand'")
    worker.watcher.scan()
    with pytest.raises(Unavailable, match="a is loaded on demand, which takes longer than 0 s"):
        worker.registry.get("a")
    for _ in range(2):
        worker.watcher.scan()
    assert worker.registry.get("a").version == 1


def test_failed_model_on_demand_is_404_with_the_reason(worker: Worker) -> None:
    worker.add("a/1")
    worker.loader.errors["a/1"] = LoadError("broken")
    worker.write_policies("[default]\nload = 'on_demand'")
    worker.watcher.scan()
    raised: list[Exception] = []

    def ask() -> None:
        try:
            worker.registry.get("a")
        except NotFound as error:
            raised.append(error)

    request = threading.Thread(target=ask)
    request.start()
    while request.is_alive():
        worker.watcher.scan()
    assert "version 1 is END: broken (tried once" in str(raised[0])


@pytest.fixture
def mortal(tmp_path: Path, memory: SharedMemory) -> Worker:
    """A worker process that shares its records of deaths."""
    return Worker(tmp_path / "models", records=VersionRecords(memory))


def die_of(memory: SharedMemory, folder: Path, times: int) -> None:
    """Other worker processes die of the version."""
    deaths = Deaths(memory)
    for _ in range(times):
        with VersionRecords(memory, 1).loading("a", int(folder.name), fingerprint(folder)):
            deaths.worker_ended(1, Ending(code=0))


def test_deadly_version_is_not_loaded(mortal: Worker, memory: SharedMemory) -> None:
    mortal.add("a/1")
    die_of(memory, mortal.add("a/2"), 2)
    for _ in range(3):
        mortal.watcher.scan()
        mortal.now += 1000
    assert mortal.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert mortal.loader.loaded == ["a/1"]
    error = mortal.registry.statuses()["a"][2].error
    assert error == "2 worker processes died of it; until its files change or a command loads it, none will"
    assert mortal.failures == [("a", 2)]
    assert mortal.registry.get("a").version == 1


def test_version_with_one_death_is_loaded(mortal: Worker, memory: SharedMemory) -> None:
    die_of(memory, mortal.add("a/1"), 1)
    mortal.watcher.scan()
    assert mortal.states() == {"a/1": State.AVAILABLE}


def test_deadly_version_is_unloaded(mortal: Worker, memory: SharedMemory) -> None:
    mortal.add("a/1")
    folder = mortal.add("a/2")
    mortal.watcher.scan()
    assert mortal.registry.get("a").version == 2
    die_of(memory, folder, 2)
    for _ in range(4):
        mortal.watcher.scan()
        gc.collect()
    assert mortal.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert mortal.registry.get("a").version == 1
    with pytest.raises(NotFound, match="2 worker processes died of it"):
        mortal.registry.get("a", 2)


def test_deadly_version_is_loaded_again_when_its_files_change(mortal: Worker, memory: SharedMemory) -> None:
    die_of(memory, mortal.add("a/1"), 2)
    mortal.watcher.scan()
    assert mortal.states() == {"a/1": State.END}
    mortal.add("a/1", b"another graph")
    mortal.watcher.scan()
    mortal.watcher.scan()
    assert mortal.states() == {"a/1": State.AVAILABLE}


def test_deadly_version_is_loaded_again_on_request(mortal: Worker, memory: SharedMemory) -> None:
    die_of(memory, mortal.add("a/1"), 2)
    mortal.watcher.scan()
    mortal.records.pardon("a")
    mortal.agreement._request("a", "load")
    mortal.watcher.scan()
    mortal.watcher.scan()
    assert mortal.states() == {"a/1": State.AVAILABLE}


def test_old_request_does_not_load_a_deadly_version(mortal: Worker, memory: SharedMemory) -> None:
    mortal.agreement._request("a", "load")
    die_of(memory, mortal.add("a/1"), 2)
    mortal.watcher.scan()
    assert mortal.states() == {"a/1": State.END}
    assert mortal.loader.loaded == []
