"""One connection: bytes in, requests out to the application, answers back in their order.

Every wait has an end, which the worker's sweep looks at once a second: for a request's head, for its body, for a client
to read its answer, for the next request. Every size has a limit.
"""

import asyncio
import time
from collections import deque
from enum import Enum
from typing import cast

import httptools

from service.messages import Answer, error_answer
from service.server.answers import answer_bytes
from service.server.interface import Answerer, HttpRequest

MAX_HEAD_BYTES = 64 * 1024
MAX_PIPELINED = 64
HEAD_SECONDS = 15
BODY_SECONDS = 30  # without a single byte
WRITE_SECONDS = 60
KEEP_ALIVE_SECONDS = 75
DISCARD_SECONDS = 5


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
        # Once something is refused, no request is read any more; a body under way is read and thrown away.
        self._refused = False
        self._discards_body = False
        self._refusal: Answer | None = None
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
        self._body = []
        # It refers to this connection as this to it: the two, and a body, would stay until the collector comes.
        del self._parser

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._wait is Wait.NEXT:
                self._expect(Wait.HEAD)
            self._head_bytes += len(data)
        elif self._wait is Wait.BODY:
            self._since = time.monotonic()
        if self._refused and not self._discards_body:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # no upgrade is offered; the request is answered as it is
        except httptools.HttpParserError as error:
            if self._refused:
                self._end_discarding()
            elif not self._closing:
                self._refuse(400, f"Malformed request: this is not HTTP ({error})")
            return
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head is too long: at most {MAX_HEAD_BYTES} bytes are taken")

    def eof_received(self) -> bool:
        # A client may close its half and still wait for answers.
        self._is_last_answer = True
        return bool(self._waiting or self._pending or self._refusal)

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
        headers = self._request.headers
        name = name.lower()
        headers[name] = headers[name] + b"," + value if name in headers else value

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if self._refused:
            return
        headers = self._request.headers
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body_bytes:
            self._refuse(413, too_long(int(length), self._max_body_bytes), discards_body=True)
            return
        if self._pending is None:
            self._expect(Wait.BODY)
        if headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._refused:
            if self._body_bytes > 8 * self._max_body_bytes:
                self._end_discarding()
        elif self._body_bytes > self._max_body_bytes:
            self._refuse(413, too_long(None, self._max_body_bytes), discards_body=True)
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        self._in_head = True
        if self._refused:
            self._end_discarding()
            return
        # Not kept: a connection that waits for its next request must not hold the last one's body.
        request, self._request = self._request, HttpRequest()
        request.method = self._parser.get_method().decode()
        request.http_version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive()
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        if self._is_busy():
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

    def _is_busy(self) -> bool:
        return self._pending is not None or self._write_paused or bool(self._waiting)

    def _answer_waiting(self) -> None:
        while self._waiting and self._pending is None and not self._write_paused and not self._closing:
            self._answer(self._waiting.popleft())
        if self._closing:
            return
        if self._refusal and not self._is_busy():
            self._write_refusal(self._refusal)
        elif len(self._waiting) < MAX_PIPELINED:
            self._transport.resume_reading()

    def _write(self, request: HttpRequest, answer: Answer) -> None:
        is_last = self._is_last_answer and not self._waiting and not self._refusal
        keep_alive = request.keep_alive and not self._closing and not is_last
        self._transport.write(answer_bytes(request, answer, keep_alive=keep_alive))
        if not self._write_paused:
            self._expect(Wait.NEXT)
        if not keep_alive:
            self._close()

    # Refusals and ends

    def _refuse(self, status: int, message: str, *, discards_body: bool = False) -> None:
        """For what never becomes a request: answered after the requests before it, and the connection closed.

        A body is read on for a while: a client that sends all of it before it looks for an answer would else see a
        broken connection.
        """
        self._refused = True
        self._discards_body = discards_body
        self._body = []
        self._answerer.refused(status)
        self._refusal = error_answer(status, message)
        if not self._is_busy():
            self._write_refusal(self._refusal)

    def _write_refusal(self, refusal: Answer) -> None:
        self._refusal = None
        self._transport.write(answer_bytes(HttpRequest(), refusal, keep_alive=False))
        if self._discards_body:
            self._expect(Wait.DISCARD)
        else:
            self._close()

    def _end_discarding(self) -> None:
        self._discards_body = False
        if self._refusal is None:
            self._close()

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


def too_long(length: int | None, most: int) -> str:
    body = "the body" if length is None else f"a body of {length} bytes"
    return f"{body} is too long: at most {most} bytes are taken (SERVING_MAX_BODY_BYTES)"
