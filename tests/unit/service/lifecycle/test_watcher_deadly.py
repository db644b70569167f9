"""Versions that worker processes died of, as the watcher sees them."""

import gc
from pathlib import Path

import pytest

from service.errors import NotFound
from service.inference.folder import fingerprint
from service.inference.version import State
from service.lifecycle.version_records import VersionRecords
from service.runtime.deaths import Deaths, Ending
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.watched import Watched

EXITED = Ending(code=0)


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


@pytest.fixture
def setup(tmp_path: Path, memory: SharedMemory) -> Watched:
    return Watched(tmp_path / "models", records=VersionRecords(memory))


def die_of(memory: SharedMemory, folder: Path, times: int) -> None:
    """As other workers do."""
    deaths = Deaths(memory)
    for _ in range(times):
        with VersionRecords(memory, 1).loading("a", int(folder.name), fingerprint(folder)):
            deaths.worker_ended(1, EXITED)


def test_a_version_that_killed_two_workers_is_not_loaded_and_the_others_are(
    setup: Watched, memory: SharedMemory
) -> None:
    setup.add("a/1")
    die_of(memory, setup.add("a/2"), 2)
    for _ in range(3):
        setup.watcher.scan()
        setup.now += 1000
    assert setup.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert setup.loader.loaded == ["a/1"]
    error = setup.registry.statuses()["a"][2].error
    assert error == "2 worker processes died of it; until its files change or a command loads it, none will"
    assert setup.failures == [("a", 2)]
    assert setup.registry.get("a").version == 1


def test_one_death_is_no_reason(setup: Watched, memory: SharedMemory) -> None:
    die_of(memory, setup.add("a/1"), 1)
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}


def test_what_is_loaded_here_is_unloaded_once_other_workers_died_of_it(setup: Watched, memory: SharedMemory) -> None:
    setup.add("a/1")
    folder = setup.add("a/2")
    setup.watcher.scan()
    assert setup.registry.get("a").version == 2
    die_of(memory, folder, 2)
    for _ in range(4):
        setup.watcher.scan()
        gc.collect()
    assert setup.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert setup.registry.get("a").version == 1
    with pytest.raises(NotFound, match="2 worker processes died of it"):
        setup.registry.get("a", 2)


def test_it_is_loaded_again_once_its_files_have_changed(setup: Watched, memory: SharedMemory) -> None:
    die_of(memory, setup.add("a/1"), 2)
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END}
    setup.add("a/1", b"another graph")
    setup.watcher.scan()
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}


def test_it_is_loaded_again_by_command(setup: Watched, memory: SharedMemory) -> None:
    die_of(memory, setup.add("a/1"), 2)
    setup.watcher.scan()
    setup.records.pardon("a")
    setup.agreement._request("a", "load")
    setup.watcher.scan()
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.AVAILABLE}


def test_a_command_of_long_ago_does_not_load_it_in_a_worker_that_begins(setup: Watched, memory: SharedMemory) -> None:
    setup.agreement._request("a", "load")
    die_of(memory, setup.add("a/1"), 2)
    setup.watcher.scan()
    assert setup.states() == {"a/1": State.END}
    assert setup.loader.loaded == []
