import random
from collections.abc import Callable
from itertools import count

import pytest

from service.runtime.shared_memory import COMMON, MIN_CAPACITY, Kind, MemoryFull, SharedMemory
from service.runtime.shared_values import Value, Values
from tests.unit.service.forked import Forked, join_at_once


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


def test_last_value_wins_and_takes_no_memory(memory: SharedMemory) -> None:
    ours, theirs = Values(memory), Values(memory)
    assert ours.get(b"key") is None
    for value in (b"one", b"", b"three", b"x" * 10_000, b"four"):
        ours.put(b"key", value)
        assert theirs.get(b"key") == ours.get(b"key") == Values(memory).get(b"key") == value
    end = memory.end
    for number in range(100):
        theirs.put(b"key", b"y" * (100 + number))
        assert ours.get(b"key") == b"y" * (100 + number)
    assert memory.end == end


def test_values_have_owners(memory: SharedMemory) -> None:
    values = Values(memory)
    for owner in (1, 2):
        values.put(b"report", str(owner).encode(), owner)
    values.put(b"report of something else", b"3")
    assert (values.get(b"report", 1), values.get(b"report", 2), values.get(b"report")) == (b"1", b"2", None)
    assert sorted(values.all(b"report")) == [(COMMON, b"3"), (1, b"1"), (2, b"2")]
    assert values.all(b"reports") == []


def test_changes_are_atomic(memory: SharedMemory) -> None:
    def add(_number: int) -> None:
        values = Values(memory)
        for _ in range(1000):
            values.change(b"count", lambda before: str(int(before or b"0") + 1).encode())

    assert join_at_once(3, add) == [0, 0, 0]
    assert Values(memory).get(b"count") == b"3000"


def test_killed_writer_leaves_a_whole_value(memory: SharedMemory) -> None:
    def write(go: Callable[[], None]) -> None:
        values, chance = Values(memory), random.Random(1)
        for number in count():
            values.put(b"key", chance.choice([b"a", b"b"]) * chance.randrange(1, 5000))
            if number == 100:
                go()

    for _ in range(10):
        child = Forked(write)
        child.wait_until_it_says_so()
        child.kill()
        assert len(set(Values(memory).get(b"key") or b"")) == 1


def test_unfinished_value_leaves_the_previous_one(memory: SharedMemory) -> None:
    values = Values(memory)
    values.put(b"key", b"before")
    # A process was killed after it had made room for a longer value.
    with memory.locked():
        memory.append(Kind.VALUE, COMMON, b"key", 10_000)
    assert values.get(b"key") == Values(memory).get(b"key") == b"before"
    values.put(b"key", b"after")
    assert Values(memory).get(b"key") == b"after"


def test_full_memory_keeps_the_value() -> None:
    value = Value(Values(SharedMemory(MIN_CAPACITY)), b"key")
    value.put(b"before")
    with pytest.raises(MemoryFull):
        value.put(bytes(MIN_CAPACITY))
    assert value.get() == b"before"
