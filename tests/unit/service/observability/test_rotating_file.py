import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.observability.rotating_file import RotatingFile
from tests.unit.service.forked import Forked

TEN = b"123456789\n"


def older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


def test_lines_are_appended_also_after_a_restart(path: Path) -> None:
    for line in (b"a\n", b"b\n"):
        RotatingFile(path, 100).append(line)
    assert path.read_bytes() == b"a\nb\n"


def test_file_is_readable_by_its_user_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        RotatingFile(path, 100).append(b"a\n")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_files_never_exceed_their_size(path: Path) -> None:
    file = RotatingFile(path, 100)
    for number in range(1, 30):
        file.append(TEN)
        size = path.stat().st_size + (older(path).stat().st_size if older(path).exists() else 0)
        assert size <= 100
        assert size >= min(number * 10, 60)
    assert older(path).read_bytes() == TEN * 5


def test_line_longer_than_the_file_may_be_is_an_error(path: Path) -> None:
    file = RotatingFile(path, 100)
    with pytest.raises(OSError, match="longer than the file may be"):
        file.append(b"x" * 50 + b"\n")
    file.append(TEN)
    assert path.read_bytes() == TEN


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

    def work(which: int) -> Callable[[object], None]:
        def write(_go: object) -> None:
            file = RotatingFile(path, 100_000)
            path.with_name(f"{which} is ready").touch()
            while len(list(path.parent.glob("* is ready"))) < 4:
                pass
            for number in range(lines_each):
                file.append(f"{which} {number} ".encode() + b"x" * 100 + b"\n")

        return write

    children = [Forked(work(which)) for which in range(4)]
    assert [child.join() for child in children] == [0] * 4
    lines = older(path).read_bytes().splitlines() + path.read_bytes().splitlines()
    assert all(line.endswith(b" " + b"x" * 100) for line in lines)
    written = [tuple(map(int, line.split()[:2])) for line in lines]
    assert len(set(written)) == len(written)
    # What is left of a process is all that it wrote since then.
    for which in range(4):
        numbers = [number for process, number in written if process == which]
        assert numbers == list(range(lines_each - len(numbers), lines_each))
    assert 50_000 < older(path).stat().st_size + path.stat().st_size <= 100_000
