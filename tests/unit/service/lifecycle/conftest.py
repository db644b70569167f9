import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.inference.version import State
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.lifecycle.worker import Worker, board_of, scan_in_turns

MakeWorker = Callable[..., Worker]
Pair = tuple[Worker, Worker]


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """The watcher collects garbage when it unloads a version: not what has been imported, each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path / "models")


@pytest.fixture
def new_worker(tmp_path: Path, memory: SharedMemory) -> MakeWorker:
    """Makes the worker process of a slot."""
    return lambda slot, **parts: Worker(tmp_path / "models", board=board_of(memory, slot), **parts)


@pytest.fixture
def serving(new_worker: MakeWorker) -> Pair:
    """Two worker processes; version 1 of `a` is AVAILABLE in both."""
    one, other = new_worker(1), new_worker(2)
    one.add("a/1")
    scan_in_turns(one, other)
    assert one.states() == other.states() == {"a/1": State.AVAILABLE}
    return one, other
