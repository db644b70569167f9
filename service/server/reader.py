"""A connection's bytes as requests, head and body each of bounded size."""

from collections.abc import Mapping
from typing import Protocol

import httptools

from service.calls import Call
from service.messages import Answer, error_answer
from service.server.interface import HttpRequest

MAX_HEAD_BYTES = 64 * 1024


class RequestTaker(Protocol):
    """Told what was read."""

    def head_came(self, headers: Mapping[bytes, bytes]) -> None: ...

    def request_came(self, request: HttpRequest) -> None: ...

    def refuse(self, request: HttpRequest, reason: str, refusal: Answer) -> None:
        """`request`: as far as it came."""

    def all_is_discarded(self) -> None:
        """No more of a refused body needs to be read."""


class RequestReader:
    """Once something is refused, no request is read any more; a body under way is read and thrown away: a client that
    sends all of it before it looks for an answer would else see a broken connection."""

    def __init__(self, taker: RequestTaker, max_body_bytes: int) -> None:
        self._taker = taker
        self._max_body_bytes = max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._begin()
        # Since the head began, or within a body since there was some of it: chunks' extensions, and trailers.
        self._head_bytes = 0
        self._refused = False
        self.is_in_head = True
        self.discards_body = False

    def _begin(self) -> None:
        self._method = ""
        self._target = b""
        # Where header lines go; the first of them are the head's.
        self._lines: dict[bytes, bytes] = {}
        self._headers = self._lines
        self._body: list[bytes] = []
        self._body_bytes = 0

    @property
    def is_within_request(self) -> bool:
        return not self.is_in_head or self._head_bytes > 0

    def feed(self, data: bytes) -> None:
        self._head_bytes += len(data)
        if self._refused and not self.discards_body:
            return
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            if self._refused:
                self._end_discarding()
            else:
                self._refuse(400, "malformed", f"Malformed request: this is not HTTP ({error})")
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            what = "request's head is" if self.is_in_head else "body's chunk extensions or trailers are"
            self._refuse(431, "head_too_large", f"the {what} too long: at most {MAX_HEAD_BYTES} bytes are taken")

    def stop(self, *, discards_body: bool = False) -> HttpRequest:
        """The request as far as it came."""
        self._refused = True
        self.discards_body = discards_body
        self._body = []
        call = Call(self._headers, self._body_bytes)
        return HttpRequest(self._method, self._target, self._headers, keep_alive=False, call=call)

    def close(self) -> None:
        """The parser refers to this as this to it: the two, and a body, would stay until the collector comes."""
        del self._parser, self._taker

    def _parse(self, data: "bytes | memoryview") -> None:
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # Nothing is offered to upgrade to, and httptools leaves out the body of who asks for it, which would be
                # taken for the next request. So it is read again as the request that it is without.
                if self._parser.get_method() == b"CONNECT":
                    self._refuse(400, "malformed", "Malformed request: this is no proxy, and CONNECT is not taken")
                    return
                data = memoryview(data)[upgrade.args[0] :]
                head = self._head_without_upgrade()
                self._begin()
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(head)

    def _head_without_upgrade(self) -> bytes:
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self._target, version)]
        lines += [b"%s: %s" % header for header in self._headers.items() if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # What httptools calls

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._lines
        name = name.lower()
        headers[name] = headers[name] + b"," + value if name in headers else value

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade():
            return  # it is read again
        self.is_in_head = False
        self._head_bytes = 0
        self._method = self._parser.get_method().decode()
        headers = self._headers
        # A trailer is no header: a proxy in front has not looked at it.
        self._lines = {}
        if self._refused:
            return
        if not self._target.startswith(b"/"):
            self._target = origin_form(self._target)
        length = headers.get(b"content-length")
        if length is None:
            coding = headers.get(b"transfer-encoding", b"chunked")
            if coding.lower() != b"chunked":
                message = f"Transfer-Encoding {coding.decode('latin-1')[:40]!r} is not taken; expected chunked"
                self._refuse(501, "malformed", message)
                return
        elif length.isdigit() and int(length) > self._max_body_bytes:
            self._refuse(413, "too_large", too_long(int(length), self._max_body_bytes), discards_body=True)
            return
        self._taker.head_came(headers)

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        self._head_bytes = 0
        if self._refused:
            if self._body_bytes > 8 * self._max_body_bytes:
                self._end_discarding()
        elif self._body_bytes > self._max_body_bytes:
            self._refuse(413, "too_large", too_long(None, self._max_body_bytes), discards_body=True)
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self.is_in_head = True
        self._head_bytes = 0
        if self._refused:
            self._end_discarding()
            return
        request = HttpRequest(
            self._method,
            self._target,
            self._headers,
            self._body[0] if len(self._body) == 1 else b"".join(self._body),
            self._parser.get_http_version(),
            self._parser.should_keep_alive(),
            Call(self._headers, self._body_bytes),
        )
        # Not kept: a connection that waits for its next request must not hold the last one's body.
        self._begin()
        self._taker.request_came(request)

    def _refuse(self, status: int, reason: str, message: str, *, discards_body: bool = False) -> None:
        self._taker.refuse(self.stop(discards_body=discards_body), reason, error_answer(status, message))

    def _end_discarding(self) -> None:
        self.discards_body = False
        self._taker.all_is_discarded()


def too_long(length: int | None, most: int) -> str:
    body = "the body" if length is None else f"a body of {length} bytes"
    return f"{body} is too long: at most {most} bytes are taken (SERVING_MAX_BODY_BYTES)"


def origin_form(target: bytes) -> bytes:
    """Path and query of a target in absolute form, which every server has to take (RFC 9112, 3.2.2)."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        return target
    return (url.path or b"/") + (b"?" + url.query if url.query is not None else b"")
