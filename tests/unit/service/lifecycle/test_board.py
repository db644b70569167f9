from collections.abc import Callable

import pytest

from service.lifecycle.workers import Board, Report, SlowVersion
from service.runtime.shared_memory import MIN_CAPACITY, Kind, MemoryFull, SharedMemory
from tests.unit.service.forked import Forked

ODD_NAME = "a model/with any näme"


@pytest.fixture
def memory() -> SharedMemory:
    """Of a service with three workers."""
    memory = SharedMemory()
    for slot in range(3):
        memory.enter(slot)
    return memory


def fill(memory: SharedMemory) -> None:
    """But for a few pages."""
    with memory.locked():
        memory.append(Kind.COUNT, 0, b"", len(memory.view) - memory.end - 10_000)


def test_workers_read_what_the_others_have_published(memory: SharedMemory) -> None:
    one, other = Board(memory, 1), Board(memory, 2)
    report = Report({"model": {1: "PREPARED"}}, {"model": 5})
    one.publish(report)
    other.publish(Report())
    assert other.others() == [report]
    assert one.others() == [Report()]
    assert report.of("model", 1) == "PREPARED"
    assert report.of("model", 2) is report.of("other", 1) is None


def test_the_last_report_counts(memory: SharedMemory) -> None:
    board = Board(memory, 1)
    for report in (Report({"model": {1: "START"}}), Report({"model": {1: "START"}}), Report()):
        board.publish(report)
    assert Board(memory, 2).others() == [Report()]


def test_a_worker_that_has_ended_does_not_count(memory: SharedMemory) -> None:
    Board(memory, 1).publish(Report())
    memory.free_slot(1)
    assert Board(memory, 2).others() == []


def test_what_a_worker_reported_is_not_its_successors(memory: SharedMemory) -> None:
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


def test_a_wish_reaches_every_worker_and_the_last_one_counts(memory: SharedMemory) -> None:
    one, other = Board(memory, 1), Board(memory, 2)
    first = one.request(ODD_NAME, "unload")
    last = other.request(ODD_NAME, "load")
    assert last > first
    for board in (one, other):
        (wish,) = board.requests().values()
        assert (wish.model, wish.action, wish.number) == (ODD_NAME, "load", last)


def test_no_two_wishes_have_one_number(memory: SharedMemory) -> None:
    def wish(_go: Callable[[], None]) -> None:
        for _ in range(100):
            Board(memory, 1).request("model", "load")

    children = [Forked(wish) for _ in range(3)]
    assert [child.join() for child in children] == [0, 0, 0]
    assert Board(memory, 1).requests()["model"].number == 300


def test_where_there_is_no_room_a_worker_goes_on(caplog: pytest.LogCaptureFixture) -> None:
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


def test_a_worker_that_is_alone_needs_no_memory_of_others() -> None:
    board = Board()
    board.publish(Report())
    number = board.request("model", "load")
    board.add_slow(SlowVersion("model", 1))
    assert board.others() == []
    assert board.requests()["model"].number == number
    assert board.slow() == {SlowVersion("model", 1)}


def test_a_version_that_no_event_loop_is_to_run_is_known_to_all_workers_and_to_those_that_come(
    memory: SharedMemory,
) -> None:
    one, other = Board(memory, 1), Board(memory, 2)
    one.add_slow(SlowVersion(ODD_NAME, 1))
    other.add_slow(SlowVersion("model", 2))
    memory.free_slot(1)
    for board in (one, other, Board(memory, 3)):
        assert board.slow() == {SlowVersion(ODD_NAME, 1), SlowVersion("model", 2)}
    assert one.requests() == {}
