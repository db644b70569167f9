import logging
import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from service.shared_windows import SharedWindows

KEY, LIMIT, WINDOW = "alice", 5, 10
SECONDS_AT_MOST = 10


@dataclass
class Clock:
    """Seconds since the machine was started: a window may be longer than that."""

    now: float = 1.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=[True, False], ids=["shared", "alone"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path | None:
    return tmp_path if request.param else None


def test_no_window_wherever_it_begins_holds_more_than_the_limit(folder: Path | None) -> None:
    clock, chance = Clock(), random.Random(1)
    windows = SharedWindows(folder, clock)
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


def test_several_at_once_are_let_in_together_or_not_at_all(folder: Path | None) -> None:
    clock = Clock()
    windows = SharedWindows(folder, clock)
    assert not windows.acquire_entry(KEY, LIMIT, WINDOW, amount=LIMIT + 1)
    assert windows.acquire_entry(KEY, LIMIT, WINDOW, amount=3)
    assert not windows.acquire_entry(KEY, LIMIT, WINDOW, amount=3)
    assert windows.acquire_entry(KEY, LIMIT, WINDOW, amount=2)
    clock.now += WINDOW
    assert windows.acquire_entry(KEY, LIMIT, WINDOW, amount=LIMIT)


def test_a_window_without_entries_begins_now(folder: Path | None) -> None:
    assert SharedWindows(folder, Clock()).get_moving_window(KEY, LIMIT, WINDOW) == (1.0, 0)


def take(folder: Path, tries: int, go: Event, count: "multiprocessing.Queue[int]") -> None:
    windows = SharedWindows(folder)
    go.wait(SECONDS_AT_MOST)
    count.put(sum(windows.acquire_entry(KEY, 1000, 3600) for _ in range(tries)))


def test_processes_together_let_in_exactly_as_many_as_one_may(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    go, count = context.Event(), context.Queue()
    # One of them alone would let in all of its own.
    processes = [context.Process(target=take, args=(tmp_path, tries, go, count)) for tries in (900, 300, 300)]
    for process in processes:
        process.start()
    go.set()
    counts = [count.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(SECONDS_AT_MOST)
    assert sum(counts) == 1000
    assert not SharedWindows(tmp_path).acquire_entry(KEY, 1000, 3600)


def hold(folder: Path, held: Event) -> None:
    windows = SharedWindows(folder)
    windows.acquire_entry(KEY, LIMIT, WINDOW)
    with windows._ring(KEY, LIMIT):
        held.set()
        signal.pause()


def test_who_is_killed_in_the_middle_holds_up_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.wait(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(SECONDS_AT_MOST)
    assert SharedWindows(tmp_path).acquire_entry(KEY, LIMIT, WINDOW)


def test_where_there_is_no_room_each_process_counts_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    windows = SharedWindows(tmp_path)
    assert [windows.acquire_entry(KEY, 1, 3600) for _ in range(2)] == [True, False]
    (record,) = caplog.records
    assert (record.levelno, "each worker process counts for itself" in record.message) == (logging.ERROR, True)


def test_the_clock_that_counts_is_the_one_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = SharedWindows()
    assert windows.acquire_entry(KEY, 1, 3600)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert not windows.acquire_entry(KEY, 1, 3600)
