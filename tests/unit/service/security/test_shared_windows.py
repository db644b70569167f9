import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from service.runtime.shared_memory import MIN_CAPACITY, Areas, Kind, SharedMemory
from service.security.shared_windows import SharedWindows
from tests.unit.service.forked import Forked

KEY, LIMIT, WINDOW = "alice", 5, 10
# Let in by each of several processes.
TIMES = 2000


@dataclass
class Clock:
    """Seconds since the machine was started: a window may be longer than that."""

    now: float = 1.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


def test_no_window_wherever_it_begins_holds_more_than_the_limit(memory: SharedMemory) -> None:
    clock, chance = Clock(), random.Random(1)
    windows = SharedWindows(memory, clock=clock)
    admitted: list[float] = []
    for _ in range(2000):
        clock.now += chance.random() * 3
        within = [moment for moment in admitted if moment > clock.now - WINDOW]
        assert windows.acquire_entry(KEY, LIMIT, WINDOW) is (len(within) < LIMIT)
        if len(within) < LIMIT:
            admitted.append(clock.now)
            within.append(clock.now)
        oldest = within[0] if within else clock.now
        assert windows.get_moving_window(KEY, LIMIT, WINDOW) == (oldest, len(within))
    assert len(admitted) > 500


def test_several_at_once_are_let_in_together_or_not_at_all(memory: SharedMemory) -> None:
    clock = Clock()
    windows = SharedWindows(memory, clock=clock)
    assert not windows.acquire_entry(KEY, LIMIT, WINDOW, amount=LIMIT + 1)
    assert windows.acquire_entry(KEY, LIMIT, WINDOW, amount=3)
    assert not windows.acquire_entry(KEY, LIMIT, WINDOW, amount=3)
    assert windows.acquire_entry(KEY, LIMIT, WINDOW, amount=2)
    clock.now += WINDOW
    assert windows.acquire_entry(KEY, LIMIT, WINDOW, amount=LIMIT)


def test_a_window_without_entries_begins_now(memory: SharedMemory) -> None:
    assert SharedWindows(memory, clock=Clock()).get_moving_window(KEY, LIMIT, WINDOW) == (1.0, 0)


def test_of_several_processes_no_window_holds_more_than_the_limit(memory: SharedMemory) -> None:
    clock, chance = Clock(), random.Random(2)
    processes = [SharedWindows(memory, slot, clock) for slot in range(3)]
    admitted: list[float] = []
    for _ in range(3000):
        clock.now += chance.random()
        within = [moment for moment in admitted if moment > clock.now - WINDOW]
        windows = chance.choice(processes)
        assert windows.acquire_entry(KEY, LIMIT, WINDOW) is (len(within) < LIMIT)
        if len(within) < LIMIT:
            admitted.append(clock.now)
            within.append(clock.now)
        assert windows.get_moving_window(KEY, LIMIT, WINDOW) == (within[0], len(within))
    assert len(admitted) > 500


def test_processes_at_once_never_let_in_more_than_one_may(memory: SharedMemory) -> None:
    """Each writes down when it let something in."""
    limit, window = 20, 0.01
    log = memory_for_times(memory, 3)

    def hammer(slot: int) -> Callable[[Callable[[], None]], None]:
        def let_in(_go: Callable[[], None]) -> None:
            # Its own clock shows when an entry was made.
            moments = [0.0]

            def clock() -> float:
                moments[0] = time.monotonic()
                return moments[0]

            windows = SharedWindows(memory, slot, clock)
            count = 0
            while count < TIMES:
                if windows.acquire_entry(KEY, limit, window):  # type: ignore[arg-type]
                    log[slot][count] = moments[0]
                    count += 1

        return let_in

    children = [Forked(hammer(slot)) for slot in range(3)]
    assert [child.join() for child in children] == [0, 0, 0]
    admitted = sorted(moment for times in log for moment in times)
    spans = [later - earlier for earlier, later in zip(admitted, admitted[limit:], strict=False)]
    assert min(spans) >= window


def memory_for_times(memory: SharedMemory, slots: int) -> list["memoryview[float]"]:
    areas = Areas(memory, Kind.COUNT)
    return [memory.doubles_of(areas.take(slot, b"times", 8 * TIMES))[:TIMES] for slot in range(slots)]


def test_what_a_process_let_in_counts_after_its_end_and_for_its_successor(memory: SharedMemory) -> None:
    def let_in(_go: Callable[[], None]) -> None:
        for _ in range(3):
            SharedWindows(memory, 1).acquire_entry(KEY, LIMIT, 3600)

    assert Forked(let_in).join() == 0
    assert [SharedWindows(memory, 2).acquire_entry(KEY, LIMIT, 3600) for _ in range(3)] == [True, True, False]
    assert not SharedWindows(memory, 1).acquire_entry(KEY, LIMIT, 3600)


def test_what_is_withdrawn_leaves_room(memory: SharedMemory) -> None:
    clock = Clock()
    ours, theirs = (SharedWindows(memory, slot, clock) for slot in range(2))
    assert ours.acquire_entry(KEY, LIMIT, WINDOW, amount=3)
    for _ in range(10):
        assert not theirs.acquire_entry(KEY, LIMIT, WINDOW, amount=3)
    assert theirs.acquire_entry(KEY, LIMIT, WINDOW, amount=2)
    clock.now += WINDOW
    assert ours.acquire_entry(KEY, LIMIT, WINDOW, amount=5)


def test_keys_and_their_limits_are_told_apart(memory: SharedMemory) -> None:
    windows = SharedWindows(memory)
    for key in ("alice", "bob"):
        assert [windows.acquire_entry(key, 1, 3600) for _ in range(2)] == [True, False]


def test_a_large_limit_is_kept_as_exactly(memory: SharedMemory) -> None:
    clock, limit = Clock(), 1500
    ours, theirs = (SharedWindows(memory, slot, clock) for slot in range(2))
    for _ in range(3):
        admitted = [windows.acquire_entry(KEY, limit, WINDOW) for _ in range(1000) for windows in (ours, theirs)]
        assert admitted.count(True) == limit
        clock.now += WINDOW


def test_where_there_is_no_room_each_process_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    windows = SharedWindows(SharedMemory(MIN_CAPACITY))
    many = MIN_CAPACITY // 8
    assert [windows.acquire_entry(KEY, many, 3600, amount) for amount in (many, 1)] == [True, False]
    (record,) = caplog.records
    assert (record.levelno, "each worker process counts alice for itself" in record.message) == (logging.ERROR, True)


def test_the_clock_that_counts_is_the_one_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = SharedWindows(SharedMemory())
    assert windows.acquire_entry(KEY, 1, 3600)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert not windows.acquire_entry(KEY, 1, 3600)
