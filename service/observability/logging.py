"""Log lines, as text for a person or as JSON for a collector; the same for the service and for gunicorn."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from select import PIPE_BUF
from typing import Any

import orjson

from service.runtime.worker_thread import Background
from service.settings import Settings

# Writes lines of the log so that nothing waits for it: not for a full disk, and not for a reader that has stopped.

STANDARD_ERROR = 2

# What may wait to be written. More is dropped: some thousand lines, a second or two of the busiest worker.
MAX_BUFFERED_BYTES = 1024 * 1024


class LogWriter:
    """`dropped` is told how many lines could not be written, or would have had to wait for too long."""

    def __init__(
        self, descriptor: int, dropped: Callable[[int], None], max_queued_bytes: int = MAX_BUFFERED_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._dropped = dropped
        self._background = Background("log", self._write_pieces, max_queued_bytes)
        # A part of a line has been written, and not its end.
        self._is_torn = False
        self.close = self._background.close

    def write(self, lines: bytes) -> None:
        """Whole lines, each with its end. Never waits."""
        if not self._background.offer(lines, len(lines)):
            self._dropped(lines.count(b"\n"))

    def _write_pieces(self, lines: bytes) -> None:
        for piece in _pieces(lines):
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
    """So short that other processes' lines cannot get into the middle of one, where the log is a pipe. A longer line is
    a piece of its own."""
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
    """File names may hold bytes that are no text, and orjson writes text only."""
    return text.encode(errors="backslashreplace").decode()


def logging_config(settings: Settings) -> dict[str, Any]:
    """A `logging.config.dictConfig` that leaves gunicorn's loggers to the root handler."""
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
            # gunicorn's own start-up lines say nothing that ours do not.
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
    """Meanwhile a full or stuck log holds nobody up. The last lines may take so long to be written."""
    handlers = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    before = [handler.setStream(_Stream(writer)) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            handler.setStream(stream)
        writer.close(seconds)
