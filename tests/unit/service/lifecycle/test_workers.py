from collections.abc import Callable

import pytest

from service.engines.base import LoadError
from service.errors import InvalidRequest, NotFound, Unavailable
from service.inference.version import State
from service.lifecycle.workers import PREPARED, Board, Report, SlowVersion
from service.runtime.shared_memory import MemoryFull, SharedMemory
from service.serving_config import ServingConfig, write_serving_config
from tests.unit.service.forked import Forked
from tests.unit.service.lifecycle.conftest import MakeWorker, Pair
from tests.unit.service.lifecycle.worker import (
    PROOF,
    ROWS,
    Worker,
    board_of,
    nearly_full_memory,
    scan_in_turns,
    while_scanning,
)

PREPARING = Report({"a": {1: PREPARED}})


def test_last_reports_of_the_living_count(memory: SharedMemory) -> None:
    def publish(_go: Callable[[], None]) -> None:
        board_of(memory, 1).publish(PREPARING)

    other = board_of(memory, 2)
    other.publish(Report())
    assert Forked(publish).join() == 0
    assert other.others() == [PREPARING]
    memory.free_slot(1)
    assert other.others() == []
    # Its successor in the slot has not published anything.
    one = board_of(memory, 1)
    assert (one.others(), other.others()) == ([Report()], [])
    for report in (PREPARING, Report()):
        one.publish(report)
        assert other.others() == [report]


def test_last_load_request_reaches_every_worker(memory: SharedMemory) -> None:
    one, other = board_of(memory, 1), board_of(memory, 2)
    name = "a model/with any näme"
    first, last = one.request(name, "unload"), other.request(name, "load")
    assert last > first
    for board in (one, other):
        (request,) = board.requests().values()
        assert (request.model, request.action, request.number) == (name, "load", last)


def test_full_memory(caplog: pytest.LogCaptureFixture) -> None:
    memory = nearly_full_memory(20_000)
    board = board_of(memory, 1)
    board.publish(Report())
    for number in range(3):
        board.publish(Report({"x" * 20_000: {number: PREPARED}}))
    with pytest.raises(MemoryFull):
        board.request("x" * 20_000, "load")
    board.add_slow(SlowVersion("x" * 20_000, 1))
    assert caplog.text.count("cannot be told of versions: the memory that worker processes share is full") == 1
    assert (board.requests(), board.slow()) == ({}, {SlowVersion("x" * 20_000, 1)})
    assert Board(memory, 2).others() == [Report()]


def test_hanging_worker_does_not_hold_up_a_start(new_worker: MakeWorker, memory: SharedMemory) -> None:
    hanging = board_of(memory, 1)
    hanging.publish(Report())
    one = new_worker(2, timeout_seconds=0)
    one.begin_with("a/1")
    assert one.registry.first_scan_done.is_set()
    assert one.states() == {"a/1": State.LOADING}
    assert one.registry.get("a").version == 1
    hanging.publish(PREPARING)
    one.watcher.scan()
    assert one.states() == {"a/1": State.AVAILABLE}


def test_others_serve_after_their_first_scan(new_worker: MakeWorker) -> None:
    one, other = new_worker(1), new_worker(2)
    for worker in (one, other):
        worker.agreement.publish()
    assert not other.agreement.others_serve()
    one.scan()
    assert other.agreement.others_serve()
    assert not one.agreement.others_serve()


def test_unload_and_load_in_every_worker(serving: Pair, new_worker: MakeWorker) -> None:
    one, other = serving
    while_scanning(lambda: one.watcher.unload("a"), one, other)
    later = new_worker(3)
    scan_in_turns(one, other, later)
    assert one.states() == other.states() == later.states() == {"a/1": State.END}
    assert later.loaded == []
    assert other.registry.ready
    # A new version stays unloaded, too.
    one.add("a/2")
    one.scan(3)
    assert one.states() == {"a/1": State.END, "a/2": State.END}
    while_scanning(lambda: other.watcher.load("a"), one, other, later)
    assert set(one.states().values()) == set(later.states().values()) == {State.AVAILABLE}


def test_unloaded_model_on_demand_waits_for_a_request(worker: Worker) -> None:
    worker.begin_with("a/1", policies="[default]\nload = 'on_demand'")
    while_scanning(lambda: worker.watcher.load("a"), worker)
    assert worker.states() == {"a/1": State.AVAILABLE}
    while_scanning(lambda: worker.watcher.unload("a"), worker)
    assert worker.states() == {"a/1": State.START}


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ((0, 1), r"a cannot be loaded: version 1: broken \(tried once"),
        ((1,), "version 1: not by every worker process; the log says why"),
    ],
    ids=["everywhere", "in another"],
)
def test_failed_load_is_400_with_the_reason(new_worker: MakeWorker, failing: tuple[int, ...], message: str) -> None:
    workers = new_worker(1), new_worker(2)
    for index in failing:
        workers[index].errors["a/1"] = LoadError("broken")
    workers[0].add("a/1")
    scan_in_turns(*workers)
    with pytest.raises(InvalidRequest, match=message):
        while_scanning(lambda: workers[0].watcher.load("a"), *workers)
    assert workers[1].loaded == ["a/1", "a/1"]


@pytest.mark.parametrize("name", ["load", "unload"])
def test_command_for_an_unknown_model_is_404(worker: Worker, name: str) -> None:
    worker.watcher.scan()
    with pytest.raises(NotFound, match="no such model: nowhere"):
        getattr(worker.watcher, name)("nowhere")


def test_slow_unload_is_503_and_goes_on(new_worker: MakeWorker) -> None:
    worker = new_worker(1, timeout_seconds=0)
    worker.begin_with("a/1")
    held = worker.registry.get("a")
    with pytest.raises(Unavailable, match="to unload a takes longer than 0 s; it goes on"):
        worker.watcher.unload("a")
    del held
    worker.watcher.scan()
    assert worker.states() == {"a/1": State.END}


def test_slow_version_leaves_every_event_loop(new_worker: MakeWorker, memory: SharedMemory) -> None:
    one, other, later = (new_worker(slot) for slot in (1, 2, 3))
    for worker in (one, other, later):
        worker.signature = ROWS
    for name in ("a/1", "a/2"):
        write_serving_config(one.add(name), ServingConfig(example={"instances": [1.0]}, independent_rows=PROOF))
    scan_in_turns(one, other)
    assert one.registry.is_quick("a")
    one.agreement.keep_off_loops("a", 1)
    scan_in_turns(one, other, times=1)
    one.write_policies("[models.a]\nbatching = {max_batch_size = 4}")
    scan_in_turns(one, other, times=1)
    # Also in a worker process that starts later.
    memory.free_slot(1)
    later.watcher.scan()
    for worker in (one, other, later):
        assert [worker.registry.is_quick("a", version) for version in (None, "1", "2")] == [False, False, True]
