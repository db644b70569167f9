import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.series.store import CHUNK, FileStore, Record, Store, parse_key, records

KEY = ("count", "metric", "a")


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store() if request.param == "memory" else FileStore(tmp_path, "1")


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def content(store: Store) -> memoryview:
    if isinstance(store, FileStore):
        return memoryview(store.path.read_bytes())
    return memoryview(b"".join(store.areas))


def values(store: Store) -> dict[tuple[str, ...], list[float]]:
    area = content(store)
    numbers = list(area.cast("d"))
    return {parse_key(one.key): numbers[one.first : one.first + one.size] for one in records(area)}


def test_a_reader_sees_what_was_counted(store: Store) -> None:
    store.cells(KEY, 1)[0] += 2
    store.cells(("gauge", "ünï\n", '"', ""), 3)[2] = 0.5
    assert values(store) == {KEY: [2.0], ("gauge", "ünï\n", '"', ""): [0, 0, 0.5]}


def test_the_same_key_has_the_same_cells(store: Store) -> None:
    store.cells(KEY, 1)[0] += 1
    store.cells(KEY, 1)[0] += 1
    assert values(store) == {KEY: [2.0]}


def test_a_store_grows_and_what_it_held_stays(store: Store) -> None:
    keys = [("count", "metric", f"{number}") for number in range(20_000)]
    held = [store.cells(key, number % 20 + 1) for number, key in enumerate(keys)]
    for number, cells in enumerate(held):
        cells[-1] += number
    assert len(content(store)) == 16 * CHUNK, "each time it doubles"
    assert [found[-1] for found in values(store).values()] == list(range(20_000))
    assert list(values(store)) == keys


def test_a_key_may_be_longer_than_a_store_grows_by_at_once(store: Store) -> None:
    long = ("count", "metric", "x" * 3 * CHUNK)
    for key in (KEY, long, ("count", "metric", "b")):
        store.cells(key, 1)[0] += 1
    assert values(store) == {KEY: [1], long: [1], ("count", "metric", "b"): [1]}


def test_threads_lose_no_increment(store: Store, eager_threads: None) -> None:
    cells = store.cells(KEY, 1)

    def count() -> None:
        for _ in range(5000):
            with store.lock:
                cells[0] += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(store) == {KEY: [20000]}


def test_threads_that_ask_at_once_get_the_same_cells(store: Store, eager_threads: None) -> None:
    def ask() -> None:
        for number in range(300):
            cells = store.cells(("count", "metric", f"{number}"), 1)
            with store.lock:
                cells[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(values(store).values()) == [[4]] * 300


def test_a_reader_goes_on_where_it_stopped(store: Store) -> None:
    store.cells(KEY, 1)
    (first,) = records(content(store))
    assert list(records(content(store), first.end)) == []
    store.cells(("count", "metric", "b"), 2)
    (second,) = records(content(store), first.end)
    assert (parse_key(second.key), second.size) == (("count", "metric", "b"), 2)


def test_a_record_whose_writer_was_killed_before_its_end_is_not_seen(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "1")
    store.cells(KEY, 1)[0] += 1
    (whole,) = records(content(store))
    store.cells(("count", "metric", "b"), 1)
    with store.path.open("r+b") as file:
        os.pwrite(file.fileno(), bytes(8), whole.end)
    assert values(store) == {KEY: [1]}


def test_a_key_that_is_not_all_there_yet_is_told_from_one_that_is() -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_key(b'["count", "met\0\0\0\0')


def test_nobody_sees_a_store_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("fcntl.flock", lambda *_: seen.append([path.name[0] for path in tmp_path.iterdir()]))
    store = FileStore(tmp_path, "1")
    assert seen == [["."]]
    assert [path.name for path in tmp_path.iterdir()] == [store.path.name]


def test_a_full_disk_costs_metrics_but_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(tmp_path, "1")
    store.cells(KEY, 1)[0] += 1
    with monkeypatch.context() as full:
        full.setattr("os.pwrite", lambda *_: 100)
        for number in range(10_000):
            store.cells(("count", "metric", f"{number}"), 1)[0] += 1
    assert "cannot grow: No space left on device" in caplog.text
    assert len(values(store)) < 10_000
    assert values(store)[KEY] == [1]
    # There is room again.
    for number in range(10_000, 20_000):
        store.cells(("count", "metric", f"{number}"), 1)[0] += 1
    assert values(store)[("count", "metric", "19999")] == [1]


def test_a_disk_that_is_full_from_the_beginning_costs_metrics_but_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.pwrite", lambda *_: 0)
    store = FileStore(tmp_path, "1")
    store.cells(KEY, 1)[0] += 1
    assert store.cells(KEY, 1)[0] == 1
    assert f"{store.path} cannot grow: No space left on device" in caplog.text
    assert values(store) == {}


def test_a_record_is_what_its_writer_gave(store: Store) -> None:
    store.cells(KEY, 5)
    assert list(records(content(store))) == [Record(b'["count", "metric", "a"]', 5, 5, 80)]
