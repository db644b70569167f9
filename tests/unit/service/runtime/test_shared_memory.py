import errno
import mmap
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
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
    parse_series_key,
    series_key,
)
from tests.unit.service.forked import Forked


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


def append(memory: SharedMemory, key: bytes, size: int = 8, kind: Kind = Kind.COUNT) -> Area:
    with memory.locked():
        return memory.append(kind, 0, key, size)


def keys(memory: SharedMemory) -> list[bytes]:
    return [area.key for area in memory.areas()]


def test_an_area_begins_with_zeros_and_keeps_its_content(memory: SharedMemory) -> None:
    area = append(memory, b"key", 20)
    assert bytes(memory.bytes_of(area)) == bytes(24), "filled up to whole words"
    memory.words_of(area)[1] = 7
    memory.doubles_of(area)[2] = 0.5
    append(memory, b"other", 20)
    assert memory.words_of(area).tolist()[:2] == [0, 7]
    assert memory.doubles_of(area)[2] == 0.5


def test_areas_keep_order_and_owner(memory: SharedMemory) -> None:
    with memory.locked():
        made = [memory.append(kind, owner, b"\xff key", 8) for kind, owner in ((Kind.GAUGE, 3), (Kind.VALUE, COMMON))]
    assert list(memory.areas()) == made
    assert [(area.kind, area.owner) for area in made] == [(Kind.GAUGE, 3), (Kind.VALUE, COMMON)]


def test_areas_from_a_place_on(memory: SharedMemory) -> None:
    append(memory, b"a")
    end = memory.end
    append(memory, b"b")
    assert [area.key for area in memory.areas(end)] == [b"b"]
    assert list(memory.areas(memory.end)) == []


def test_a_large_area_is_whole_pages(memory: SharedMemory) -> None:
    append(memory, b"small")
    area = append(memory, b"large", 3 * mmap.PAGESIZE + 1)
    assert (area.start % mmap.PAGESIZE, area.size) == (0, 4 * mmap.PAGESIZE)
    after = append(memory, b"after")
    memory.words_of(after)[0] = 1
    memory.bytes_of(area)[:] = b"x" * area.size
    memory.clear(area)
    assert bytes(memory.bytes_of(area)) == bytes(area.size)
    assert (keys(memory), memory.words_of(after)[0]) == ([b"small", b"large", b"after"], 1)


@pytest.mark.parametrize("size", [8, mmap.PAGESIZE - 8, mmap.PAGESIZE - 1, mmap.PAGESIZE])
def test_a_cleared_area_is_zeros(memory: SharedMemory, size: int) -> None:
    append(memory, b"before")
    area = append(memory, b"key", size)
    memory.bytes_of(area)[:] = b"x" * area.size
    memory.clear(area)
    assert not any(memory.bytes_of(area))


