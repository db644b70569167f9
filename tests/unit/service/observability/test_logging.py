import errno
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from select import PIPE_BUF
from typing import Any

import pytest

from service.observability.logging import JsonFormatter, LogWriter, _pieces, written_by

DEADLINE = 10


def logged(*calls: tuple[str, str, str], **settings: str) -> list[str]:
    """The lines that a process of its own writes (logging is configured for a whole process): each call is a logger's
    name, a level and a message."""
    program = (
        "import json, logging, logging.config, sys\n"
        "from service.observability.logging import logging_config\n"
        "from service.settings import Settings\n"
        "settings, calls = json.loads(sys.argv[1])\n"
        "logging.config.dictConfig(logging_config(Settings(**settings)))\n"
        "for name, level, message in calls: getattr(logging.getLogger(name), level)(message)\n"
    )
    command = [sys.executable, "-c", program, json.dumps([settings, calls])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def record(message: str, **attributes: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "service.x", "levelname": "WARNING", "msg": message, **attributes})


def test_a_json_line() -> None:
    line = json.loads(JsonFormatter().format(record("%s is %d", args=("x", 3), created=0.5, process=7)))
    assert line == {
        "time": "1970-01-01T00:00:00.500000+00:00",
        "level": "warning",
        "logger": "service.x",
        "process": 7,
        "message": "x is 3",
    }


def test_a_traceback_stays_on_the_json_line() -> None:
    try:
        raise ValueError("over\ntwo lines")
    except ValueError:
        line = JsonFormatter().format(record("failed", exc_info=sys.exc_info()))
    assert "\n" not in line
    assert "ValueError: over\ntwo lines" in json.loads(line)["traceback"]


def test_a_json_line_may_quote_what_is_not_unicode() -> None:
    # The name of a folder that is not UTF-8, as Python gives it.
    line = JsonFormatter().format(record("model \udcff is broken"))
    assert json.loads(line)["message"].endswith("is broken")


def test_a_json_line_names_its_request() -> None:
    assert json.loads(JsonFormatter().format(record("failed", request_id="mine")))["request_id"] == "mine"


def test_written_by_takes_the_lines_of_the_logging_module_until_its_end() -> None:
    handler = logging.StreamHandler(before := io.StringIO())
    root = logging.getLogger()
    root.addHandler(handler)
    read_end, write_end = os.pipe()
    try:
        with written_by(LogWriter(write_end, lambda _: None), 10):
            root.error("f\u00fcr \udcff")
        root.error("afterwards")
        assert os.read(read_end, 100) == "für \\udcff\n".encode()
        assert before.getvalue() == "afterwards\n"
    finally:
        root.removeHandler(handler)
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", ["debug", "info", "warning", "error"]), ("info", ["info", "warning", "error"]), ("error", ["error"])],
)
def test_lines_below_the_level_are_left_out(level: str, shown: list[str]) -> None:
    lines = logged(*(("service.x", name, name) for name in ("debug", "info", "warning", "error")), log_level=level)
    # In the form for people.
    assert [line.split("] ", 1)[1] for line in lines] == [f"{name.upper()} {name}" for name in shown]


def test_lines_may_be_json() -> None:
    (line,) = logged(("service.x", "error", "broken"), log_format="json")
    assert json.loads(line)["message"] == "broken"


@pytest.mark.parametrize(("level", "shown"), [("info", ["warning"]), ("debug", ["info", "warning"])])
def test_gunicorns_lines_are_for_debugging(level: str, shown: list[str]) -> None:
    lines = logged(
        ("gunicorn.error", "info", "info"),
        ("gunicorn.error", "warning", "warning"),
        ("gunicorn.access", "error", "a request"),
        log_level=level,
    )
    assert [line.split()[-1] for line in lines] == shown


class Pipe:
    """The log of a LogWriter, and its reader."""

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


def test_lines_are_written_whole_and_in_order(pipe: Pipe) -> None:
    lines = [b"%d " % number + b"x" * (number * 37 % 9000) + b"\n" for number in range(200)]
    for line in lines:
        pipe.writer.write(line)
    assert pipe.read(sum(map(len, lines))) == b"".join(lines)
    assert pipe.dropped == 0


def test_lines_are_dropped_and_counted_if_the_reader_has_stopped(pipe: Pipe) -> None:
    block = b"line\n" * 10_000
    for _ in range(100):  # of which the pipe takes 64 KiB
        pipe.writer.write(block)
    assert 0 < pipe.dropped < 1_000_000
    written = 100 * 10_000 - pipe.dropped
    assert pipe.read(written * len(b"line\n")) == b"line\n" * written


def test_a_log_without_a_reader_is_no_error(pipe: Pipe) -> None:
    pipe.writer.write(b"a\n")
    pipe.read(2)
    os.close(pipe.read_end)
    pipe.writer.write(b"b\nc\n")
    assert pipe.is_dropped.wait(DEADLINE)
    assert pipe.dropped == 2
    pipe.read_end = os.open(os.devnull, os.O_RDONLY)


def test_a_full_disk_costs_lines_until_there_is_room_again(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes part of a line, and then nothing."""
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
    # The torn line ends before the next begins.
    assert pipe.read(16) == b"torn\nwhole line\n"


def test_close_waits_for_the_last_lines_but_not_for_ever(pipe: Pipe) -> None:
    pipe.writer.write(b"last\n")
    pipe.writer.close(DEADLINE)
    assert pipe.read(5) == b"last\n"
    pipe.writer.write(b"x\n" * 100_000)
    pipe.writer.close(0.01)


@pytest.mark.parametrize(
    "lengths", [[1], [PIPE_BUF], [PIPE_BUF + 1], [10, PIPE_BUF - 10, 10], [9000, 5, 9000], [100] * 99]
)
def test_pieces_are_whole_lines_that_a_pipe_takes_in_one_go(lengths: list[int]) -> None:
    lines = [b"x" * (length - 1) + b"\n" for length in lengths]
    pieces = _pieces(b"".join(lines))
    assert b"".join(pieces) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= PIPE_BUF or piece.count(b"\n") == 1 for piece in pieces)
