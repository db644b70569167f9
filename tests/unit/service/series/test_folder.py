import fcntl
import os
from pathlib import Path

import pytest

from service.series.folder import COUNT, GAUGE, RETIRED, Retired, shared_files
from service.series.store import CHUNK, FileStore, parse_key, records

COUNTED = (COUNT, "counted", "a")
LEVEL = (GAUGE, "level", "a")


def process_that_ended(folder: Path, pid: int = 4711, counted: float = 1) -> Path:
    """With the store goes its lock, as with a process that ends."""
    store = FileStore(folder, str(pid))
    store.cells(COUNTED, 2)[1] += counted
    store.cells(LEVEL, 1)[0] = 7
    return store.path


def found(folder: Path) -> list[tuple[int | None, bool, dict[tuple[str, ...], list[float]]]]:
    with shared_files(folder) as files:
        return [
            (
                file.pid,
                file.is_locked,
                {
                    parse_key(one.key): list(file.area.cast("d"))[one.first : one.first + one.size]
                    for one in records(file.area)
                },
            )
            for file in files
        ]


def test_who_lives_is_told_from_who_ended(tmp_path: Path) -> None:
    process_that_ended(tmp_path, 1)
    living = FileStore(tmp_path, "2")
    living.cells(COUNTED, 1)
    assert [(pid, lives) for pid, lives, _ in found(tmp_path)] == [(1, False), (2, True)]


def test_a_chunk_that_is_being_added_and_a_file_that_is_being_made_are_not_looked_at(tmp_path: Path) -> None:
    path = process_that_ended(tmp_path)
    with path.open("ab") as file:
        file.write(b"x" * 100)
    (tmp_path / ".made").write_bytes(b"x")
    with shared_files(tmp_path) as files:
        assert [len(file.area) for file in files] == [CHUNK]


def test_what_ended_processes_counted_stays_and_their_gauges_go(tmp_path: Path) -> None:
    retired = Retired(tmp_path)
    for number in (1, 2):
        process_that_ended(tmp_path, number, counted=number)
        retired.take_in(number)
    assert found(tmp_path) == [(None, True, {COUNTED: [0, 3]})]


def test_however_many_come_and_go_one_file_holds_their_counts(tmp_path: Path) -> None:
    retired = Retired(tmp_path)
    for pid in range(50):
        process_that_ended(tmp_path, pid)
        retired.take_in(pid)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith(RETIRED)
    assert path.stat().st_size == CHUNK
    assert found(tmp_path) == [(None, True, {COUNTED: [0, 50]})]


def test_who_lives_is_left_alone(tmp_path: Path) -> None:
    retired = Retired(tmp_path)
    living = FileStore(tmp_path, "2")
    living.cells(COUNTED, 2)[0] += 5
    # Its process id was another's before.
    retired.take_in(2)
    assert found(tmp_path) == [(2, True, {COUNTED: [5, 0]}), (None, True, {})]


def test_who_ended_unnoticed_stays_until_it_is(tmp_path: Path) -> None:
    retired = Retired(tmp_path)
    process_that_ended(tmp_path, 1)
    process_that_ended(tmp_path, 2)
    retired.take_in(1)
    assert [pid for pid, _, _ in found(tmp_path)] == [2, None]


def test_while_one_reads_nothing_is_taken_in_and_nobody_waits(tmp_path: Path) -> None:
    retired = Retired(tmp_path)
    path = process_that_ended(tmp_path)
    with shared_files(tmp_path):
        retired.take_in(4711)
        assert path.exists()
    retired.take_in(1)
    assert not path.exists()


def test_while_counts_are_taken_in_nobody_reads(tmp_path: Path) -> None:
    with shared_files(tmp_path, to_change=True):
        folder = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(folder)


def test_a_folder_that_is_gone_does_not_end_who_watches_over_the_processes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    retired = Retired(folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    retired.take_in(1)
    assert "cannot be taken in: No such file or directory" in caplog.text
