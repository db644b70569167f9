"""A connection's bytes as requests, head and body each of bounded size."""

from typing import Protocol

import httptools

from service.messages import Answer, error_answer
from service.server.interface import HttpRequest

MAX_HEAD_BYTES = 64 * 1024


class RequestTaker(Protocol):
    """Told what was read."""

    def head_came(self, request: HttpRequest) -> None: ...

    def request_came(self, request: HttpRequest) -> None: ...

    def refuse(self, refusal: Answer) -> None:
        """For what never becomes a request."""

    def all_is_discarded(self) -> None:
        """No more of a refused body needs to be read."""


class RequestReader:
    """Once something is refused, no request is read any more; a body under way is read and thrown away: a client that
    sends all of it before it looks for an answer would else see a broken connection."""

    def __init__(self, taker: RequestTaker, max_body_bytes: int) -> None:
        self._taker = taker
        self._max_body_bytes = max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._request = HttpRequest()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._refused = False
        self.is_in_head = True
        self.discards_body = False

    @property
    def is_within_request(self) -> bool:
        return not self.is_in_head or self._head_bytes > 0

    def feed(self, data: bytes) -> None:
        if self.is_in_head:
            self._head_bytes += len(data)
        if self._refused and not self.discards_body:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # no upgrade is offered; the request is answered as it is
        except httptools.HttpParserError as error:
            if self._refused:
                self._end_discarding()
            else:
                self._refuse(400, f"Malformed request: this is not HTTP ({error})")
            return
        if self.is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head is too long: at most {MAX_HEAD_BYTES} bytes are taken")

    def stop(self, *, discards_body: bool = False) -> None:
        self._refused = True
        self.discards_body = discards_body
        self._body = []

    def close(self) -> None:
        """The parser refers to this as this to it: the two, and a body, would stay until the collector comes."""
        del self._parser, self._taker

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
        self.is_in_head = False
        self._head_bytes = 0
        if self._refused:
            return
        length = self._request.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body_bytes:
            self._refuse(413, too_long(int(length), self._max_body_bytes), discards_body=True)
        else:
            self._taker.head_came(self._request)

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
        self.is_in_head = True
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
        self._taker.request_came(request)

    def _refuse(self, status: int, message: str, *, discards_body: bool = False) -> None:
        self.stop(discards_body=discards_body)
        self._taker.refuse(error_answer(status, message))

    def _end_discarding(self) -> None:
        self.discards_body = False
        self._taker.all_is_discarded()


def too_long(length: int | None, most: int) -> str:
    body = "the body" if length is None else f"a body of {length} bytes"
    return f"{body} is too long: at most {most} bytes are taken (SERVING_MAX_BODY_BYTES)"
