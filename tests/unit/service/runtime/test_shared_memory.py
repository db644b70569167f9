import errno
import mmap
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from service.runtime.shared_memory import COMMON, MIN_CAPACITY, SLOTS, Area, Areas, Kind, MemoryFull, SharedMemory
from tests.unit.service.forked import Forked


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


def append(memory: SharedMemory, key: bytes, size: int = 8, kind: Kind = Kind.COUNT) -> Area:
    with memory.locked():
        return memory.append(kind, 0, key, size)


def keys(memory: SharedMemory) -> list[bytes]:
    return [area.key for area in memory.areas()]


def test_an_area_is_zeros_and_what_is_written_into_it_stays(memory: SharedMemory) -> None:
    area = append(memory, b"key", 20)
    assert bytes(memory.bytes_of(area)) == bytes(24), "filled up to whole words"
    memory.words_of(area)[1] = 7
    memory.doubles_of(area)[2] = 0.5
    append(memory, b"other", 20)
    assert memory.words_of(area).tolist()[:2] == [0, 7]
    assert memory.doubles_of(area)[2] == 0.5


def test_areas_are_found_in_their_order_with_whose_they_are(memory: SharedMemory) -> None:
    with memory.locked():
        made = [memory.append(kind, owner, b"\xff key", 8) for kind, owner in ((Kind.GAUGE, 3), (Kind.VALUE, COMMON))]
    assert list(memory.areas()) == made
    assert [(area.kind, area.owner) for area in made] == [(Kind.GAUGE, 3), (Kind.VALUE, COMMON)]


def test_a_reader_goes_on_where_it_stopped(memory: SharedMemory) -> None:
    append(memory, b"a")
    end = memory.end
    append(memory, b"b")
    assert [area.key for area in memory.areas(end)] == [b"b"]
    assert list(memory.areas(memory.end)) == []


def test_a_large_area_is_whole_pages_and_gives_them_back(memory: SharedMemory) -> None:
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
def test_what_is_cleared_is_zeros_again(memory: SharedMemory, size: int) -> None:
    append(memory, b"before")
    area = append(memory, b"key", size)
    memory.bytes_of(area)[:] = b"x" * area.size
    memory.clear(area)
    assert not any(memory.bytes_of(area))


def test_a_full_memory_takes_no_more_and_keeps_what_it_has(memory: SharedMemory) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    append(memory, b"a", MIN_CAPACITY // 2)
    with pytest.raises(MemoryFull, match="the memory that worker processes share is full"):
        append(memory, b"b", MIN_CAPACITY // 2)
    append(memory, b"c", 8)
    assert keys(memory) == [b"a", b"c"]


def test_where_there_is_not_so_much_address_space_less_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_it_takes_no_file_with_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = SharedMemory()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delattr(os, "memfd_create", raising=False)
    append(SharedMemory(), b"where the system has only files")
    assert list(tmp_path.iterdir()) == []
    del memory


def test_processes_append_without_losing_anything(memory: SharedMemory) -> None:
    def work(number: int) -> Callable[[Callable[[], None]], None]:
        def append_many(_go: Callable[[], None]) -> None:
            for count in range(300):
                append(memory, f"{number} {count}".encode(), count % 100 * 8)

        return append_many

    children = [Forked(work(number)) for number in range(3)]
    assert [child.join() for child in children] == [0, 0, 0]
    assert sorted(keys(memory)) == sorted(f"{number} {count}".encode() for number in range(3) for count in range(300))


def test_who_is_killed_with_the_lock_holds_nobody_up(memory: SharedMemory) -> None:
    def hold(go: Callable[[], None]) -> None:
        with memory.locked():
            go()
            signal.pause()

    child = Forked(hold)
    child.wait_until_it_says_so()
    child.kill()
    append(memory, b"key")
    assert keys(memory) == [b"key"]


def test_what_was_being_appended_by_who_was_killed_is_written_over(memory: SharedMemory) -> None:
    append(memory, b"whole")
    end = memory.end
    append(memory, b"k" * 100, 64)
    # As if it had been killed before the last word.
    memory._words[0] = end
    assert keys(memory) == [b"whole"]
    area = append(memory, b"next", 200)
    assert keys(memory) == [b"whole", b"next"]
    assert not any(memory.bytes_of(area))


def test_a_slot_is_of_one_worker_until_it_has_ended(memory: SharedMemory) -> None:
    first, second = memory.reserve_slot(), memory.reserve_slot()
    assert first != second
    memory.enter(second)
    assert (memory.pid(first), memory.pid(second)) == (0, os.getpid())
    assert [pid for pid in memory.pids() if pid] == [os.getpid()]
    memory.free_slot(second)
    assert not any(memory.pids())
    assert memory.reserve_slot() == second


def test_whether_others_take_connections_is_known_as_long_as_they_live(memory: SharedMemory) -> None:
    slots = [memory.reserve_slot() for _ in range(2)]
    memory.note_listening(slots[0])
    assert [memory.others_listen(slot) for slot in slots] == [False, True]
    memory.note_listening(slots[1])
    assert [memory.others_listen(slot) for slot in slots] == [True, True]
    memory.free_slot(slots[0])
    assert [memory.others_listen(slot) for slot in slots] == [True, False]


def test_there_are_only_so_many_slots(memory: SharedMemory) -> None:
    for _ in range(SLOTS):
        memory.reserve_slot()
    with pytest.raises(RuntimeError, match="there are 1024 worker processes already"):
        memory.reserve_slot()


def test_who_takes_over_a_slot_goes_on_with_counts_and_begins_with_gauges(memory: SharedMemory) -> None:
    count, gauge, other = (append(memory, b"key", kind=kind) for kind in (Kind.COUNT, Kind.GAUGE, Kind.COUNT))
    for area in (count, gauge, other):
        memory.doubles_of(area)[0] = 5
    memory.enter(0)
    assert [memory.doubles_of(area)[0] for area in (count, gauge, other)] == [5, 0, 5]


def test_a_beat_is_seen_by_the_first_process(memory: SharedMemory) -> None:
    assert Forked(lambda _go: memory.beat(3, 12.5)).join() == 0
    assert (memory.last_beat(3), memory.last_beat(2)) == (12.5, 0)


def test_all_processes_have_the_same_area_for_a_key(memory: SharedMemory) -> None:
    one, other = Areas(memory, Kind.WINDOW), Areas(memory, Kind.WINDOW)
    area = one.take(COMMON, b"key", 16)
    assert other.take(COMMON, b"key", 16) == area
    assert other.take(COMMON, b"key", 32) != area, "it was too small"
    assert one.take(COMMON, b"key", 16) == other.take(COMMON, b"key", 16)
    assert one.take(0, b"key", 16) != area
    assert Areas(memory, Kind.RING).take(COMMON, b"key", 16) != area


def test_whether_there_are_new_areas_is_told(memory: SharedMemory) -> None:
    areas = Areas(memory, Kind.RING)
    areas.refresh()
    append(memory, b"key", kind=Kind.RING)
    assert (areas.refresh(), areas.refresh()) == (True, False)
    assert list(areas.found) == [(0, b"key")]
