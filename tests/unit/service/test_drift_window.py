import gc
from pathlib import Path

import numpy as np
import pytest

from service.drift_window import SUFFIX, Window, shared_window
from service.tensors import Array


def numbered(*numbers: int) -> Array:
    return np.array([[number, 100 + number] for number in numbers], np.uint8)


def held(window: Window) -> list[int]:
    rows = window.rows()
    assert (rows[:, 1] == rows[:, 0] + 100).all()
    return sorted(rows[:, 0].tolist())


def files(folder: Path) -> list[Path]:
    return list(folder.glob(f"*{SUFFIX}"))


def test_it_holds_the_last_rows() -> None:
    window = Window(5, 2)
    assert held(window) == []
    window.append(numbered(1, 2, 3))
    assert held(window) == [1, 2, 3]
    window.append(numbered(4, 5, 6, 7))
    assert held(window) == [3, 4, 5, 6, 7]
    for number in range(8, 31):
        window.append(numbered(number))
    assert held(window) == [26, 27, 28, 29, 30]


def test_of_more_rows_than_it_holds_it_keeps_the_last() -> None:
    window = Window(5, 2)
    window.append(numbered(1, 2))
    window.append(numbered(*range(10, 22)))
    assert held(window) == [17, 18, 19, 20, 21]
    window.append(numbered(30))
    assert 30 in held(window)
    assert len(held(window)) == 5


def test_processes_that_share_it_write_into_one(tmp_path: Path) -> None:
    one, other = (shared_window(tmp_path, b"key", 5, 2) for _ in range(2))
    one.append(numbered(1, 2))
    other.append(numbered(3, 4))
    assert held(one) == held(other) == [1, 2, 3, 4]
    one.append(numbered(5, 6))
    assert held(one) == held(other) == [2, 3, 4, 5, 6]
    assert held(shared_window(tmp_path, b"another key", 5, 2)) == []


def test_one_that_joins_finds_what_the_others_left(tmp_path: Path) -> None:
    one = shared_window(tmp_path, b"key", 5, 2)
    one.append(numbered(1, 2))
    assert held(shared_window(tmp_path, b"key", 5, 2)) == [1, 2]


def test_its_file_goes_with_it(tmp_path: Path) -> None:
    window = shared_window(tmp_path, b"key", 5, 2)
    assert len(files(tmp_path)) == 1
    del window
    gc.collect()
    assert files(tmp_path) == []


def test_a_file_that_another_process_has_made_since_stays(tmp_path: Path) -> None:
    late = shared_window(tmp_path, b"key", 5, 2)
    (file,) = files(tmp_path)
    file.rename(tmp_path / "removed by the first process that unloaded the version")
    again = shared_window(tmp_path, b"key", 5, 2)
    del late
    gc.collect()
    assert files(tmp_path) == [file]
    again.append(numbered(1))
    assert held(shared_window(tmp_path, b"key", 5, 2)) == [1]


def test_without_a_folder_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        shared_window(tmp_path / "none", b"key", 5, 2)
