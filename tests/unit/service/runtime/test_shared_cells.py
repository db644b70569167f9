import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from service.runtime.shared_memory import MIN_CAPACITY, Kind, SharedMemory, Store, parse_series_key, series_key


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


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


def test_a_reader_sees_what_was_counted(memory: SharedMemory) -> None:
    store = Store(memory, 0)
    store.cells(Kind.COUNT, "metric", ("a",), 1)[0] += 2
    store.cells(Kind.GAUGE, "gauge", ("ünï\n", '"', ""), 3)[2] = 0.5
    assert values(memory) == {("metric", "a"): [2.0], ("gauge", "ünï\n", '"', ""): [0, 0, 0.5]}


def test_the_same_series_has_the_same_cells_also_for_who_takes_over_the_slot(memory: SharedMemory) -> None:
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


def test_threads_that_need_a_series_at_once_get_the_same_cells(memory: SharedMemory, eager_threads: None) -> None:
    store = Store(memory, 0)

    def count() -> None:
        for number in range(300):
            cells = store.cells(Kind.COUNT, "metric", (str(number),), 1)
            with store.lock:
                cells[0] += 1

    run_in_threads(count)
    assert list(values(memory).values()) == [[4]] * 300


def test_a_full_memory_costs_new_metrics_but_no_error(caplog: pytest.LogCaptureFixture) -> None:
    memory = SharedMemory(MIN_CAPACITY)
    store = Store(memory, 0)
    store.cells(Kind.COUNT, "metric", (), 1)[0] += 1
    for number in range(3):
        store.cells(Kind.COUNT, "large", (str(number),), MIN_CAPACITY)[0] += 1
    assert values(memory) == {("metric",): [1]}
    assert [record.message for record in caplog.records] == [
        "the memory that worker processes share is full; new metrics of this process are left out"
    ]


def test_a_key_is_read_as_it_was_written() -> None:
    for name, labels in (("metric", ()), ("metric", ("a", "ü", '"', ""))):
        assert parse_series_key(series_key(name, labels)) == (name, labels)
