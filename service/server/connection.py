"""Connections: bytes in, requests to the dispatcher, responses out in the order of their requests.

Every wait has a timeout, which the worker's sweep checks once a second: for a request's head, for its body, for a
client to read its response, for the next request. Every size has a limit.
"""

import asyncio
import logging
import math
import resource
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any, Protocol, cast

from service.http import Request, Response, error_response
from service.security import cors
from service.security.cors import Cors
from service.server.admission import Admit
from service.server.parser import BufferedBytes, RequestParser
from service.server.response import encode_body, response_bytes

HEAD_SECONDS = 15
BODY_SECONDS = 30  # without a single byte
# Of a body, once BODY_SECONDS are over.
MIN_BYTES_PER_SECOND = 500
WRITE_SECONDS = 60
DISCARD_SECONDS = 5

MAX_PIPELINED = 64
# How many connections beyond the limit are told so at a time. Further ones are closed without a word.
MAX_REJECTED_CONNECTIONS = 128
# Files of a process besides its connections: models, metrics, what libraries open.
OTHER_FILES = 256

# No response has this status; nginx uses it in its log.
CLIENT_LEFT = 499
# What every response begins with.
FIRST_BYTES = b"HTTP/1.1 "
# What a client says first that speaks HTTP/2 without asking (RFC 9113, 3.3).
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n"

# Called with a request, the status of its response and the bytes of that body, once it is written.
OnResponse = Callable[[Request, int, int], None]

logger = logging.getLogger(__name__)


class Timeout(Enum):
    """What a connection waits for. The value: for how many seconds at most."""

    HEAD = HEAD_SECONDS
    BODY = BODY_SECONDS
    RESPONSE = 0  # deadlines end that
    CLIENT_READS = WRITE_SECONDS
    NEXT_REQUEST = math.inf  # a setting
    DISCARD = DISCARD_SECONDS


TOO_SLOW = {
    Timeout.HEAD: f"the request's head did not come within {HEAD_SECONDS} s",
    Timeout.BODY: f"the request's body comes too slowly: not a byte within {BODY_SECONDS} s, or by then less than "
    f"{MIN_BYTES_PER_SECOND} bytes a second",
}


class Dispatch(Protocol):
    """What a connection needs of the dispatcher."""

    def dispatch(self, request: Request) -> "Response | asyncio.Future[Response]":
        """The response, or a future of it, which is cancelled when the client leaves. Raises nothing."""

    def reject(self, rejection: Response, request: Request) -> "Response | asyncio.Future[Response]":
        """The rejection, now or once there is time for it."""

    def count_rejected(self, reason: str) -> None:
        """Count what the connection itself rejects, in serving_rejected_total."""


class Connection(Protocol):
    def sweep(self, now: float) -> None:
        """End what took too long; `now` in monotonic's seconds."""

    def drain(self, *, close_idle: bool) -> None:
        """Take no more requests, and close once those that are there have their responses."""


