"""A connection's bytes as requests, head and body each of bounded size."""

from collections.abc import Mapping
from typing import Protocol

import httptools

from service.calls import Call
from service.messages import Answer, error_answer
from service.server.connections import BufferedBytes
from service.server.interface import HttpRequest

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100

_TOO_LONG = f"the %s too long: at most {MAX_HEAD_BYTES} bytes are taken"
_TOO_MANY_HEADERS = f"the request has too many headers: at most {MAX_HEADERS} are taken"


class RequestTaker(Protocol):
    """Told what was read."""

    def head_came(self, target: bytes, headers: Mapping[bytes, bytes]) -> Answer | None:
        """What to answer instead, whatever the body is; it is not kept then."""

    def request_came(self, request: HttpRequest) -> None:
        """Its body counts as buffered until the taker says otherwise."""

    def refuse(self, request: HttpRequest, reason: str, refusal: Answer) -> None:
        """`request`: as far as it came."""

    def all_is_discarded(self) -> None:
        """No more of a refused body needs to be read."""


class RequestReader:
    """Once something is refused, no request is read any more; a body under way is read and thrown away: a client that
    sends all of it before it looks for an answer would else see a broken connection."""

    def __init__(self, taker: RequestTaker, max_body_bytes: int, buffered: BufferedBytes) -> None:
        self._taker = taker
        self._max_body_bytes = max_body_bytes
        self._buffered = buffered
        self._parser = httptools.HttpRequestParser(self)
        self._begin()
        # Since the head began, or within a body since there was some of it: chunks' extensions, and trailers.
        self._head_bytes = 0
        self._refused = False
        self.is_within_request = False
        self.is_in_head = True
        self.discards_body = False

    def _begin(self) -> None:
        self._method = ""
        self._target = b""
        # Where header lines go; the first of them are the head's.
        self._lines: dict[bytes, bytes] = {}
        self._headers = self._lines
        self._repeated = 0
        self._body: bytes | bytearray = b""
        self.body_bytes = 0
        self._refusal: Answer | None = None

    def feed(self, data: bytes) -> None:
        if self._refused and not self.discards_body:
            return
        self._head_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(400, "malformed", f"Malformed request: this is not HTTP ({error})")
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            what = "request's head is" if self.is_in_head else "body's chunk extensions or trailers are"
            self._refuse(431, "head_too_large", _TOO_LONG % what)
        elif self._has_too_many_headers():
            self._refuse(431, "head_too_large", _TOO_MANY_HEADERS)

    def stop(self, *, discards_body: bool = False) -> HttpRequest:
        """The request as far as it came."""
        self._refused = True
        self.discards_body = discards_body
        self._drop_body()
        call = Call(self._headers, self.body_bytes)
        return HttpRequest(self._method, self._target, self._headers, keep_alive=False, call=call)

    def close(self) -> None:
        """The parser refers to this as this to it: the two would stay until the collector comes."""
        self._drop_body()
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
                if self._has_too_many_headers():
                    self._refuse(431, "head_too_large", _TOO_MANY_HEADERS)
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

    def on_message_begin(self) -> None:
        self.is_within_request = True

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._lines
        name = name.lower()
        # The parser takes off the blanks before it only.
        value = value.rstrip()
        if name not in headers:
            headers[name] = value
            return
        self._repeated += 1
        # Each takes a copy of all before it; who sends so many is refused in the end.
        if self._repeated <= MAX_HEADERS:
            headers[name] += b"," + value

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade():
            return  # it is read again
        self.is_in_head = False
        # With what came in the same piece behind the head.
        came = self._head_bytes
        self._head_bytes = 0
        self._method = self._parser.get_method().decode()
        if self._refused:
            return
        if came > MAX_HEAD_BYTES and self._is_head_too_long():
            self._refuse(431, "head_too_large", _TOO_LONG % "request's head is", discards_body=True)
            return
        if self._has_too_many_headers():
            self._refuse(431, "head_too_large", _TOO_MANY_HEADERS, discards_body=True)
            return
        headers = self._headers
        # A trailer is no header: a proxy in front has not looked at it.
        self._lines = {}
        self._repeated = 0
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
        self._refusal = self._taker.head_came(self._target, headers)

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        self._head_bytes = 0
        if self._refused:
            if self.body_bytes > 8 * self._max_body_bytes:
                self._end_discarding()
        elif self.body_bytes > self._max_body_bytes:
            self._refuse(413, "too_large", too_long(None, self._max_body_bytes), discards_body=True)
        elif self._refusal is not None:
            pass
        elif self._buffered.now + len(data) > self._buffered.most:
            self._refuse(503, "buffers_full", self._buffered.full_message(), discards_body=True)
        else:
            self._buffered.now += len(data)
            # Not a list: a body in chunks of one byte would take forty times its length.
            if isinstance(self._body, bytearray):
                self._body += data
            else:
                self._body = bytearray(self._body + data) if self._body else data

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self.is_in_head = True
        self.is_within_request = False
        self._head_bytes = 0
        if self._refused:
            self._end_discarding()
            return
        request = HttpRequest(
            self._method,
            self._target,
            self._headers,
            self._body if isinstance(self._body, bytes) else bytes(self._body),
            self._parser.get_http_version(),
            self._parser.should_keep_alive(),
            Call(self._headers, self.body_bytes),
            self._refusal,
        )
        # Not kept: a connection that waits for its next request must not hold the last one's body.
        self._begin()
        self._taker.request_came(request)

    def _has_too_many_headers(self) -> bool:
        return len(self._lines) + self._repeated > MAX_HEADERS

    def _is_head_too_long(self) -> bool:
        lines = sum(len(name) + len(value) for name, value in self._headers.items())
        return len(self._target) + lines > MAX_HEAD_BYTES

    def _refuse(self, status: int, reason: str, message: str, *, discards_body: bool = False) -> None:
        if self._refused:
            self._end_discarding()
            return
        headers = [("retry-after", "1")] if status == 503 else []
        self._taker.refuse(self.stop(discards_body=discards_body), reason, error_answer(status, message, *headers))

    def _end_discarding(self) -> None:
        self.discards_body = False
        self._taker.all_is_discarded()

    def _drop_body(self) -> None:
        self._buffered.now -= len(self._body)
        self._body = b""


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
