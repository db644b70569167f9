"""Log lines, as text for a person or as JSON for a collector; the same for the service and for gunicorn."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson

from service.observability.log_writer import LogWriter
from service.settings import Settings


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
