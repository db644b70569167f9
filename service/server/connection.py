"""One connection: bytes in, requests out to the application, answers back in their order.

Every wait has an end, which the worker's sweep looks at once a second: for a request's head, for its body, for a client
to read its answer, for the next request. Every size has a limit.
"""

import asyncio
import logging
import math
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from service.server.parser import BufferedBytes

if TYPE_CHECKING:
    pass

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

from service.http import Response, error_response
from service.security import cors
from service.security.cors import Cors
from service.server import response
from service.server.interface import Admit, Answered, Answerer, HttpRequest
from service.server.parser import RequestReader
from service.server.response import response_bytes

# Telling a client that has left from one that has only said all that it had to say: of both the last byte has come.
#
# Most servers take both for gone (nginx, Go, uvicorn), which is wrong for who closes its half and waits (`nc -N`).

# What every answer begins with. Where a whole connection was closed, a reset comes back.
FIRST_BYTES = b"HTTP/1.1 "


def send_first_bytes(transport: asyncio.Transport) -> None:
    """The answer goes on behind it."""
    transport.write(FIRST_BYTES)


def was_reset(transport: asyncio.Transport) -> bool:
    """Whether a reset has come. The event loop itself would only notice when it writes again."""
    connection = transport.get_extra_info("socket")
    return connection is not None and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


# What a connection waits for, and how long.

HEAD_SECONDS = 15
BODY_SECONDS = 30  # without a single byte
# Of a body, once BODY_SECONDS are over.
MIN_BYTES_PER_SECOND = 500
WRITE_SECONDS = 60
DISCARD_SECONDS = 5


class Wait(Enum):
    """The value: for how many seconds at most."""

    HEAD = HEAD_SECONDS
    BODY = BODY_SECONDS
    ANSWER = 0  # the application has its own limits
    CLIENT_READS = WRITE_SECONDS
    NEXT = math.inf  # a setting
    DISCARD = DISCARD_SECONDS


# A worker process's connections: how many there may be, and how much they may hold together.

# How many connections beyond the limit are told so at a time. Further ones are closed without a word.
MAX_REJECTED_CONNECTIONS = 128
# Files of a process besides its connections: models, metrics, what libraries open.
OTHER_FILES = 256

logger = logging.getLogger(__name__)


