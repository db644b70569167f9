import errno
import mmap
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from service.runtime.shared_memory import (
    COMMON,
    MIN_CAPACITY,
    SLOTS,
    Area,
    Areas,
    Kind,
    MemoryFull,
    SharedMemory,
    Store,
)
from tests.unit.service.forked import Forked, in_threads, join_at_once


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


def append(memory: SharedMemory, key: bytes, size: int = 8, kind: Kind = Kind.COUNT, owner: int = 0) -> Area:
    with memory.locked():
        return memory.append(kind, owner, key, size)


def keys(memory: SharedMemory) -> list[bytes]:
    return [area.key for area in memory.areas()]


def test_area_begins_with_zeros_and_keeps_its_content(memory: SharedMemory) -> None:
    area = append(memory, b"key", 20)
    assert bytes(memory.bytes_of(area)) == bytes(24), "filled up to whole words"
    memory.words_of(area)[1] = 7
    memory.doubles_of(area)[2] = 0.5
    append(memory, b"other", 20)
    assert memory.words_of(area).tolist()[:2] == [0, 7]
    assert memory.doubles_of(area)[2] == 0.5


def test_areas_keep_order_and_owner(memory: SharedMemory) -> None:
    first = append(memory, b"\xff key", kind=Kind.GAUGE, owner=3)
    end = memory.end
    second = append(memory, b"\xff key", kind=Kind.VALUE, owner=COMMON)
    assert list(memory.areas()) == [first, second]
    assert [(area.kind, area.owner) for area in (first, second)] == [(Kind.GAUGE, 3), (Kind.VALUE, COMMON)]
    assert list(memory.areas(end)) == [second]
    assert list(memory.areas(memory.end)) == []


@pytest.mark.parametrize("size", [8, mmap.PAGESIZE - 8, mmap.PAGESIZE - 1, mmap.PAGESIZE, 3 * mmap.PAGESIZE + 1])
def test_area_is_cleared_alone(memory: SharedMemory, size: int) -> None:
    before, area, after = append(memory, b"before"), append(memory, b"key", size), append(memory, b"after")
    memory.words_of(before)[0] = memory.words_of(after)[0] = 1
    memory.bytes_of(area)[:] = b"x" * area.size
    memory.clear(area)
    assert not any(memory.bytes_of(area))
    assert keys(memory) == [b"before", b"key", b"after"]
    assert (memory.words_of(before)[0], memory.words_of(after)[0]) == (1, 1)


def test_large_area_is_whole_pages(memory: SharedMemory) -> None:
    append(memory, b"small")
    area = append(memory, b"large", 3 * mmap.PAGESIZE + 1)
    assert (area.start % mmap.PAGESIZE, area.size) == (0, 4 * mmap.PAGESIZE)


