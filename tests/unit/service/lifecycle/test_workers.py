import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.errors import InvalidRequest, NotFound, Unavailable
from service.inference.version import State
from service.lifecycle.workers import PREPARED, Board, Report, SlowVersion
from service.runtime.shared_memory import MIN_CAPACITY, Kind, MemoryFull, SharedMemory
from tests.unit.service.forked import Forked
from tests.unit.service.lifecycle.worker import ROWS, FakeLoader, Worker, board_of

ODD_NAME = "a model/with any näme"


@pytest.fixture
def memory() -> SharedMemory:
    """Shared by three worker processes."""
    memory = SharedMemory()
    for slot in range(3):
        memory.enter(slot)
    return memory


def fill(memory: SharedMemory) -> None:
    """Except for a few pages."""
    with memory.locked():
        memory.append(Kind.COUNT, 0, b"", len(memory.view) - memory.end - 10_000)


def test_reports_of_the_others(memory: SharedMemory) -> None:
    one, other = Board(memory, 1), Board(memory, 2)
    report = Report({"model": {1: "PREPARED"}}, {"model": 5})
    one.publish(report)
    other.publish(Report())
    assert other.others() == [report]
    assert one.others() == [Report()]
    assert report.of("model", 1) == "PREPARED"
    assert report.of("model", 2) is report.of("other", 1) is None


def test_last_report_counts(memory: SharedMemory) -> None:
    board = Board(memory, 1)
    for report in (Report({"model": {1: "START"}}), Report({"model": {1: "START"}}), Report()):
        board.publish(report)
    assert Board(memory, 2).others() == [Report()]


def test_report_of_an_ended_worker_is_gone(memory: SharedMemory) -> None:
    Board(memory, 1).publish(Report())
    memory.free_slot(1)
    assert Board(memory, 2).others() == []


def test_report_of_a_predecessor_does_not_count(memory: SharedMemory) -> None:
    def publish(_go: Callable[[], None]) -> None:
        memory.enter(1)
        Board(memory, 1).publish(Report({"model": {1: "PREPARED"}}))

    assert Forked(publish).join() == 0
    assert Board(memory, 2).others() == [Report({"model": {1: "PREPARED"}})]
    memory.free_slot(1)
    memory.enter(1)
    assert Board(memory, 2).others() == []
    Board(memory, 1).publish(Report())
    assert Board(memory, 2).others() == [Report()]


def test_last_load_request_reaches_every_worker(memory: SharedMemory) -> None:
    one, other = Board(memory, 1), Board(memory, 2)
    first = one.request(ODD_NAME, "unload")
    last = other.request(ODD_NAME, "load")
    assert last > first
    for board in (one, other):
        (request,) = board.requests().values()
        assert (request.model, request.action, request.number) == (ODD_NAME, "load", last)


def test_load_requests_have_different_numbers(memory: SharedMemory) -> None:
    def send(_go: Callable[[], None]) -> None:
        for _ in range(100):
            Board(memory, 1).request("model", "load")

    children = [Forked(send) for _ in range(3)]
    assert [child.join() for child in children] == [0, 0, 0]
    assert Board(memory, 1).requests()["model"].number == 300


def test_full_memory(caplog: pytest.LogCaptureFixture) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    memory.enter(1)
    board = Board(memory, 1)
    board.publish(Report())
    fill(memory)
    for number in range(3):
        board.publish(Report({"x" * 10_000: {number: "PREPARED"}}))
    with pytest.raises(MemoryFull):
        board.request("x" * 10_000, "load")
    board.add_slow(SlowVersion("model", 1))
    assert caplog.text.count("cannot be told of versions: the memory that worker processes share is full") == 1
    assert (board.requests(), board.slow()) == ({}, {SlowVersion("model", 1)})
    assert Board(memory, 2).others() == [Report()]


def test_single_worker_needs_no_shared_memory() -> None:
    board = Board()
    board.publish(Report())
    number = board.request("model", "load")
    board.add_slow(SlowVersion("model", 1))
    assert board.others() == []
    assert board.requests()["model"].number == number
    assert board.slow() == {SlowVersion("model", 1)}


def test_slow_versions_are_known_to_all_workers(memory: SharedMemory) -> None:
    one, other = Board(memory, 1), Board(memory, 2)
    one.add_slow(SlowVersion(ODD_NAME, 1))
    other.add_slow(SlowVersion("model", 2))
    memory.free_slot(1)
    for board in (one, other, Board(memory, 3)):
        assert board.slow() == {SlowVersion(ODD_NAME, 1), SlowVersion("model", 2)}
    assert one.requests() == {}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Worker, Worker]:
    """Two worker processes that have scanned an empty models folder."""
    memory = SharedMemory()
    one, other = (Worker(tmp_path / "models", board=board_of(memory, slot)) for slot in (1, 2))
    one.watcher.scan()
    other.watcher.scan()
    return one, other


def command(worker: Worker, name: str, *others: Worker) -> Exception | None:
    """Runs `load` or `unload` while the watchers of all workers do their work. Returns what it raised."""
    raised: list[Exception] = []

    def call() -> None:
        try:
            getattr(worker.watcher, name)("a")
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while thread.is_alive():
        for each in (worker, *others):
            each.watcher.scan()
    return raised[0] if raised else None


def test_version_is_available_once_every_worker_has_loaded_it(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    one.add("a/1")
    for worker in (one, other) * 3:
        worker.watcher.scan()
    one.add("a/2")
    for _ in range(3):
        one.watcher.scan()
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.LOADING}
    assert one.registry.get("a").version == 1
    assert one.registry.get("a", 2).version == 2
    for worker in (other, other, one):
        worker.watcher.scan()
    assert one.states() == other.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert one.registry.get("a").version == other.registry.get("a").version == 2


