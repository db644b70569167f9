import gc

import numpy as np
import pytest

from service.drift.window import Window, shared_window
from service.runtime.shared_memory import MIN_CAPACITY, MemoryFull, SharedMemory
from service.tensors.dtypes import Array


def numbered(*numbers: int) -> Array:
    return np.array([[number, 100 + number] for number in numbers], np.uint8)


def held(window: Window) -> list[int]:
    rows = window.rows()
    assert (rows[:, 1] == rows[:, 0] + 100).all()
    return sorted(rows[:, 0].tolist())


def test_last_rows_are_kept() -> None:
    window = Window(5, 2)
    assert held(window) == []
    window.append(numbered(1, 2, 3))
    assert held(window) == [1, 2, 3]
    window.append(numbered(4, 5, 6, 7))
    assert held(window) == [3, 4, 5, 6, 7]
    for number in range(8, 31):
        window.append(numbered(number))
    assert held(window) == [26, 27, 28, 29, 30]
    # More at once than it holds.
    window.append(numbered(*range(40, 52)))
    assert held(window) == [47, 48, 49, 50, 51]
    window.append(numbered(60))
    assert 60 in held(window)
    assert len(held(window)) == 5


def test_processes_share_a_window() -> None:
    memory = SharedMemory()
    one, other = (shared_window(memory, b"key", 5, 2) for _ in range(2))
    one.append(numbered(1, 2))
    other.append(numbered(3, 4))
    assert held(one) == held(other) == [1, 2, 3, 4]
    one.append(numbered(5, 6))
    late = shared_window(memory, b"key", 5, 2)
    assert held(one) == held(other) == held(late) == [2, 3, 4, 5, 6]
    assert held(shared_window(memory, b"another key", 5, 2)) == []


@pytest.mark.parametrize("rows", [5, 10_000])
def test_window_without_users_is_cleared(rows: int) -> None:
    memory = SharedMemory()
    window = shared_window(memory, b"key", rows, 2)
    window.append(numbered(1, 2))
    end = memory.end
    del window
    gc.collect()
    assert held(shared_window(memory, b"key", rows, 2)) == []
    assert memory.end == end, "its place is taken again"


def test_window_too_large_raises() -> None:
    with pytest.raises(MemoryFull):
        shared_window(SharedMemory(MIN_CAPACITY), b"key", MIN_CAPACITY, 2)