class Connections:
    """The connections of a worker process: how many there may be, and how many bytes they may hold together."""

    def __init__(
        self,
        max_connections: int = sys.maxsize,
        max_buffered_bytes: int = sys.maxsize,
        *,
        keep_alive_seconds: float = 75,
        max_age_seconds: float = 0,
        on_change: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """`max_age_seconds`: of those that speak HTTP/2; 0: any. `on_change` is called with how many are open."""
        self.max_connections = max_connections
        self.keep_alive_seconds = keep_alive_seconds
        self.max_age_seconds = max_age_seconds
        self.buffered = BufferedBytes(max_buffered_bytes)
        self._on_change = on_change
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        self._open.add(connection)
        self._on_change(len(self._open))

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._on_change(len(self._open))

    def sweep(self, now: float) -> None:
        for connection in list(self._open):
            connection.sweep(now)

    def drain(self, *, close_idle: bool) -> None:
        for connection in list(self._open):
            connection.drain(close_idle=close_idle)


class HttpConnection(asyncio.Protocol):
    def __init__(
        self,
        dispatcher: Dispatch,
        connections: Connections,
        max_body_bytes: int,
        admit: Admit,
        on_response: OnResponse = lambda _request, _status, _body_bytes: None,
        http2: Callable[[], asyncio.Protocol] | None = None,
    ) -> None:
        """`http2`: makes the protocol of a connection that turns out to speak HTTP/2; None: that is not taken."""
        self._dispatcher = dispatcher
        self._http2 = http2
        self._admit = admit
        self._on_response = on_response
        self._connections = connections
        self._buffered = connections.buffered
        self._parser = RequestParser(self, max_body_bytes, connections.buffered)
        self._transport: asyncio.Transport
        self._pipeline: deque[Request] = deque()
        self._pending: asyncio.Future[Response] | None = None
        # A response has begun, by its first bytes.
        self._has_begun = False
        # The request that ends the connection, and its rejection.
        self._last: tuple[Request, Response] | None = None
        self._is_one_too_many = False
        # A request's head, or what is none.
        self._has_read = False
        self._closing = False
        self._is_draining = False
        self._write_paused = False
        self._unread_bytes = 0
        self._timeout = Timeout.HEAD
        # When the wait began, and when something last came.
        self._began = self._since = time.monotonic()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        if len(self._connections) > self._connections.max_connections + MAX_REJECTED_CONNECTIONS:
            self._transport.abort()
        elif len(self._connections) > self._connections.max_connections:
            self._is_one_too_many = True
            self._start_timeout(Timeout.DISCARD)

    def connection_lost(self, _error: Exception | None) -> None:
        self._connections.discard(self)
        self._closing = True
        for request in self._pipeline:
            self._buffered.now -= len(request.body)
        self._pipeline.clear()
        self._release_unread()
        self._parser.close()
        if self._pending is not None:
            self._pending.cancel()

    def data_received(self, data: bytes) -> None:
        if self._timeout is Timeout.BODY:
            self._since = time.monotonic()
        self._parser.feed(data)
        if self._timeout is Timeout.NEXT_REQUEST and self._parser.is_within_request:
            self._start_timeout(Timeout.HEAD)

    def eof_received(self) -> bool:
        """The client closed its half, or has left: the bytes look the same.

        Most servers take both for gone (nginx, Go, uvicorn), which is wrong for a client that closes its half and waits
        (`nc -N`). So the response is begun: a client that has left answers with a reset.
        """
        self._is_draining = True
        if self._pending is not None and not self._has_begun:
            self._has_begun = True
            self._transport.write(FIRST_BYTES)
        return bool(self._pipeline or self._pending or self._last)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._unread_bytes = self._transport.get_write_buffer_size()
        self._buffered.now += self._unread_bytes
        self._start_timeout(Timeout.CLIENT_READS)

    def resume_writing(self) -> None:
        self._write_paused = False
        self._release_unread()
        if not self._closing:
            self._expect_request()
            self._next()

    def _release_unread(self) -> None:
        self._buffered.now -= self._unread_bytes
        self._unread_bytes = 0

    # Called by the parser

    def on_head(self, request: Request) -> Response | None:
        self._has_read = True
        if self._is_one_too_many:
            self._reject_connection()
            return None
        is_next = self._pending is None and not self._write_paused and not self._closing
        if is_next:
            self._start_timeout(Timeout.BODY)
        rejection = self._admit(request)
        if request.headers.get(b"expect", b"").lower() == b"100-continue" and request.http_version == "1.1":
            # The client waits for a word, and may then send its body or not.
            if rejection is not None and not self._closing:
                self._end_with(self._parser.stop(discards_body=True), rejection)
            # Before another request's response it would be taken for a part of that.
            elif is_next:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return rejection

    def _reject_connection(self) -> None:
        count, limit = len(self._connections), self._connections.max_connections
        message = f"{count} connections are open; at most {limit} may be (SERVING_MAX_CONNECTIONS)"
        rejection = error_response(503, message, ("retry-after", "1"))
        self.on_invalid(self._parser.stop(discards_body=True), "too_many_connections", rejection)

    def on_request(self, request: Request) -> None:
        if self._is_busy():
            self._pipeline.append(request)
            if len(self._pipeline) >= MAX_PIPELINED:
                self._transport.pause_reading()
        else:
            self._handle(request)

    def on_invalid(self, request: Request, reason: str, rejection: Response) -> None:
        """Sent after the responses before it; the connection is closed then."""
        if not self._closing:
            self._dispatcher.count_rejected(reason)
            self._end_with(request, rejection)

    def on_discarded(self) -> None:
        if self._last is None:
            self._close()

    def on_http2(self, data: bytes) -> bool:
        is_first = data.startswith(HTTP2_PREFACE) and not self._has_read and not self._is_one_too_many
        if self._http2 is None or not is_first:
            return False
        successor = self._http2()
        self._connections.discard(self)
        self._closing = True
        self._parser.close()
        self._transport.set_protocol(successor)
        successor.connection_made(self._transport)
        successor.data_received(data)
        return True

    def _end_with(self, request: Request, rejection: Response) -> None:
        self._last = (request, rejection)
        if not self._is_busy():
            self._write_last(request, rejection)

    # Responses

    def _handle(self, request: Request) -> None:
        # Kept, since the dispatcher may unpack the body.
        buffered = len(request.body)
        if self._closing:
            self._buffered.now -= buffered
            return
        rejection = request.rejection
        response = (
            self._dispatcher.dispatch(request) if rejection is None else self._dispatcher.reject(rejection, request)
        )
        if isinstance(response, Response):
            self._buffered.now -= buffered
            self._write(request, response)
            return
        self._pending = response
        self._start_timeout(Timeout.RESPONSE)

        def done(future: "asyncio.Future[Response]") -> None:
            self._pending = None
            self._buffered.now -= buffered
            if self._closing:
                self._report(request, CLIENT_LEFT, 0)
            else:
                self._write(request, future.result())
                self._next()

        response.add_done_callback(done)

    def _is_busy(self) -> bool:
        return self._pending is not None or self._write_paused or bool(self._pipeline)

    def _next(self) -> None:
        while self._pipeline and self._pending is None and not self._write_paused and not self._closing:
            self._handle(self._pipeline.popleft())
        if self._closing:
            return
        if self._last and not self._is_busy():
            self._write_last(*self._last)
        elif len(self._pipeline) < MAX_PIPELINED:
            self._transport.resume_reading()

    def _write(self, request: Request, response: Response) -> None:
        is_last = self._is_draining and not self._pipeline and not self._last
        keep_alive = request.keep_alive and not self._closing and not is_last
        self._send(request, response, keep_alive=keep_alive)
        if not self._write_paused:
            self._expect_request()
        if not keep_alive:
            self._close()

    def _write_last(self, request: Request, rejection: Response) -> None:
        self._last = None
        self._send(request, rejection, keep_alive=False)
        if self._parser.discards_body:
            self._start_timeout(Timeout.DISCARD)
        else:
            self._close()

    def _expect_request(self) -> None:
        if not self._parser.is_within_request:
            self._start_timeout(Timeout.NEXT_REQUEST)
        else:
            self._start_timeout(Timeout.HEAD if self._parser.is_in_head else Timeout.BODY)

    def _send(self, request: Request, response: Response, *, keep_alive: bool) -> None:
        """In a shorter coding where the client accepts one and the response is long."""
        response = encode_body(response, request.accept_encoding)
        written = response_bytes(request, response, keep_alive=keep_alive)
        if self._has_begun:
            self._has_begun = False
            written = written.removeprefix(FIRST_BYTES)
        self._transport.write(written)
        self._report(request, response.status, 0 if request.method == "HEAD" else len(response.body))

    def _report(self, request: Request, status: int, body_bytes: int) -> None:
        request.context.answered = time.perf_counter()
        self._on_response(request, status, body_bytes)

    def _start_timeout(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._began = self._since = time.monotonic()

    def _close(self) -> None:
        """Close once what is written has been read; the sweep ends that wait, too."""
        if not self._closing:
            self._closing = True
            self._start_timeout(Timeout.CLIENT_READS)
            self._transport.close()

    # Called by the worker

    def sweep(self, now: float) -> None:
        """End a wait that took too long."""
        if self._pending is not None:
            if self._is_draining and self._was_reset():
                self._transport.abort()
            return
        if self._timeout is Timeout.RESPONSE or not self._has_timed_out(now):
            return
        if self._timeout in (Timeout.HEAD, Timeout.BODY) and self._parser.is_within_request:
            self.on_invalid(self._parser.stop(), "too_slow", error_response(408, TOO_SLOW[self._timeout]))
        elif self._timeout is Timeout.CLIENT_READS:
            self._transport.abort()
        else:
            self._close()

    def _was_reset(self) -> bool:
        """Whether a reset has come. The event loop itself would only notice when it writes again."""
        connection = self._transport.get_extra_info("socket")
        return connection is not None and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    def _has_timed_out(self, now: float) -> bool:
        is_idle = self._timeout is Timeout.NEXT_REQUEST
        max_seconds = self._connections.keep_alive_seconds if is_idle else self._timeout.value
        if now - self._since >= max_seconds:
            return True
        min_bytes = MIN_BYTES_PER_SECOND * (now - self._began - self._timeout.value)
        return self._timeout is Timeout.BODY and self._parser.body_bytes < min_bytes

    def drain(self, *, close_idle: bool) -> None:
        """Make the next response the last. A connection without a request may just be getting one: closing it would
        lose that, so it is closed only with `close_idle`."""
        self._is_draining = True
        if close_idle and self._pending is None and not self._parser.is_within_request:
            self._close()


class CorsConnection(HttpConnection):
    """A connection where pages of other origins may read responses. A class of its own, so that others pay nothing."""

    def __init__(
        self,
        policy: Cors,
        dispatcher: Dispatch,
        connections: Connections,
        max_body_bytes: int,
        admit: Admit,
        *rest: Any,
    ) -> None:
        def admit_preflights(request: Request) -> Response | None:
            # A browser sends a preflight without the key that the page is going to send.
            return None if cors.is_preflight(request.method, request.headers) else admit(request)

        super().__init__(dispatcher, connections, max_body_bytes, admit_preflights, *rest)
        self._cors = policy

    def _handle(self, request: Request) -> None:
        if cors.is_preflight(request.method, request.headers) and not self._closing:
            self._write(request, self._cors.preflight(request.headers))
        else:
            super()._handle(request)

    def _send(self, request: Request, response: Response, *, keep_alive: bool) -> None:
        # First: what has a Vary is not encoded any more.
        response = encode_body(response, request.accept_encoding)
        super()._send(request, self._cors.with_headers(response, request.headers), keep_alive=keep_alive)


def affordable_connections(wanted: int) -> int:
    """As many as are wanted, or as the process may open files for (RLIMIT_NOFILE). Raises the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + MAX_REJECTED_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        # Some systems have a limit besides the hard one.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    affordable = max(soft - MAX_REJECTED_CONNECTIONS - OTHER_FILES, soft // 4)
    logger.warning(
        "this process may open %d files (ulimit -n): it takes at most %d connections, not %d (SERVING_MAX_CONNECTIONS)",
        *(soft, affordable, wanted),
    )
    return affordable
