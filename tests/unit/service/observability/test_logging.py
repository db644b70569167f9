import errno
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from select import PIPE_BUF, select
from typing import Any

import pytest

from service.observability.logging import JsonFormatter, LogWriter, written_by

DEADLINE = 10
KeepWrites = Callable[..., list[bytes]]
# Logging is configured for a whole process.
PROGRAM = """
import logging, logging.config, sys
from service.observability.logging import logging_config
from service.settings import Settings
for log_format, level in [("text", "debug"), ("text", "info"), ("text", "warning"), ("json", "error")]:
    print(level, file=sys.stderr)
    logging.config.dictConfig(logging_config(Settings(log_format=log_format, log_level=level)))
    for name, of, message in [
        *[("service.x", "debug", "a"), ("service.x", "info", "b"), ("service.x", "warning", "c")],
        *[("service.x", "error", "d"), ("gunicorn.error", "info", "e"), ("gunicorn.error", "warning", "f")],
        ("gunicorn.access", "error", "g"),
    ]:
        getattr(logging.getLogger(name), of)(message)
"""


def test_level_says_which_lines_are_shown_and_how() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    *texts, line, _ = done.stderr.splitlines()
    shown = [text.partition("] ")[2] or text for text in texts]
    at_debug = ["DEBUG a", "INFO b", "WARNING c", "ERROR d", "INFO e", "WARNING f"]
    at_info = ["INFO b", "WARNING c", "ERROR d", "WARNING f"]
    assert shown == ["debug", *at_debug, "info", *at_info, "warning", *at_info[1:], "error"]
    assert json.loads(line)["message"] == "d"


def json_line(message: str, **attributes: Any) -> Any:
    parts = {"name": "service.x", "levelname": "WARNING", "msg": message, "created": 0.5, "process": 7}
    line = JsonFormatter().format(logging.makeLogRecord(parts | attributes))
    assert "\n" not in line
    return json.loads(line)


def test_json_line() -> None:
    line = {"level": "warning", "logger": "service.x", "process": 7, "message": "x is 3"}
    line["time"] = "1970-01-01T00:00:00.500000+00:00"
    assert json_line("%s is %d", args=("x", 3)) == line
    assert json_line("%s is %d", args=("x", 3), request_id="mine") == {**line, "request_id": "mine"}
    error = ValueError("over\ntwo lines")
    assert "ValueError: over\ntwo lines" in json_line("failed", exc_info=(ValueError, error, None))["traceback"]
    # The name of a folder that is not UTF-8, as Python gives it.
    assert json_line("model \udcff is broken")["message"].endswith("is broken")


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
            assert select([self.read_end], [], [], DEADLINE)[0], "nothing more comes"
            data += os.read(self.read_end, count - len(data))
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.read_end)
    pipe.writer.close(DEADLINE)
    os.close(pipe.write_end)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> KeepWrites:
    """Keeps what each write gets; `room`: what the first ones take. Without `at_once`, as on an older kernel."""

    def keep(*room: int, at_once: bool = False) -> list[bytes]:
        pieces: list[bytes] = []
        left = list(room)
        write, pwritev = os.write, os.pwritev

        def kept(descriptor: int, data: bytes) -> int:
            pieces.append(data)
            taken = left.pop(0) if left else len(data)
            if not taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data[:taken])

        def kept_at_once(descriptor: int, data: list[bytes], *how: int) -> int:
            if not at_once:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            pieces.extend(data)
            return pwritev(descriptor, data, *how)

        monkeypatch.setattr("service.observability.logging.os.write", kept)
        monkeypatch.setattr("service.observability.logging.os.pwritev", kept_at_once)
        return pieces

    return keep


def test_lines_of_the_logging_module_are_written_until_its_end(pipe: Pipe) -> None:
    handler = logging.StreamHandler(before := io.StringIO())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with written_by(pipe.writer, DEADLINE):
            root.error("f\u00fcr \udcff")
        root.error("afterwards")
    finally:
        root.removeHandler(handler)
    assert os.read(pipe.read_end, 100) == "für \\udcff\n".encode()
    assert before.getvalue() == "afterwards\n"


@pytest.mark.parametrize(
    "lengths", [[1], [PIPE_BUF], [PIPE_BUF + 1], [10, PIPE_BUF - 10, 10], [9000, 5, 9000], range(37, 3700, 37)]
)
@pytest.mark.parametrize("at_once", [True, False])
def test_lines_are_written_in_order_as_a_pipe_takes_them(
    pipe: Pipe, writes: KeepWrites, lengths: list[int], at_once: bool
) -> None:
    pieces = writes(at_once=at_once)
    lines = b"".join(b"x" * (length - 1) + b"\n" for length in lengths)
    pipe.writer.write(lines)
    pipe.writer.write(b"next\n")
    assert pipe.read(len(lines) + 5) == lines + b"next\n"
    assert pipe.dropped == 0
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= PIPE_BUF or piece.count(b"\n") == 1 for piece in pieces)


def test_lines_are_dropped_and_counted_if_the_reader_has_stopped(pipe: Pipe) -> None:
    for _ in range(100):  # of which the pipe takes 64 KiB
        pipe.writer.write(b"line\n" * 10_000)
    assert 0 < pipe.dropped < 1_000_000
    written = 100 * 10_000 - pipe.dropped
    assert pipe.read(written * len(b"line\n")) == b"line\n" * written


def test_log_without_a_reader_is_no_error(pipe: Pipe) -> None:
    os.close(pipe.read_end)
    pipe.writer.write(b"b\nc\n")
    assert pipe.is_dropped.wait(DEADLINE)
    assert pipe.dropped == 2
    pipe.read_end = os.open(os.devnull, os.O_RDONLY)


def test_file_takes_all_lines_in_one_go(tmp_path: Path, writes: KeepWrites) -> None:
    lines = b"a line\n" * PIPE_BUF
    pieces = writes()
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno(), lambda _lines: None)
        writer.write(lines)
        writer.close(DEADLINE)
    assert (tmp_path / "log").read_bytes() == lines
    assert pieces == [lines]


def test_full_disk_costs_lines_until_there_is_room(pipe: Pipe, writes: KeepWrites) -> None:
    writes(4, 0)
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
