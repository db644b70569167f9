import errno
import os
from pathlib import Path

import pytest

from service.observability.rotating_file import RotatingFile
from tests.unit.service.forked import join_at_once

TEN = b"123456789\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


def both(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in (path.with_name("requests.jsonl.1"), path) if each.exists())


def test_lines_are_appended_for_one_user_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        for line in (b"a\n", b"b\n"):
            RotatingFile(path, 100).append(line)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"a\nb\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_files_never_exceed_their_size(path: Path) -> None:
    file = RotatingFile(path, 100)
    for number in range(1, 30):
        file.append(TEN)
        assert min(number * 10, 60) <= len(both(path)) <= 100
    with pytest.raises(OSError, match="longer than the file may be"):
        file.append(b"x" * 50 + b"\n")
    assert both(path) == TEN * 9


def test_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RotatingFile(path, 100)
    file.append(b"a\n")
    write = os.write
    room = [3]

    def full(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: room.pop()])

    monkeypatch.setattr("service.observability.rotating_file.os.write", full)
    with pytest.raises(OSError, match="No space left"):
        file.append(b"long line\n")
    monkeypatch.undo()
    file.append(b"b\n")
    assert path.read_bytes() == b"a\nb\n"


def test_half_a_line_of_a_killed_process_is_ended(path: Path) -> None:
    path.write_bytes(b"a\nhal")
    RotatingFile(path, 100).append(b"b\n")
    assert path.read_bytes() == b"a\nhal\nb\n"


def test_removed_file_is_created_again(path: Path) -> None:
    file = RotatingFile(path, 100)
    file.append(b"a\n")
    path.rename(path.with_name("taken"))
    file.append(b"b\n")
    assert path.read_bytes() == b"b\n"


def test_several_processes_lose_and_tear_no_line(path: Path) -> None:
    lines_each = 1000

    def write(which: int) -> None:
        file = RotatingFile(path, 100_000)
        for number in range(lines_each):
            file.append(f"{which} {number} ".encode() + b"x" * 100 + b"\n")

    assert join_at_once(4, write) == [0] * 4
    lines = both(path).splitlines()
    assert all(line.endswith(b" " + b"x" * 100) for line in lines)
    written = [tuple(map(int, line.split()[:2])) for line in lines]
    assert len(set(written)) == len(written)
    # What is left of a process is all that it wrote since then.
    for which in range(4):
        numbers = [number for process, number in written if process == which]
        assert numbers == list(range(lines_each - len(numbers), lines_each))
    assert 50_000 < len(both(path)) <= 100_000
