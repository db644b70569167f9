"""The parser: a connection's bytes as requests, head and body each of bounded size."""

import re
import sys
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from service.http import Request, Response, error_response
from service.inference.context import RequestContext

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100

_TOO_LONG = f"the request's head is too long: at most {MAX_HEAD_BYTES} bytes are taken"
_TOO_MANY_HEADERS = f"the request has too many headers: at most {MAX_HEADERS} are taken"

_VERSIONS = ("1.1", "1.0")
# A second one is no further value of the first (RFC 9110, 5.3). httptools sees to Content-Length.
_SINGLE_HEADERS = frozenset((b"content-type", b"host"))
# Of a host and its port (RFC 3986, 3.2): of an address in brackets, too, or empty.
_HOST_CHARACTERS = b"-._~%!$&'()*+,;=:[]0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# In heads that httptools has taken.
_TRANSFER_ENCODING = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


class _ChunkedBodyFollows(Exception):
    """Stops httptools behind the head."""


class RequestHandler(Protocol):
    """What a parser calls."""

    def on_head(self, request: Request) -> Response | None:
        """The request's head is read. Returns a rejection, if any; the body is not kept then."""

    def on_request(self, request: Request) -> None:
        """The request is complete. Its body counts as buffered until the handler says otherwise."""

    def on_invalid(self, request: Request, reason: str, rejection: Response) -> None:
        """The request, as far as it was read, is rejected, and nothing behind it is read."""

    def on_discarded(self) -> None:
        """No more of a rejected body needs to be read."""

    def on_http2(self, data: bytes) -> bool:
        """The client speaks HTTP/2, and these are its first bytes. False where that is not taken here."""


