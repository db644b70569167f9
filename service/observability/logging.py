"""Logging: lines as text for people or as JSON for a collector, from the service and from gunicorn."""

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from select import PIPE_BUF
from typing import Any

import orjson

from service.runtime.worker_thread import WorkerThread
from service.settings import Settings

STANDARD_ERROR = 2

# Some thousand lines, or a second or two of the busiest worker. More are dropped.
MAX_BUFFERED_BYTES = 1024 * 1024


class LogWriter:
    """Writes lines of the log. Nothing waits for a full disk or a reader that has stopped: what is not taken at once is
    left to a thread.

    `dropped` is called with the number of lines that could not be written, or had no room to wait.
    """

    def __init__(
        self, descriptor: int, dropped: Callable[[int], None], max_queued_bytes: int = MAX_BUFFERED_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._dropped = dropped
        self._background = WorkerThread("log", self._write_pieces, max_queued_bytes)
        mode = os.fstat(descriptor).st_mode
        # After each piece the thread would fight with the event loop for the interpreter.
        self._is_quick = stat.S_ISFIFO(mode) and hasattr(os, "RWF_NOWAIT")
        self._is_file = stat.S_ISREG(mode)
        # Whether the beginning of a line was written, and not its end.
        self._is_torn = False
        self.close = self._background.close

    def write(self, lines: bytes) -> None:
        """`lines`: whole ones, each with its end. Never waits."""
        if self._is_quick and self._background.is_idle:
            lines = lines[self._write_at_once(lines) :]
        if lines and not self._background.offer(lines, len(lines)):
            self._dropped(lines.count(b"\n"))

    def _write_at_once(self, lines: bytes) -> int:
        """Write what the pipe takes without waiting; how many bytes that is."""
        written = 0
        for piece in _pieces(lines):
            if len(piece) > PIPE_BUF or self._is_torn:
                break
            try:
                written += os.pwritev(self._descriptor, [piece], -1, os.RWF_NOWAIT)
            except OSError as error:
                # Linux before 6.4 cannot do it; anything else the thread will find, too.
                self._is_quick = error.errno == errno.EAGAIN
                break
        return written

    def _write_pieces(self, lines: bytes) -> None:
        for piece in [lines] if self._is_file else _pieces(lines):
            self._put(piece)

    def _put(self, piece: bytes) -> None:
        rest = b"\n" + piece if self._is_torn else piece
        try:
            while rest:
                written = os.write(self._descriptor, rest)
                self._is_torn = True
                rest = rest[written:]
            self._is_torn = False
        except OSError:
            self._dropped(piece.count(b"\n"))


def _pieces(lines: bytes) -> list[bytes]:
    """Pieces of whole lines that a pipe takes in one go, so that lines of several processes are not mixed. A line that
    is too long for that is a piece of its own."""
    pieces = []
    start = 0
    while start < len(lines):
        end = len(lines)
        if end - start > PIPE_BUF:
            end = lines.rfind(b"\n", start, start + PIPE_BUF) + 1 or lines.index(b"\n", start) + 1
        pieces.append(lines[start:end])
        start = end
    return pieces


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": _unicode(record.getMessage()),
        }
        if request_id := getattr(record, "request_id", None):
            line["request_id"] = request_id
        if record.exc_info:
            line["traceback"] = _unicode(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


def _unicode(text: str) -> str:
    """File names may contain bytes that are not text, which orjson does not write."""
    return text.encode(errors="backslashreplace").decode()


def logging_config(settings: Settings) -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`, in which the root handler writes gunicorn's lines, too."""
    formatters = {
        "text": {"format": "%(asctime)s [%(process)d] %(levelname)s %(message)s"},
        "json": {"()": JsonFormatter},
    }
    level = settings.log_level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"chosen": formatters[settings.log_format]},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "chosen"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            # gunicorn's start-up lines repeat ours.
            "gunicorn.error": {
                "level": "DEBUG" if level == "DEBUG" else "WARNING",
                "handlers": [],
                "propagate": True,
            },
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }


class _Stream:
    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def write(self, text: str) -> None:
        self._writer.write(text.encode(errors="backslashreplace"))


@contextmanager
def written_by(writer: LogWriter, seconds: float) -> Iterator[None]:
    """Write the lines of the logging module with this writer. At the end, wait for the last ones at most so long."""
    handlers = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    before = [handler.setStream(_Stream(writer)) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            handler.setStream(stream)
        writer.close(seconds)
