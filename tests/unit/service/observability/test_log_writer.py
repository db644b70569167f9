import errno
import os
import threading
from collections.abc import Iterator
from select import PIPE_BUF

import pytest

from service.observability.logging import LogWriter, _pieces

DEADLINE = 10


class Pipe:
    """The log of a LogWriter, and who reads it."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.dropped = 0
        self.is_dropped = threading.Event()
        self.writer = LogWriter(self.write_end, self.drop, max_queued_bytes=1_000_000)

    def drop(self, lines: int) -> None:
        self.dropped += lines
        self.is_dropped.set()

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += os.read(self.read_end, count - len(data))
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.read_end)
    pipe.writer.close(DEADLINE)
    os.close(pipe.write_end)


def test_lines_come_out_whole_and_in_their_order(pipe: Pipe) -> None:
    lines = [b"%d " % number + b"x" * (number * 37 % 9000) + b"\n" for number in range(200)]
    for line in lines:
        pipe.writer.write(line)
    assert pipe.read(sum(map(len, lines))) == b"".join(lines)
    assert pipe.dropped == 0


def test_nobody_waits_for_a_reader_that_has_stopped_and_what_is_too_much_is_counted(pipe: Pipe) -> None:
    block = b"line\n" * 10_000
    for _ in range(100):  # of which the pipe takes 64 KiB
        pipe.writer.write(block)
    assert 0 < pipe.dropped < 1_000_000
    written = 100 * 10_000 - pipe.dropped
    assert pipe.read(written * len(b"line\n")) == b"line\n" * written


def test_a_log_that_nobody_reads_any_more_is_no_error(pipe: Pipe) -> None:
    pipe.writer.write(b"a\n")
    pipe.read(2)
    os.close(pipe.read_end)
    pipe.writer.write(b"b\nc\n")
    assert pipe.is_dropped.wait(DEADLINE)
    assert pipe.dropped == 2
    pipe.read_end = os.open(os.devnull, os.O_RDONLY)


def test_a_full_disk_costs_lines_and_later_ones_are_written_again(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a part of a line, and then nothing."""
    write = os.write
    room = [4, 0]

    def full(descriptor: int, data: bytes) -> int:
        if not room:
            return write(descriptor, data)
        if not (taken := room.pop(0)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:taken])

    monkeypatch.setattr("service.observability.logging.os.write", full)
    pipe.writer.write(b"torn line\n")
    assert pipe.is_dropped.wait(DEADLINE)
    assert pipe.dropped == 1
    pipe.writer.write(b"whole line\n")
    # The torn one ends before the next begins.
    assert pipe.read(16) == b"torn\nwhole line\n"


def test_the_end_waits_for_the_last_lines_but_not_for_ever(pipe: Pipe) -> None:
    pipe.writer.write(b"last\n")
    pipe.writer.close(DEADLINE)
    assert pipe.read(5) == b"last\n"
    pipe.writer.write(b"x\n" * 100_000)
    pipe.writer.close(0.01)


@pytest.mark.parametrize(
    "lengths", [[1], [PIPE_BUF], [PIPE_BUF + 1], [10, PIPE_BUF - 10, 10], [9000, 5, 9000], [100] * 99]
)
def test_no_line_is_cut_so_that_another_process_could_get_between(lengths: list[int]) -> None:
    lines = [b"x" * (length - 1) + b"\n" for length in lengths]
    pieces = _pieces(b"".join(lines))
    assert b"".join(pieces) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= PIPE_BUF or piece.count(b"\n") == 1 for piece in pieces)