class RequestParser:
    """Parses the requests of one connection.

    Once a request is invalid, no more are read. A body under way is read and thrown away: a client that sends all of it
    before it reads a response would else see a broken connection.
    """

    def __init__(self, handler: RequestHandler, max_body_bytes: int, buffered: "BufferedBytes") -> None:
        self._handler = handler
        self._max_body_bytes = max_body_bytes
        self._buffered = buffered
        self._parser = httptools.HttpRequestParser(self)
        self._chunks: ChunkedBody | None = None
        self._begin()
        # Since the head began, or within a body since there was some of it.
        self._head_bytes = 0
        # What came since the head began, and before that of the body or the requests in the same piece; kept while the
        # head is not there. And how many of its bytes are of a body.
        self._begun = b""
        self._begun_body_bytes = 0
        # The last one that was looked at and taken.
        self._host = b""
        self._is_stopped = False
        self.is_within_request = False
        self.is_in_head = True
        self.discards_body = False

    def _begin(self) -> None:
        self.method = ""
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeated = 0
        self._second: bytes | None = None
        self._body: bytes | bytearray = b""
        self._length = 0
        self.body_bytes = 0
        self._request: Request | None = None
        self.http_version = "1.1"

    def feed(self, data: bytes) -> None:
        if self._is_stopped and not self.discards_body:
            return
        if not self._begun:
            self._begun_body_bytes = self._length - self.body_bytes
        self._head_bytes += len(data)
        try:
            self._read(data)
        except httptools.HttpParserError as error:
            if "PRI" in str(error) and self._handler.on_http2(self._begun + data):
                return
            if "HTTP version" in str(error) or "PRI" in str(error):
                self._reject_version()
            else:
                self._reject_malformed(f"this is not HTTP ({error})")
            return
        except InvalidChunk as error:
            self._reject_malformed(str(error))
            return
        except TooLongFraming as error:
            self._reject(431, "head_too_large", str(error))
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._reject(431, "head_too_large", _TOO_LONG)
        elif self._head_bytes and self._has_too_many_headers():
            self._reject(431, "head_too_large", _TOO_MANY_HEADERS)

    def stop(self, *, discards_body: bool = False) -> Request:
        """The request as far as it came."""
        self._is_stopped = True
        self.discards_body = discards_body
        self._drop_body()
        request = self._request or Request(self.method, self._target, self._headers, RequestContext(self._headers))
        request.keep_alive = False
        request.context.arrive(self.body_bytes)
        return request

    def close(self) -> None:
        """The parser refers to this as this to it: the two would stay until the collector comes."""
        self._drop_body()
        self._chunks = None
        self._request = None
        del self._parser, self._handler

    def _read(self, data: bytes) -> None:
        position = 0
        while not self._is_stopped or self.discards_body:
            if self._chunks is not None:
                position = self._chunks.feed(data, position)
                self._head_bytes = len(data) - position
                if not self._chunks.is_complete:
                    return
                self._chunks = None
                self.on_message_complete()
                if position == len(data):
                    return
                self._begun_body_bytes = 0
                continue
            try:
                self._parser.feed_data(memoryview(data)[position:] if position else data)
            except httptools.HttpParserUpgrade as upgrade:
                # Nothing is offered to upgrade to, and httptools leaves out the body of who asks for it, which would be
                # taken for the next request. So it is read again as the request that it is without.
                if self._parser.get_method() == b"CONNECT":
                    self._reject_malformed("this is no proxy, and CONNECT is not taken")
                    return
                if self._has_too_many_headers():
                    self._reject(431, "head_too_large", _TOO_MANY_HEADERS)
                    return
                data = self._head_without_upgrade() + data[position + upgrade.args[0] :]
                second = self._second
                self._begin()
                self._second = second
                position = 0
            except httptools.HttpParserCallbackError:
                if self._chunks is None:
                    raise
                position = self._end_of_head(data, position)
            else:
                if self.is_within_request and self.is_in_head:
                    self._begun += data[position:]
                elif self._begun:
                    self._begun = b""
                return
            self._begun, self._begun_body_bytes = b"", 0
            self._parser = httptools.HttpRequestParser(self)

    def _head_without_upgrade(self) -> bytes:
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self._target, version)]
        lines += [b"%s: %s" % header for header in self._headers.items() if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _end_of_head(self, data: bytes, position: int) -> int:
        """Of the first head with chunks behind it, after which the parser stopped; it does not say where that was."""
        before = len(self._begun)
        text, start = (self._begun + data, 0) if before else (data, position)
        start += self._begun_body_bytes
        while True:
            while text[start] in b"\r\n":
                start += 1
            end = text.index(b"\r\n\r\n", start)
            if _TRANSFER_ENCODING.search(text, start, end):
                return end + 4 - before
            length = _CONTENT_LENGTH.search(text, start, end)
            start = end + 4 + (int(length[1]) if length else 0)

    # Called by httptools

    def on_message_begin(self) -> None:
        self.is_within_request = True

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        name = name.lower()
        # The parser takes off the blanks before it only.
        value = value.rstrip()
        if name not in headers:
            headers[name] = value
            return
        self._repeated += 1
        if name in _SINGLE_HEADERS:
            self._second = name
        # Each takes a copy of all before it; who sends so many is refused in the end.
        if self._repeated <= MAX_HEADERS:
            headers[name] += b"," + value

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            return  # it is read again
        self.is_in_head = False
        # With what came in the same piece behind the head.
        came = self._head_bytes
        self._head_bytes = 0
        self.method = parser.get_method().decode()
        if self._is_stopped:
            return
        if came > MAX_HEAD_BYTES and self._is_head_too_long():
            self._reject(431, "head_too_large", _TOO_LONG, discards_body=True)
            return
        if self._has_too_many_headers():
            self._reject(431, "head_too_large", _TOO_MANY_HEADERS, discards_body=True)
            return
        headers = self._headers
        self.http_version = parser.get_http_version()
        if (
            self._second is not None or self.http_version != "1.1" or headers.get(b"host") != self._host
        ) and self._has_invalid_head():
            return
        if not self._target.startswith(b"/"):
            target = origin_form(self._target, self.method)
            if target is None:
                shown = self._target[:100].decode("latin-1")
                self._reject_malformed(f"the target {shown!r} is neither a path nor a URL with one")
                return
            self._target = target
        length = headers.get(b"content-length")
        coding = headers.get(b"transfer-encoding")
        if coding is not None:
            if self.http_version != "1.1":
                self._reject_malformed("Transfer-Encoding is not for HTTP/1.0; expected Content-Length")
                return
            if coding.lower() != b"chunked":
                message = f"Transfer-Encoding {coding.decode('latin-1')[:40]!r} is not taken; expected chunked"
                self._reject(501, "malformed", message)
                return
        elif length is not None:
            self._length = int(length)
            if self._length > self._max_body_bytes:
                self._reject(413, "too_large", too_long(self._length, self._max_body_bytes), discards_body=True)
                return
        request = self._request = Request(
            self.method,
            self._target,
            headers,
            RequestContext(headers),
            http_version=self.http_version,
            keep_alive=parser.should_keep_alive(),
            has_body=coding is not None or self._length > 0,
        )
        request.rejection = self._handler.on_head(request)
        if coding is not None:
            self._chunks = ChunkedBody(self.on_body)
            raise _ChunkedBodyFollows

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        self._head_bytes = 0
        if self._is_stopped:
            if self.body_bytes > 8 * self._max_body_bytes:
                self._end_discarding()
        elif self.body_bytes > self._max_body_bytes:
            self._reject(413, "too_large", too_long(None, self._max_body_bytes), discards_body=True)
        elif self._request is None or self._request.rejection is not None:
            pass
        elif self._buffered.now + len(data) > self._buffered.most:
            self._reject(503, "buffers_full", self._buffered.full_message(), discards_body=True)
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
        if self._is_stopped:
            self._end_discarding()
            return
        request = cast(Request, self._request)  # made when the head was complete
        request.body = self._body if isinstance(self._body, bytes) else bytes(self._body)
        request.context.arrive(self.body_bytes)
        # Not kept: a connection that waits for its next request must not hold the last one's body.
        self._begin()
        self._handler.on_request(request)

    def _has_too_many_headers(self) -> bool:
        return len(self._headers) + self._repeated > MAX_HEADERS

    def _is_head_too_long(self) -> bool:
        lines = sum(len(name) + len(value) for name, value in self._headers.items())
        return len(self._target) + lines > MAX_HEAD_BYTES

    def _has_invalid_head(self) -> bool:
        """Once it has been, for its version or its Host."""
        host = self._headers.get(b"host")
        if self.http_version not in _VERSIONS:
            self._reject_version()
        elif self._second is not None:
            self._reject_malformed(f"{self._second.decode().title()} comes twice; expected it once")
        elif host is None:
            if self.http_version == "1.1":
                self._reject_malformed("there is no Host; HTTP/1.1 expects one")
        elif host.translate(None, _HOST_CHARACTERS):
            self._reject_malformed(f"Host {host.decode('latin-1')[:100]!r} is no host with a port")
        else:
            self._host = host
        return self._is_stopped

    def _reject_malformed(self, what: str) -> None:
        self._reject(400, "malformed", f"Malformed request: {what}")

    def _reject_version(self) -> None:
        self._reject(505, "malformed", "this version of HTTP is not taken; expected HTTP/1.1 or HTTP/1.0")

    def _reject(self, status: int, reason: str, message: str, *, discards_body: bool = False) -> None:
        if self._is_stopped:
            self._end_discarding()
            return
        headers = [("retry-after", "1")] if status == 503 else []
        self._handler.on_invalid(
            self.stop(discards_body=discards_body), reason, error_response(status, message, *headers)
        )

    def _end_discarding(self) -> None:
        self.discards_body = False
        self._handler.on_discarded()

    def _drop_body(self) -> None:
        self._buffered.now -= len(self._body)
        self._body = b""


class BufferedBytes:
    """The bytes that a worker's connections hold: bodies of requests, and responses that clients do not read."""

    __slots__ = ("most", "now")

    def __init__(self, most: int = sys.maxsize) -> None:
        self.most = most
        self.now = 0

    def full_message(self) -> str:
        return (
            f"{self.now} bytes of requests and answers wait already; at most {self.most} may "
            "(SERVING_MAX_BUFFERED_BYTES)"
        )


# Of one chunk's line, and of all trailers together.
MAX_LINE_BYTES = 64 * 1024
MAX_TRAILERS = 100
MAX_CHUNK_BYTES = 2**64 - 1

# What frames, routes, authenticates or describes a request stands in its head, where everybody on the way looked at it
# (RFC 9110, 6.5.1).
FORBIDDEN_TRAILERS = frozenset(
    (
        *(b"authorization", b"content-encoding", b"content-length", b"content-range", b"expect", b"host"),
        *(b"inference-header-content-length", b"te", b"trailer", b"transfer-encoding", b"x-api-key"),
    )
)

# Possessive throughout: no line takes longer than its length.
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_EXTENSION = rb"[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?+" % (_TOKEN, _TOKEN, _QUOTED)
_CHUNK = re.compile(rb"([0-9A-Fa-f]++)(?:%b)*+\r\n" % _EXTENSION)
_TRAILER = re.compile(rb"(%b):[\t -~\x80-\xff]*+" % _TOKEN)


class InvalidChunk(ValueError):
    """Others could read the body otherwise; the message says where."""


class TooLongFraming(ValueError):
    """What stands between and behind the chunks is more than is taken."""


class ChunkedBody:
    """A body in chunks, read piece by piece. (RFC 9112, 7.1) Calls `on_data` with what is in the chunks.

    httptools has a reader of its own, which takes no blanks in chunk extensions and hands over trailers as headers.
    """

    __slots__ = ("_left", "_line", "_on_data", "_read", "_trailer_bytes", "_trailers", "is_complete")

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        self._on_data = on_data
        # Not bound: it would refer to this as this to it.
        self._read = ChunkedBody._read_size
        # A line as far as it came.
        self._line = b""
        # Of the chunk.
        self._left = 0
        self._trailers = self._trailer_bytes = 0
        self.is_complete = False

    def feed(self, data: bytes, position: int = 0) -> int:
        """Reads from that position on. Where what belongs to the body ends: with the data, until it is complete.

        Raises:
            InvalidChunk
            TooLongFraming
        """
        while position < len(data) and not self.is_complete:
            position = self._read(self, data, position)
        return position

    def _read_size(self, data: bytes, position: int) -> int:
        if not self._line:
            position = self._read_whole_chunks(data, position)
            if self.is_complete or position == len(data):
                return position
        line, position = self._take_line(data, position, MAX_LINE_BYTES)
        if line is None:
            return position
        match = _CHUNK.fullmatch(line + b"\r\n")
        if match is None or (size := int(match[1], 16)) > MAX_CHUNK_BYTES:
            raise InvalidChunk("a chunk begins with what is no size with extensions")
        self._left = size
        self._read = ChunkedBody._read_data if size else ChunkedBody._read_trailer
        return position

    def _read_whole_chunks(self, data: bytes, position: int) -> int:
        """Those that are all there, at once: a body may be in chunks of a byte."""
        parts = []
        while (line := _CHUNK.match(data, position)) is not None:
            begin = line.end()
            end = begin + int(line[1], 16)
            if begin - position > MAX_LINE_BYTES or not data.startswith(b"\r\n", end):
                break
            position = end + 2
            if end == begin:
                # The last one, without trailers.
                self.is_complete = True
                break
            parts.append(data[begin:end])
        if parts:
            self._on_data(b"".join(parts))
        return position

    def _read_data(self, data: bytes, position: int) -> int:
        end = min(position + self._left, len(data))
        self._left -= end - position
        if not self._left:
            self._read = ChunkedBody._read_end_of_data
        self._on_data(data[position:end])
        return end

    def _read_end_of_data(self, data: bytes, position: int) -> int:
        end = self._line + data[position : position + 2 - len(self._line)]
        position += len(end) - len(self._line)
        if not b"\r\n".startswith(end):
            raise InvalidChunk("a chunk is longer than it says")
        self._line = end
        if len(end) == 2:
            self._line = b""
            self._read = ChunkedBody._read_size
        return position

    def _read_trailer(self, data: bytes, position: int) -> int:
        line, position = self._take_line(data, position, MAX_LINE_BYTES - self._trailer_bytes)
        if line is None:
            return position
        if not line:
            self.is_complete = True
            return position
        self._trailers += 1
        self._trailer_bytes += len(line)
        if self._trailers > MAX_TRAILERS:
            raise TooLongFraming(f"the body has too many trailers: at most {MAX_TRAILERS} are taken")
        match = _TRAILER.fullmatch(line)
        if match is None:
            raise InvalidChunk("a trailer is no name with a value")
        if match[1].lower() in FORBIDDEN_TRAILERS:
            raise InvalidChunk(f"{match[1].decode()} is a trailer; expected it in the head")
        return position

    def _take_line(self, data: bytes, position: int, max_bytes: int) -> tuple[bytes | None, int]:
        """The line without its end; None where that has not come."""
        # The end may have come in two pieces.
        is_split = self._line.endswith(b"\r") and data.startswith(b"\n", position)
        end = position - 1 if is_split else data.find(b"\r\n", position)
        length = len(self._line) + (end if end >= 0 or is_split else len(data)) - position
        if length > max_bytes:
            raise TooLongFraming(
                f"the body's chunk extensions or trailers are too long: at most {MAX_LINE_BYTES} bytes are taken"
            )
        if is_split:
            line, self._line = self._line[:-1], b""
            return line, position + 1
        if end < 0:
            self._line += data[position:]
            return None, len(data)
        line, self._line = self._line + data[position:end], b""
        return line, end + 2


def too_long(length: int | None, max_bytes: int) -> str:
    body = "the body" if length is None else f"a body of {length} bytes"
    return f"{body} is too long: at most {max_bytes} bytes are taken (SERVING_MAX_BODY_BYTES)"


def origin_form(target: bytes, method: str) -> bytes | None:
    """Path and query of a target in absolute form, which every server has to take (RFC 9112, 3.2.2). None for what is
    no target."""
    if target == b"*":
        return target if method == "OPTIONS" else None
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        return None
    if not url.host:
        return None
    return (url.path or b"/") + (b"?" + url.query if url.query is not None else b"")