def test_a_full_memory_keeps_its_areas(memory: SharedMemory) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    append(memory, b"a", MIN_CAPACITY // 2)
    with pytest.raises(MemoryFull, match="the memory that worker processes share is full"):
        append(memory, b"b", MIN_CAPACITY // 2)
    append(memory, b"c", 8)
    assert keys(memory) == [b"a", b"c"]


def test_less_address_space_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    really = mmap.mmap

    def scarce(descriptor: int, length: int, flags: int) -> mmap.mmap:
        if length > 2 * MIN_CAPACITY:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return really(descriptor, length, flags)

    monkeypatch.setattr(mmap, "mmap", scarce)
    assert len(SharedMemory().view) == 2 * MIN_CAPACITY
    monkeypatch.setattr(mmap, "mmap", lambda *_, **__: scarce(-1, 4 * MIN_CAPACITY, 0))
    with pytest.raises(OSError, match="Cannot allocate memory"):
        SharedMemory()


def test_no_file_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = SharedMemory()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delattr(os, "memfd_create", raising=False)
    append(SharedMemory(), b"where the system has only files")
    assert list(tmp_path.iterdir()) == []
    del memory


def test_processes_append_at_once(memory: SharedMemory) -> None:
    def work(number: int) -> Callable[[Callable[[], None]], None]:
        def append_many(_go: Callable[[], None]) -> None:
            for count in range(300):
                append(memory, f"{number} {count}".encode(), count % 100 * 8)

        return append_many

    children = [Forked(work(number)) for number in range(3)]
    assert [child.join() for child in children] == [0, 0, 0]
    assert sorted(keys(memory)) == sorted(f"{number} {count}".encode() for number in range(3) for count in range(300))


def test_the_lock_of_a_killed_process_is_released(memory: SharedMemory) -> None:
    def hold(go: Callable[[], None]) -> None:
        with memory.locked():
            go()
            signal.pause()

    child = Forked(hold)
    child.wait_until_it_says_so()
    child.kill()
    append(memory, b"key")
    assert keys(memory) == [b"key"]


def test_an_unfinished_area_is_overwritten(memory: SharedMemory) -> None:
    append(memory, b"whole")
    end = memory.end
    append(memory, b"k" * 100, 64)
    # As if it had been killed before the last word.
    memory._words[0] = end
    assert keys(memory) == [b"whole"]
    area = append(memory, b"next", 200)
    assert keys(memory) == [b"whole", b"next"]
    assert not any(memory.bytes_of(area))


def test_a_slot_has_one_worker(memory: SharedMemory) -> None:
    first, second = memory.reserve_slot(), memory.reserve_slot()
    assert first != second
    memory.enter(second)
    assert (memory.pid(first), memory.pid(second)) == (0, os.getpid())
    assert [pid for pid in memory.pids() if pid] == [os.getpid()]
    memory.free_slot(second)
    assert not any(memory.pids())
    assert memory.reserve_slot() == second


def test_others_listen(memory: SharedMemory) -> None:
    slots = [memory.reserve_slot() for _ in range(2)]
    memory.note_listening(slots[0])
    assert [memory.others_listen(slot) for slot in slots] == [False, True]
    memory.note_listening(slots[1])
    assert [memory.others_listen(slot) for slot in slots] == [True, True]
    memory.free_slot(slots[0])
    assert [memory.others_listen(slot) for slot in slots] == [True, False]


def test_slots_are_limited(memory: SharedMemory) -> None:
    for _ in range(SLOTS):
        memory.reserve_slot()
    with pytest.raises(RuntimeError, match="there are 1024 worker processes already"):
        memory.reserve_slot()


def test_the_next_worker_of_a_slot_keeps_counts_but_no_gauges(memory: SharedMemory) -> None:
    count, gauge, other = (append(memory, b"key", kind=kind) for kind in (Kind.COUNT, Kind.GAUGE, Kind.COUNT))
    for area in (count, gauge, other):
        memory.doubles_of(area)[0] = 5
    memory.enter(0)
    assert [memory.doubles_of(area)[0] for area in (count, gauge, other)] == [5, 0, 5]


def test_a_heartbeat_reaches_the_first_process(memory: SharedMemory) -> None:
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


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_in_threads(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def values(memory: SharedMemory, slot: int = 0) -> dict[tuple[str, ...], list[float]]:
    found = [area for area in memory.areas() if area.owner == slot]
    parsed = [(parse_series_key(area.key), area) for area in found]
    return {(name, *labels): list(memory.doubles_of(area)) for (name, labels), area in parsed}


def test_cells_reach_a_reader(memory: SharedMemory) -> None:
    store = Store(memory, 0)
    store.cells(Kind.COUNT, "metric", ("a",), 1)[0] += 2
    store.cells(Kind.GAUGE, "gauge", ("ünï\n", '"', ""), 3)[2] = 0.5
    assert values(memory) == {("metric", "a"): [2.0], ("gauge", "ünï\n", '"', ""): [0, 0, 0.5]}


def test_the_next_worker_of_a_slot_keeps_the_cells(memory: SharedMemory) -> None:
    def count(store: Store) -> None:
        store.cells(Kind.COUNT, "metric", ("a",), 1)[0] += 1

    first = Store(memory, 0)
    count(first)
    count(first)
    count(Store(memory, 0))
    count(Store(memory, 1))
    assert (values(memory), values(memory, 1)) == ({("metric", "a"): [3]}, {("metric", "a"): [1]})


def test_threads_lose_no_increment(memory: SharedMemory, eager_threads: None) -> None:
    store = Store(memory, 0)
    cells = store.cells(Kind.COUNT, "metric", (), 1)

    def count() -> None:
        for _ in range(5000):
            with store.lock:
                cells[0] += 1

    run_in_threads(count)
    assert values(memory) == {("metric",): [20000]}


def test_threads_share_the_cells_of_a_new_series(memory: SharedMemory, eager_threads: None) -> None:
    store = Store(memory, 0)

    def count() -> None:
        for number in range(300):
            cells = store.cells(Kind.COUNT, "metric", (str(number),), 1)
            with store.lock:
                cells[0] += 1

    run_in_threads(count)
    assert list(values(memory).values()) == [[4]] * 300


def test_a_full_memory_leaves_new_metrics_out(caplog: pytest.LogCaptureFixture) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    store = Store(memory, 0)
    store.cells(Kind.COUNT, "metric", (), 1)[0] += 1
    for number in range(3):
        store.cells(Kind.COUNT, "large", (str(number),), MIN_CAPACITY)[0] += 1
    assert values(memory) == {("metric",): [1]}
    assert [record.message for record in caplog.records] == [
        "the memory that worker processes share is full; new metrics of this process are left out"
    ]


def test_series_keys_round_trip() -> None:
    for name, labels in (("metric", ()), ("metric", ("a", "ü", '"', ""))):
        assert parse_series_key(series_key(name, labels)) == (name, labels)
