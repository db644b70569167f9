"""One connection: bytes in, requests out to the application, answers back in their order.

Every wait has an end, which the worker's sweep looks at once a second: for a request's head, for its body, for a client
to read its answer, for the next request. Every size has a limit.
"""

import asyncio
import time
from collections import deque
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import cast

import httptools

from service.messages import Answer, error_answer
from service.server.interface import Answerer, HttpRequest

MAX_HEAD_BYTES = 64 * 1024
MAX_PIPELINED = 64
HEAD_SECONDS = 15
BODY_SECONDS = 30  # without a single byte
WRITE_SECONDS = 60
KEEP_ALIVE_SECONDS = 75
DISCARD_SECONDS = 5

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Wait(Enum):
    """What a connection waits for, and for how many seconds at most."""

    HEAD = HEAD_SECONDS
    BODY = BODY_SECONDS
    ANSWER = 0  # the application has its own limits
    CLIENT_READS = WRITE_SECONDS
    NEXT = KEEP_ALIVE_SECONDS
    DISCARD = DISCARD_SECONDS


class HttpConnection(asyncio.Protocol):
    def __init__(self, answerer: Answerer, connections: "set[HttpConnection]", max_body_bytes: int) -> None:
        self._answerer = answerer
        self._connections = connections
        self._max_body_bytes = max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._request = HttpRequest()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._in_head = True
        self._waiting: deque[HttpRequest] = deque()
        self._pending: asyncio.Future[Answer] | None = None
        self._refused = False
        self._closing = False
        self._is_last_answer = False
        self._write_paused = False
        self._wait = Wait.HEAD
        self._since = time.monotonic()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._connections.discard(self)
        self._closing = True
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._wait is Wait.NEXT:
                self._expect(Wait.HEAD)
            self._head_bytes += len(data)
        elif self._wait is Wait.BODY:
            self._since = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # no upgrade is offered; the request is answered as it is
        except httptools.HttpParserError as error:
            if not self._closing:
                self._refuse(400, f"Malformed request: this is not HTTP ({error})")
            return
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head is too long: at most {MAX_HEAD_BYTES} bytes are taken")

    def eof_received(self) -> bool:
        # A client may close its half and still wait for answers.
        self._is_last_answer = True
        return bool(self._waiting or self._pending)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._expect(Wait.CLIENT_READS)

    def resume_writing(self) -> None:
        self._write_paused = False
        self._expect(Wait.NEXT)
        self._answer_waiting()

    # What httptools calls

    def on_message_begin(self) -> None:
        self._request = HttpRequest()
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if self._refused:
            return
        length = self._request.header(b"content-length")
        if length.isdigit() and int(length) > self._max_body_bytes:
            self._refuse_body(int(length))
            return
        if self._pending is None:
            self._expect(Wait.BODY)
        if self._request.header(b"expect").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._refused:
            if self._body_bytes > 8 * self._max_body_bytes:
                self._close()
        elif self._body_bytes > self._max_body_bytes:
            self._refuse_body(None)
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        self._in_head = True
        if self._refused:
            self._close()
            return
        request = self._request
        request.method = self._parser.get_method().decode()
        request.http_version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive()
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        if self._pending is not None or self._write_paused or self._waiting:
            self._waiting.append(request)
            if len(self._waiting) >= MAX_PIPELINED:
                self._transport.pause_reading()
        else:
            self._answer(request)

    # Answers

    def _answer(self, request: HttpRequest) -> None:
        if self._closing:
            return
        answer = self._answerer.answer(request)
        if isinstance(answer, Answer):
            self._write(request, answer)
            return
        self._pending = answer
        self._expect(Wait.ANSWER)

        def answered(future: "asyncio.Future[Answer]") -> None:
            self._pending = None
            if not self._closing:
                self._write(request, future.result())
                self._answer_waiting()

        answer.add_done_callback(answered)

    def _answer_waiting(self) -> None:
        while self._waiting and self._pending is None and not self._write_paused and not self._closing:
            self._answer(self._waiting.popleft())
        if not self._closing and len(self._waiting) < MAX_PIPELINED:
            self._transport.resume_reading()

    def _write(self, request: HttpRequest, answer: Answer) -> None:
        keep_alive = request.keep_alive and not self._closing and not (self._is_last_answer and not self._waiting)
        head = [
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, '')}\r\n"
            f"content-type: {answer.content_type}\r\n"
            f"content-length: {len(answer.body)}\r\n"
            f"date: {_date(int(time.time()))}\r\n"
        ]
        head += [f"{name}: {value}\r\n" for name, value in answer.headers]
        if not keep_alive:
            head.append("connection: close\r\n")
        elif request.http_version == "1.0":
            head.append("connection: keep-alive\r\n")
        head.append("\r\n")
        body = b"" if request.method == "HEAD" else answer.body
        self._transport.write("".join(head).encode("latin-1", "replace") + body)
        if not self._write_paused:
            self._expect(Wait.NEXT)
        if not keep_alive:
            self._close()

    # Refusals and ends

    def _refuse(self, status: int, message: str) -> None:
        """For what never becomes a request: answered, and the connection closed."""
        self._answerer.refused(status)
        self._write(HttpRequest(keep_alive=False), error_answer(status, message))

    def _refuse_body(self, length: int | None) -> None:
        """Answered at once, but read on for a while: a client that sends all of its body before it looks for an answer
        would else see a broken connection."""
        self._refused = True
        self._body = []
        self._answerer.refused(413)
        self._write(HttpRequest(), error_answer(413, too_long(length, self._max_body_bytes)))
        self._expect(Wait.DISCARD)

    def _expect(self, wait: Wait) -> None:
        self._wait = wait
        self._since = time.monotonic()

    def _close(self) -> None:
        self._closing = True
        self._transport.close()

    # What the worker calls

    def sweep(self, now: float) -> None:
        """Ends a wait that took too long."""
        if self._wait is Wait.ANSWER or self._pending is not None or now - self._since < self._wait.value:
            return
        if self._wait in (Wait.HEAD, Wait.BODY) and (self._head_bytes or not self._in_head):
            what = "head" if self._in_head else "body"
            self._refuse(408, f"the request's {what} did not come within {self._wait.value} s")
        elif self._wait is Wait.CLIENT_READS:
            self._transport.abort()
        else:
            self._close()

    def drain(self, *, close_idle: bool) -> None:
        """The next answer is the last. A connection that waits for a request may just be getting one: closing it would
        lose that, so it is closed only when told."""
        self._is_last_answer = True
        if close_idle and self._pending is None and self._in_head and not self._head_bytes:
            self._close()


@lru_cache(1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def too_long(length: int | None, most: int) -> str:
    body = "the body" if length is None else f"a body of {length} bytes"
    return f"{body} is too long: at most {most} bytes are taken (SERVING_MAX_BODY_BYTES)"