class Connections:
    def __init__(
        self,
        most: int = sys.maxsize,
        max_buffered_bytes: int = sys.maxsize,
        *,
        keep_alive_seconds: float = 75,
        on_change: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """`on_change` is told how many are open."""
        self.most = most
        self.keep_alive_seconds = keep_alive_seconds
        self.buffered = BufferedBytes(max_buffered_bytes)
        self._on_change = on_change
        self._open: set[HttpConnection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: "HttpConnection") -> None:
        self._open.add(connection)
        self._on_change(len(self._open))

    def discard(self, connection: "HttpConnection") -> None:
        self._open.discard(connection)
        self._on_change(len(self._open))

    def sweep(self, now: float) -> None:
        for connection in list(self._open):
            connection.sweep(now)

    def drain(self, *, close_idle: bool) -> None:
        for connection in list(self._open):
            connection.drain(close_idle=close_idle)


def affordable_connections(wanted: int) -> int:
    """As many as are wanted, or as the process may open files for (RLIMIT_NOFILE), whose soft limit is raised."""
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


MAX_PIPELINED = 64
# No answer has this status; nginx calls it so in its log.
CLIENT_LEFT = 499

_TOO_SLOW = {
    Wait.HEAD: f"the request's head did not come within {HEAD_SECONDS} s",
    Wait.BODY: f"the request's body comes too slowly: not a byte within {BODY_SECONDS} s, or by then less than "
    f"{MIN_BYTES_PER_SECOND} bytes a second",
}


class HttpConnection(asyncio.Protocol):
    def __init__(
        self,
        answerer: Answerer,
        connections: Connections,
        max_body_bytes: int,
        admit: Admit | None = None,
        answered: Answered = lambda _request, _status, _body_bytes: None,
    ) -> None:
        """`admit`: where not everybody may come in."""
        self._answerer = answerer
        self._admit = admit
        # Of the request that comes.
        self._key_name = ""
        self._answered = answered
        self._connections = connections
        self._buffered = connections.buffered
        self._reader = RequestReader(self, max_body_bytes, connections.buffered)
        self._transport: asyncio.Transport
        self._waiting: deque[HttpRequest] = deque()
        self._pending: asyncio.Future[Response] | None = None
        # By its first bytes, to a client that may have left.
        self._answer_has_begun = False
        self._refusal: tuple[HttpRequest, Response] | None = None
        self._is_one_too_many = False
        self._closing = False
        self._is_last_answer = False
        self._write_paused = False
        self._unread_bytes = 0
        self._wait = Wait.HEAD
        # When the wait began, and when something last came.
        self._began = self._since = time.monotonic()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        if len(self._connections) > self._connections.most + MAX_REJECTED_CONNECTIONS:
            self._transport.abort()
        elif len(self._connections) > self._connections.most:
            self._is_one_too_many = True
            self._expect(Wait.DISCARD)

    def connection_lost(self, _error: Exception | None) -> None:
        self._connections.discard(self)
        self._closing = True
        for request in self._waiting:
            self._buffered.now -= len(request.body)
        self._waiting.clear()
        self._is_read()
        self._reader.close()
        if self._pending is not None:
            self._pending.cancel()

    def data_received(self, data: bytes) -> None:
        if self._wait is Wait.BODY:
            self._since = time.monotonic()
        self._reader.feed(data)
        if self._wait is Wait.NEXT and self._reader.is_within_request:
            self._expect(Wait.HEAD)

    def eof_received(self) -> bool:
        # A client may close its half and still wait for answers.
        self._is_last_answer = True
        if self._pending is not None and not self._answer_has_begun:
            self._answer_has_begun = True
            send_first_bytes(self._transport)
        return bool(self._waiting or self._pending or self._refusal)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._unread_bytes = self._transport.get_write_buffer_size()
        self._buffered.now += self._unread_bytes
        self._expect(Wait.CLIENT_READS)

    def resume_writing(self) -> None:
        self._write_paused = False
        self._is_read()
        if not self._closing:
            self._expect_request()
            self._answer_waiting()

    def _is_read(self) -> None:
        self._buffered.now -= self._unread_bytes
        self._unread_bytes = 0

    # What the reader calls

    def head_came(self, target: bytes, headers: Mapping[bytes, bytes]) -> Response | None:
        if self._is_one_too_many:
            message = f"{len(self._connections)} connections are open; at most {self._connections.most} may be"
            answer = error_response(503, f"{message} (SERVING_MAX_CONNECTIONS)", ("retry-after", "1"))
            self.refuse(self._reader.stop(discards_body=True), "too_many_connections", answer)
            return None
        is_next = self._pending is None and not self._write_paused and not self._closing
        if is_next:
            self._expect(Wait.BODY)
        refusal = None
        if self._admit is not None:
            refusal = self._admission(self._admit, target, headers)
        if headers.get(b"expect", b"").lower() == b"100-continue" and self._reader.http_version == "1.1":
            # It waits to be told, and may then send its body or not.
            if refusal is not None and not self._closing:
                self._turn_away(self._reader.stop(discards_body=True), refusal)
            # Before another request's answer it would be taken for a part of that.
            elif is_next:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return refusal

    def _admission(self, admit: Admit, target: bytes, headers: Mapping[bytes, bytes]) -> Response | None:
        self._key_name, refusal = admit(target, headers)
        return refusal

    def request_came(self, request: HttpRequest) -> None:
        request.key_name, self._key_name = self._key_name, ""
        if self._is_busy():
            self._waiting.append(request)
            if len(self._waiting) >= MAX_PIPELINED:
                self._transport.pause_reading()
        else:
            self._answer(request)

    def refuse(self, request: HttpRequest, reason: str, refusal: Response) -> None:
        """Answered after the requests before it, and the connection closed."""
        if not self._closing:
            self._answerer.refused(reason)
            self._turn_away(request, refusal)

    def _turn_away(self, request: HttpRequest, refusal: Response) -> None:
        request.key_name = self._key_name
        self._refusal = (request, refusal)
        if not self._is_busy():
            self._write_refusal(request, refusal)

    def all_is_discarded(self) -> None:
        if self._refusal is None:
            self._close()

    # Answers

    def _answer(self, request: HttpRequest) -> None:
        # Not the request's own: whoever answers may unpack it.
        buffered = len(request.body)
        if self._closing:
            self._buffered.now -= buffered
            return
        refusal = request.refusal
        answer = self._answerer.answer(request) if refusal is None else self._answerer.give(refusal, request)
        if isinstance(answer, Response):
            self._buffered.now -= buffered
            self._write(request, answer)
            return
        self._pending = answer
        self._expect(Wait.ANSWER)

        def answered(future: "asyncio.Future[Response]") -> None:
            self._pending = None
            self._buffered.now -= buffered
            if self._closing:
                self._tell(request, CLIENT_LEFT, 0)
            else:
                self._write(request, future.result())
                self._answer_waiting()

        answer.add_done_callback(answered)

    def _is_busy(self) -> bool:
        return self._pending is not None or self._write_paused or bool(self._waiting)

    def _answer_waiting(self) -> None:
        while self._waiting and self._pending is None and not self._write_paused and not self._closing:
            self._answer(self._waiting.popleft())
        if self._closing:
            return
        if self._refusal and not self._is_busy():
            self._write_refusal(*self._refusal)
        elif len(self._waiting) < MAX_PIPELINED:
            self._transport.resume_reading()

    def _write(self, request: HttpRequest, answer: Response) -> None:
        is_last = self._is_last_answer and not self._waiting and not self._refusal
        keep_alive = request.keep_alive and not self._closing and not is_last
        self._send(request, answer, keep_alive=keep_alive)
        if not self._write_paused:
            self._expect_request()
        if not keep_alive:
            self._close()

    def _write_refusal(self, request: HttpRequest, refusal: Response) -> None:
        self._refusal = None
        self._send(request, refusal, keep_alive=False)
        if self._reader.discards_body:
            self._expect(Wait.DISCARD)
        else:
            self._close()

    def _expect_request(self) -> None:
        if not self._reader.is_within_request:
            self._expect(Wait.NEXT)
        else:
            self._expect(Wait.HEAD if self._reader.is_in_head else Wait.BODY)

    def _send(self, request: HttpRequest, answer: Response, *, keep_alive: bool) -> None:
        """In a shorter coding where the client takes one and the answer is long."""
        answer = response.encode_body(answer, request.accept_encoding)
        written = response_bytes(request, answer, keep_alive=keep_alive)
        if self._answer_has_begun:
            self._answer_has_begun = False
            written = written.removeprefix(FIRST_BYTES)
        self._transport.write(written)
        self._tell(request, answer.status, 0 if request.method == "HEAD" else len(answer.body))

    def _tell(self, request: HttpRequest, status: int, body_bytes: int) -> None:
        request.context.answered = time.perf_counter()
        self._answered(request, status, body_bytes)

    def _expect(self, wait: Wait) -> None:
        self._wait = wait
        self._began = self._since = time.monotonic()

    def _close(self) -> None:
        """Once what is written has been read; the sweep ends that wait, too."""
        if not self._closing:
            self._closing = True
            self._expect(Wait.CLIENT_READS)
            self._transport.close()

    # What the worker calls

    def sweep(self, now: float) -> None:
        """Ends a wait that took too long."""
        if self._pending is not None:
            if self._is_last_answer and was_reset(self._transport):
                self._transport.abort()
            return
        if self._wait is Wait.ANSWER or not self._took_too_long(now):
            return
        if self._wait in (Wait.HEAD, Wait.BODY) and self._reader.is_within_request:
            self.refuse(self._reader.stop(), "too_slow", error_response(408, _TOO_SLOW[self._wait]))
        elif self._wait is Wait.CLIENT_READS:
            self._transport.abort()
        else:
            self._close()

    def _took_too_long(self, now: float) -> bool:
        most = self._connections.keep_alive_seconds if self._wait is Wait.NEXT else self._wait.value
        if now - self._since >= most:
            return True
        least = MIN_BYTES_PER_SECOND * (now - self._began - self._wait.value)
        return self._wait is Wait.BODY and self._reader.body_bytes < least

    def drain(self, *, close_idle: bool) -> None:
        """The next answer is the last. A connection that waits for a request may just be getting one: closing it would
        lose that, so it is closed only when told."""
        self._is_last_answer = True
        if close_idle and self._pending is None and not self._reader.is_within_request:
            self._close()


class CorsConnection(HttpConnection):
    """Where pages of other origins may read answers. A class of its own: who has none of them pays nothing."""

    def __init__(self, policy: Cors, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._cors = policy

    def _admission(self, admit: Admit, target: bytes, headers: Mapping[bytes, bytes]) -> Response | None:
        # A browser asks without the key that the page is going to send.
        return None if cors.is_preflight(self._reader.method, headers) else super()._admission(admit, target, headers)

    def _answer(self, request: HttpRequest) -> None:
        if cors.is_preflight(request.method, request.headers) and not self._closing:
            self._write(request, self._cors.preflight(request.headers))
        else:
            super()._answer(request)

    def _send(self, request: HttpRequest, answer: Response, *, keep_alive: bool) -> None:
        # First: what has a Vary is not encoded any more.
        answer = response.encode_body(answer, request.accept_encoding)
        super()._send(request, self._cors.with_headers(answer, request.headers), keep_alive=keep_alive)
