"""The access log: one line for each request.

The logging module would take longer for one record than all of this. Lines are collected for a while, then formatted
and written together, and no request waits for that.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import random

import msgspec

from service.http import Request
from service.settings import Settings

# How long a line waits for others: waking the writer takes as long as several lines.
FLUSH_SECONDS = 0.02


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """A line, as JSON shows it. What does not apply is left out. `span_id` is the caller's."""

    time: str
    level: str
    logger: str
    process: int
    request_id: str
    method: str
    path: str
    status: int
    total_ms: float | None
    decode_ms: float | None = None
    queue_ms: float | None = None
    inference_ms: float | None = None
    encode_ms: float | None = None
    batch_size: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    key: str = ""
    model: str = ""
    version: str = ""
    trace_id: str = ""
    span_id: str = ""


class RequestLog:
    """The log of one event loop. `draw`: gives a number in [0, 1) for each request that may be left out."""

    def __init__(self, settings: Settings, write: Callable[[bytes], None], draw: Callable[[], float] = random) -> None:
        is_json = settings.log_format == "json"
        self._share = settings.log_sample if settings.log_level in ("debug", "info") else 0.0
        self._shows_operations = settings.log_level == "debug"
        self._format = msgspec.json.Encoder().encode_lines if is_json else _text_lines
        self._time_text = _utc if is_json else _local
        self._write = write
        self._draw = draw
        self._process = os.getpid()
        self._lines: list[Line] = []
        self._millisecond = 0
        self._millisecond_text = ""

    def answered(self, request: Request, status: int, body_bytes: int) -> None:
        """Log a request that has its response. `body_bytes`: of the response, on the wire."""
        if status < 500 and self._share < 1.0 and self._draw() >= self._share:
            return
        if request.is_operations and not self._shows_operations:
            return
        context = request.context
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        trace_id, span_id = ("", "") if context.trace is None else context.trace[:2]
        self._lines.append(
            Line(
                self._now(),
                "info" if status < 500 else "error",
                "service.requests",
                self._process,
                context.request_id,
                request.method,
                request.path,
                status,
                _milliseconds(context.answered - context.arrived),
                _milliseconds(context.decode_seconds),
                _milliseconds(context.queue_seconds),
                _milliseconds(context.run_seconds),
                _milliseconds(context.encode_seconds),
                context.batch_size,
                context.body_bytes,
                body_bytes,
                request.key_name,
                context.model,
                context.version,
                trace_id,
                span_id,
            )
        )

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            self._write(self._format(lines))

    def _now(self) -> str:
        """The time as text, which is kept: many requests end in the same millisecond."""
        millisecond = int(time.time() * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            self._millisecond_text = self._time_text(millisecond / 1000)
        return self._millisecond_text


def _milliseconds(seconds: float) -> float | None:
    return int(seconds * 1e6) / 1e3 if seconds else None


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _local(seconds: float) -> str:
    """Local time, as the logging module writes it."""
    return datetime.fromtimestamp(seconds).isoformat(" ", "milliseconds").replace(".", ",")


def _text_lines(lines: Sequence[Line]) -> bytes:
    return "".join(map(_text_line, lines)).encode()


def _text_line(line: Line) -> str:
    key = f" key={line.key}" if line.key else ""
    model = f" model={line.model}/{line.version}" if line.model else ""
    trace = f" trace={line.trace_id} span={line.span_id}" if line.trace_id else ""
    stages = ""
    if line.batch_size:
        stages = (
            f" decode={line.decode_ms} queue={line.queue_ms} inference={line.inference_ms} encode={line.encode_ms}"
            f" batch={line.batch_size}"
        )
    return (
        f"{line.time} [{line.process}] {line.level.upper()} {line.method or '-'} {line.path or '-'} {line.status}"
        f" {line.total_ms} ms{key}{model}{stages} in={line.bytes_in} out={line.bytes_out}"
        f" request={line.request_id}{trace}\n"
    )
