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

from service.http import Request, shown_path
from service.inference.context import RequestContext
from service.settings import Settings

# How long a line waits for others. Errors of the service do not wait. A process that is killed loses these lines.
FLUSH_SECONDS = 0.05
# Lines that are formatted in one go: fewer take longer each, and more would hold up the event loop.
FORMATTED_TOGETHER = 64


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


# Time, method, target, status, name of the key, bytes of the response, context.
_Entry = tuple[float, str, bytes, int, str, int, RequestContext]


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
        self._entries: list[_Entry] = []
        self._formatted: list[bytes] = []
        self._is_flush_scheduled = False
        self._millisecond = 0
        self._millisecond_text = ""

    def answered(self, request: Request, status: int, body_bytes: int) -> None:
        """Log a request that has its response. `body_bytes`: of the response, on the wire."""
        if status < 500 and self._share < 1.0 and self._draw() >= self._share:
            return
        if request.is_operations and not self._shows_operations:
            return
        # Not the request: its body may be large.
        self._entries.append(
            (time.time(), request.method, request.target, status, request.key_name, body_bytes, request.context)
        )
        if status == 500:
            asyncio.get_running_loop().call_soon(self.flush)
        elif not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        elif len(self._entries) >= FORMATTED_TOGETHER:
            self._format_entries()

    def flush(self) -> None:
        self._is_flush_scheduled = False
        self._format_entries()
        if self._formatted:
            lines, self._formatted = b"".join(self._formatted), []
            self._write(lines)

    def _format_entries(self) -> None:
        if self._entries:
            entries, self._entries = self._entries, []
            self._formatted.append(self._format([self._line(*entry) for entry in entries]))

    def _line(
        self,
        seconds: float,
        method: str,
        target: bytes,
        status: int,
        key_name: str,
        body_bytes: int,
        context: RequestContext,
    ) -> Line:
        trace_id, span_id = ("", "") if context.trace is None else context.trace[:2]
        return Line(
            self._time(seconds),
            "info" if status < 500 else "error",
            "service.requests",
            self._process,
            context.request_id,
            method,
            shown_path(target),
            status,
            _milliseconds(context.answered - context.arrived),
            _milliseconds(context.decode_seconds),
            _milliseconds(context.queue_seconds),
            _milliseconds(context.run_seconds),
            _milliseconds(context.encode_seconds),
            context.batch_size,
            context.body_bytes,
            body_bytes,
            key_name,
            context.model,
            context.version,
            trace_id,
            span_id,
        )

    def _time(self, seconds: float) -> str:
        """As text, which is kept: many requests end in the same millisecond."""
        millisecond = int(seconds * 1000)
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