def test_failed_load_does_not_hold_up_other_workers(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    one.add("a/1")
    one.add("a/2")
    other.loader.errors["a/2"] = LoadError("no memory")
    for worker in (one, other) * 3:
        worker.watcher.scan()
    assert one.states() == {"a/1": State.AVAILABLE, "a/2": State.AVAILABLE}
    assert other.states() == {"a/1": State.AVAILABLE, "a/2": State.END}
    assert other.registry.get("a").version == 1


def test_hanging_worker_does_not_hold_up_a_start(tmp_path: Path, memory: SharedMemory) -> None:
    board_of(memory, 1).publish(Report())
    one = Worker(tmp_path / "models", board=board_of(memory, 2), timeout_seconds=0)
    one.add("a/1")
    one.watcher.scan()
    assert one.registry.first_scan_done.is_set()
    assert one.states() == {"a/1": State.LOADING}
    assert one.registry.get("a").version == 1
    board_of(memory, 1).publish(Report({"a": {1: PREPARED}}))
    one.watcher.scan()
    assert one.states() == {"a/1": State.AVAILABLE}


def test_others_serve(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    for worker in pair:
        worker.registry.first_scan_done.clear()
        worker.agreement.publish()
    assert not other.agreement.others_serve()
    one.watcher.scan()
    one.agreement.publish()
    assert other.agreement.others_serve()
    assert not one.agreement.others_serve()


def test_unload_and_load_in_every_worker(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    one.add("a/1")
    for worker in (one, other) * 3:
        worker.watcher.scan()
    assert one.states() == other.states() == {"a/1": State.AVAILABLE}
    assert command(one, "unload", other) is None
    assert one.states() == other.states() == {"a/1": State.END}
    assert other.registry.ready
    for worker in (one, other):
        worker.watcher.scan()
    assert one.states() == {"a/1": State.END}
    assert command(other, "load", one) is None
    assert one.states() == other.states() == {"a/1": State.AVAILABLE}


def test_new_worker_leaves_an_unloaded_model_unloaded(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    one.add("a/1")
    for worker in (one, other) * 3:
        worker.watcher.scan()
    assert command(one, "unload", other) is None
    later = Worker(one.models, board=board_of(one.board._memory, 3))
    later.watcher.scan()
    assert later.states() == {"a/1": State.END}
    assert later.loader.loaded == []


def test_new_version_of_an_unloaded_model_stays_unloaded(worker: Worker) -> None:
    worker.add("a/1")
    worker.watcher.scan()
    assert command(worker, "unload") is None
    worker.add("a/2")
    for _ in range(3):
        worker.watcher.scan()
    assert worker.states() == {"a/1": State.END, "a/2": State.END}


def test_unloaded_model_on_demand_waits_for_a_request(worker: Worker) -> None:
    worker.add("a/1")
    worker.write_policies("[default]\nload = 'on_demand'")
    worker.watcher.scan()
    assert command(worker, "load") is None
    assert worker.states() == {"a/1": State.AVAILABLE}
    assert command(worker, "unload") is None
    assert worker.states() == {"a/1": State.START}


def test_failed_load_is_400_with_the_reason(worker: Worker) -> None:
    worker.add("a/1")
    worker.loader.errors["a/1"] = LoadError("broken")
    worker.watcher.scan()
    error = command(worker, "load")
    assert isinstance(error, InvalidRequest)
    assert str(error).startswith("a cannot be loaded: version 1: broken (tried once")
    assert worker.loader.loaded == ["a/1", "a/1"]


def test_load_that_fails_in_another_worker_is_400(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    one.add("a/1")
    other.loader.errors["a/1"] = LoadError("no memory")
    for worker in (one, other) * 3:
        worker.watcher.scan()
    error = command(one, "load", other)
    assert str(error) == "a cannot be loaded: version 1: not by every worker process; the log says why"


@pytest.mark.parametrize("name", ["load", "unload"])
def test_load_of_an_unknown_model_is_404(worker: Worker, name: str) -> None:
    worker.watcher.scan()
    with pytest.raises(NotFound, match="no such model: nowhere"):
        getattr(worker.watcher, name)("nowhere")


def test_slow_unload_is_503_and_goes_on(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "models", timeout_seconds=0)
    worker.add("a/1")
    worker.watcher.scan()
    held = worker.registry.get("a")
    with pytest.raises(Unavailable, match="to unload a takes longer than 0 s; it goes on"):
        worker.watcher.unload("a")
    del held
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END}


def test_slow_version_leaves_every_event_loop(pair: tuple[Worker, Worker]) -> None:
    for name in ("a/1", "a/2"):
        pair[0].add_quick(name)
    for worker in pair:
        worker.loader.signature = ROWS
    for worker in pair * 2:
        worker.watcher.scan()
    assert all(worker.registry.is_quick("a") for worker in pair)
    pair[0].agreement.keep_off_loops("a", 1)
    for worker in pair:
        worker.watcher.scan()
        assert not worker.registry.is_quick("a")
        assert [worker.registry.get("a", version).pace.is_quick for version in (1, 2)] == [False, True]
        worker.write_policies("[models.a]\nbatching = {max_batch_size = 4}")
        worker.watcher.scan()
        assert not worker.registry.get("a", 1).pace.is_quick


def test_new_worker_keeps_slow_versions_off_its_event_loop(tmp_path: Path, memory: SharedMemory) -> None:
    board_of(memory, 1).add_slow(SlowVersion("a", 1))
    successor = Worker(tmp_path / "models", board=board_of(memory, 2), loader=FakeLoader(signature=ROWS))
    for name in ("a/1", "b/1"):
        successor.add_quick(name)
    successor.watcher.scan()
    assert [successor.registry.is_quick(model) for model in ("a", "b")] == [False, True]