def test_full_memory_keeps_its_areas() -> None:
    memory = SharedMemory(MIN_CAPACITY)
    append(memory, b"a", MIN_CAPACITY // 2)
    with pytest.raises(MemoryFull, match="the memory that worker processes share is full"):
        append(memory, b"b", MIN_CAPACITY // 2)
    append(memory, b"c")
    assert keys(memory) == [b"a", b"c"]


def test_less_address_space_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    really = mmap.mmap

    def scarce(descriptor: int, length: int, flags: int) -> mmap.mmap:
        if length > available:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return really(descriptor, length, flags)

    monkeypatch.setattr(mmap, "mmap", scarce)
    available = 2 * MIN_CAPACITY
    assert len(SharedMemory().view) == available
    available = MIN_CAPACITY - 1
    with pytest.raises(OSError, match="Cannot allocate memory"):
        SharedMemory()


def test_no_file_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memories = [SharedMemory()]
    monkeypatch.delattr(os, "memfd_create", raising=False)
    memories.append(SharedMemory())
    append(memories[1], b"where the system has only files")
    assert list(tmp_path.iterdir()) == []


def test_processes_append_at_once(memory: SharedMemory) -> None:
    def append_many(number: int) -> None:
        for count in range(1000):
            append(memory, f"{number} {count}".encode(), count % 100 * 8)

    assert join_at_once(3, append_many) == [0, 0, 0]
    assert set(keys(memory)) == {f"{number} {count}".encode() for number in range(3) for count in range(1000)}


def test_lock_of_a_killed_process_is_released(memory: SharedMemory) -> None:
    def hold(go: Callable[[], None]) -> None:
        with memory.locked():
            go()
            signal.pause()

    child = Forked(hold)
    child.wait_until_it_says_so()
    child.kill()
    append(memory, b"key")
    assert keys(memory) == [b"key"]


def test_unfinished_area_is_overwritten(memory: SharedMemory) -> None:
    append(memory, b"whole")
    end = memory.end
    append(memory, b"k" * 100, 64)
    # As if it had been killed before the last word.
    memory._words[0] = end
    assert keys(memory) == [b"whole"]
    area = append(memory, b"next", 200)
    assert keys(memory) == [b"whole", b"next"]
    assert not any(memory.bytes_of(area))


def test_slot_has_one_worker(memory: SharedMemory) -> None:
    first, second = memory.reserve_slot(), memory.reserve_slot()
    assert first != second
    memory.enter(second)
    assert (memory.pid(first), memory.pid(second)) == (0, os.getpid())
    assert [pid for pid in memory.pids() if pid] == [os.getpid()]
    memory.free_slot(second)
    assert not any(memory.pids())
    assert memory.reserve_slot() == second
    for _ in range(SLOTS - 2):
        memory.reserve_slot()
    with pytest.raises(RuntimeError, match="there are 1024 worker processes already"):
        memory.reserve_slot()


def test_others_listen(memory: SharedMemory) -> None:
    slots = [memory.reserve_slot() for _ in range(2)]
    memory.note_listening(slots[0])
    assert [memory.others_listen(slot) for slot in slots] == [False, True]
    memory.note_listening(slots[1])
    assert [memory.others_listen(slot) for slot in slots] == [True, True]
    memory.free_slot(slots[0])
    assert [memory.others_listen(slot) for slot in slots] == [True, False]


def test_next_worker_of_a_slot_keeps_counts_but_no_gauges(memory: SharedMemory) -> None:
    owned = ((Kind.COUNT, 0), (Kind.GAUGE, 0), (Kind.GAUGE, 1))
    areas = [append(memory, b"key", kind=kind, owner=owner) for kind, owner in owned]
    for area in areas:
        memory.doubles_of(area)[0] = 5
    memory.enter(0)
    assert [memory.doubles_of(area)[0] for area in areas] == [5, 0, 5]


def test_heartbeat_reaches_the_first_process(memory: SharedMemory) -> None:
    assert Forked(lambda _go: memory.beat(3, 12.5)).join() == 0
    assert (memory.last_beat(3), memory.last_beat(2)) == (12.5, 0)


def test_processes_share_the_area_of_a_key(memory: SharedMemory) -> None:
    one, other = Areas(memory, Kind.WINDOW), Areas(memory, Kind.WINDOW)
    area = one.take(COMMON, b"key", 16)
    assert other.take(COMMON, b"key", 16) == area
    assert other.take(COMMON, b"key", 32) != area, "it was too small"
    assert one.take(COMMON, b"key", 16) == other.take(COMMON, b"key", 16)
    assert one.take(0, b"key", 16) != area
    assert Areas(memory, Kind.RING).take(COMMON, b"key", 16) != area


def test_refresh_finds_new_areas(memory: SharedMemory) -> None:
    areas = Areas(memory, Kind.RING)
    areas.refresh()
    append(memory, b"key", kind=Kind.RING)
    assert (areas.refresh(), areas.refresh()) == (True, False)
    assert list(areas.found) == [(0, b"key")]


def test_threads_share_the_cells_of_a_new_series(memory: SharedMemory) -> None:
    store = Store(memory, 0)

    def count() -> None:
        for number in range(300):
            cells = store.cells(Kind.COUNT, "metric", (str(number),), 1)
            with store.lock:
                cells[0] += 1

    in_threads(4, count)
    assert [memory.doubles_of(area).tolist() for area in memory.areas()] == [[4]] * 300


def test_full_memory_leaves_new_metrics_out(caplog: pytest.LogCaptureFixture) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    store = Store(memory, 0)
    for number in range(3):
        store.cells(Kind.COUNT, "large", (str(number),), MIN_CAPACITY // 8)[0] += 1
    assert keys(memory) == []
    (line,) = caplog.messages
    assert line == "the memory that worker processes share is full; new metrics of this process are left out"
