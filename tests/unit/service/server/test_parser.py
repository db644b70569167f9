"""What is parsed as a request, and where it ends: a proxy in front must not see another one there."""

import asyncio
import re
import tracemalloc
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http import Request, Response
from service.server.connection import Connections
from service.server.parser import MAX_HEAD_BYTES, MAX_HEADERS, BufferedBytes, RequestParser
from tests.unit.service.mutations import mutated
from tests.unit.service.server.clients import Client, post

POST = b"POST /first HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


class Handler:
    def __init__(self) -> None:
        self.heads: list[Mapping[bytes, bytes]] = []
        self.requests: list[Request] = []
        self.rejections: list[tuple[int, str, bytes]] = []

    def on_head(self, request: Request) -> None:
        self.heads.append(request.headers)

    def on_request(self, request: Request) -> None:
        self.requests.append(request)

    def on_invalid(self, _request: Request, reason: str, rejection: Response) -> None:
        self.rejections.append((rejection.status, reason, rejection.body))

    def on_discarded(self) -> None:
        pass

    def on_http2(self, data: bytes) -> bool:
        return False

    @property
    def bodies(self) -> list[tuple[bytes, bytes]]:
        """By target."""
        return [(request.target, request.body) for request in self.requests]


def parse(data: bytes, size: int | None = None) -> Handler:
    """In pieces of so many bytes."""
    handler = Handler()
    parser = RequestParser(handler, 1_000_000, BufferedBytes())
    for start in range(0, len(data), size or len(data)):
        parser.feed(data[start : start + (size or len(data))])
    return handler


# Invalid requests: others might read another end, or another target.

HOSTED = b"GET / HTTP/1.1\r\nHost: "
# Templates, and what stands in for %b, with | between.
INVALID = {
    POST + b"%b\r\n\r\n1\r\na\r\n0\r\n\r\n": (
        b"Content-Length: 1, 1|Content-Length: +1|Content-Length: -1|Content-Length: 0x1|Content-Length: 1 1|"
        b"Content-Length:|Content-Length: 18446744073709551617|Content-Length : 1|"
        b"Content-Length: 1\r\nContent-Length: 1|"
        b"Content-Type: image/png\r\nContent-Type: text/html\r\nContent-Length: 1|"
        b"Content-Type: image/png\r\nContent-Type: image/png\r\nContent-Length: 1|"
        b"Content-Length: 1\r\nTransfer-Encoding: chunked|Transfer-Encoding: chunked\r\nContent-Length: 1|"
        b"Transfer-Encoding: identity\r\nContent-Length: 1|Transfer-Encoding : chunked|Transfer-Encoding:\x0bchunked|"
        b"Transfer-Encoding:\r\n chunked|Transfer-Encoding: chunked, chunked|Transfer-Encoding: chunked, identity"
    ),
    POST + b"%bContent-Length: 0\r\n\r\n": (
        b"A: b\r\n c\r\n|A: b\n|A: b\r|A: b\r\n\r|A: b\x00c\r\n|A\x00: b\r\n|A B: b\r\n|: b\r\n"
    ),
    b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n": b"/a b|/a\x00b|\\a|*|http:///a|x:443|a/b|s://]x/:|/\xc3\xa9",
    HOSTED + b"%b\r\n\r\n": b"x/y|x y|user@x|x\r\nhost: x|x\r\nHost: y\r\n" + UPGRADE.rstrip(),
    b"%b\r\n\r\n": (
        b"OPTIONS *a HTTP/1.1\r\nHost: x|CONNECT x:80 HTTP/1.1\r\nHost: x:80|-CUSTOM / HTTP/1.1\r\nHost: x|"
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443|PROXY TCP4 192.0.2.1 192.0.2.2 80 80|GET / HTTP/1.1\r\nA: b|"
        b"GET / HTTP/1.0\r\nHost: x\r\nHost: y|GET / HTTP/1.1\r\nHost x|GET / HTTP/111\r\nHost: x|\x16\x03\x01|nonsense"
    ),
    b"POST / HTTP/1.0\r\nTransfer-Encoding: %b\r\n\r\n1\r\na\r\n0\r\n\r\n": b"chunked",
    CHUNKED + b"%b\r\n0\r\n\r\n": (
        b"1;a\nb\r\na|1\na|1\r\na\n0|1\r\naa|0x1\r\na|+1\r\na|-1\r\na|1 \r\na| 1\r\na|;a\r\na|\r\na|"
        b'1_0\r\naaaaaaaaaaaaaaaa|1;\r\na|1;a b\r\na|1;a="b\r\na|1;a\rb\r\na|10000000000000001\r\na'
    ),
    CHUNKED + b"1\r\na\r\n0\r\nA: b\r\n%b\r\n\r\n": (
        b"Content-Length: 1|TRANSFER-ENCODING: 1|host: 1|Authorization: 1|X-API-Key: 1|TE: 1| c|A : b|A: b\x00c"
    ),
}
VERSIONS = b"/|/ HTTP/0.9|/ HTTP/1.2\r\nHost: x|/ HTTP/2.0\r\nHost: x|/ HTTP/9.9\r\nHost: x".split(b"|")
CODINGS = b'identity|identity, chunked|gzip, chunked|gzip\r\nTransfer-Encoding: chunked|xchunked|"chunked"'.split(b"|")
CODED = POST + b"Transfer-Encoding: %b\r\n\r\n1\r\na\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        *(
            (template % part, 400, b"Malformed request: ")
            for template, parts in INVALID.items()
            for part in parts.split(b"|")
        ),
        *((b"GET %b\r\n\r\n" % version, 505, b"expected HTTP/1.1 or HTTP/1.0") for version in VERSIONS),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, b"expected HTTP/1.1 or HTTP/1.0"),
        *((CODED % coding, 501, b"expected chunked") for coding in CODINGS),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_invalid_request_is_rejected_and_nothing_behind_it_is_read(
    request_: bytes, status: int, message: bytes, size: int | None
) -> None:
    handler = parse(request_ + NEXT, size)
    ((found, reason, body),) = handler.rejections
    assert (found, reason, handler.requests) == (status, "malformed", [])
    assert message in body


# Valid ones


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (POST + b"Content_Length: 1\r\n\r\n", b""),
        (POST + b"Content-Length: 1\r\n\r\na", b"a"),
        (POST + b"Transfer-Encoding:\tCHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a"),
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"\r\n" + POST + b"Content-Length: 0\r\n\r\n", b""),
        (POST + b"A: " + b"b" * 9_000 + b"\r\n\r\n", b""),
        (POST + b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n", b""),
        # Another request in the body of one that offers an upgrade.
        (POST + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT, NEXT),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_request_ends_where_it_says(request_: bytes, body: bytes, size: int | None) -> None:
    assert parse(request_ + NEXT, size).bodies == [(b"/first", body), (b"/next", b"")]


@pytest.mark.parametrize(
    "line",
    [b"5;a=b", b"5; a", b"5 ;a", b"5\t;\ta", b"5;a = b", b"5; a; b=c", b'5;a="b; c"', b'5 ; a = "b\\"c" ; d', b"0005"],
)
@pytest.mark.parametrize("size", [None, 1, 3])
def test_chunk_extensions(line: bytes, size: int | None) -> None:
    handler = parse(CHUNKED + line + b"\r\na\r\nbc\r\n1\r\nd\r\n000;e\r\nChecksum: 1\r\n\r\n" + NEXT, size)
    assert handler.bodies == [(b"/first", b"a\r\nbcd"), (b"/next", b"")]


def test_headers_lose_blanks_and_trailers_are_none() -> None:
    handler = parse(CHUNKED + b"1\r\na\r\n0\r\nX-Request-ID: theirs\r\nChecksum: 1\r\n\r\n" + NEXT)
    assert handler.heads == [{b"host": b"x", b"transfer-encoding": b"chunked"}, {b"host": b"x"}]
    (head,) = parse(b"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: \t a b \t \r\nX-Empty: \r\n\r\n").heads
    assert (head[b"x-api-key"], head[b"x-empty"]) == (b"a b", b"")


@pytest.mark.parametrize("host", [b"x", b"", b"x:80", b"[::1]:80", b"a_b.c", b"caf%C3%A9"])
def test_host(host: bytes) -> None:
    assert len(parse(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").requests) == 1


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://x/v2/health/live?a=b", b"/v2/health/live?a=b"),
        (b"HTTP://user@x:80/a", b"/a"),
        (b"http://x", b"/"),
        (b"http://x?a", b"/?a"),
        (b"http://[::1]:8080/a", b"/a"),
        *((target, target) for target in (b"/a?b=http://x/c", b"//x/a", b"*")),
    ],
)
def test_target_in_absolute_form(target: bytes, expected: bytes) -> None:
    (request,) = parse(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: y\r\n\r\n").requests
    assert request.target == expected


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 4\r\n\r\nbody", b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_upgrade_is_ignored(protocol: bytes, framing: bytes, size: int | None) -> None:
    """Java's own HTTP client offers h2c with every request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: a\r\n" % protocol
    request = POST + offer + framing
    handler = parse(request + request + NEXT, size)
    assert handler.bodies == [(b"/first", b"body"), (b"/first", b"body"), (b"/next", b"")]
    assert handler.heads == [request.headers for request in handler.requests]
    assert [request.method for request in handler.requests] == ["POST", "POST", "GET"]
    assert handler.requests[0].headers[b"http2-settings"] == b"a"


# Sizes

LONG = b"a" * 70_000
SAME, NAMES = b"same: x\r\n" * (MAX_HEADERS + 1), b"".join(b"name%d: x\r\n" % each for each in range(MAX_HEADERS + 1))
TOO_LONG = b"the request's head is too long: at most 65536 bytes are taken"
TOO_MANY = b"too many headers: at most 100 are taken"
TOO_LONG_FRAMING = b"chunk extensions or trailers are too long"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"GET /" + LONG, TOO_LONG),
        (POST + b"A: " + LONG, TOO_LONG),
        (b"POST /" + LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n", TOO_LONG),
        (POST + b"A: " + LONG + b"\r\n\r\n", TOO_LONG),
        (POST + b"A: " + LONG + b"\r\nContent-Length: 4\r\n\r\nbody", TOO_LONG),
        *((POST + names + b"Content-Length: 2\r\n\r\nxy", TOO_MANY) for names in (SAME, NAMES)),
        *((POST + names + end, TOO_MANY) for names in (SAME, NAMES) for end in (b"", UPGRADE + b"\r\n")),
        (CHUNKED + b"1\r\na\r\n1;" + b"a" * 2_000_000, TOO_LONG_FRAMING),
        (CHUNKED + b"1\r\na\r\n0\r\nA: " + b"a" * 2_000_000, TOO_LONG_FRAMING),
        (CHUNKED + b"1\r\na\r\n0\r\n" + b"A: b\r\n" * 101 + b"\r\n", b"too many trailers: at most 100 are taken"),
    ],
    ids=[
        *("endless target", "endless header", "target", "header", "header and body", "one name", "names"),
        *("one name, endless", "one name, upgrade", "names, endless", "names, upgrade"),
        *("chunk extension", "trailer", "trailers"),
    ],
)
@pytest.mark.parametrize("size", [None, 4096])
def test_too_long_head_or_framing_is_431(sent: bytes, message: bytes, size: int | None) -> None:
    ((status, reason, body),) = parse(sent, size).rejections
    assert (status, reason) == (431, "head_too_large")
    assert message in body


def test_most_headers_that_are_taken() -> None:
    handler = parse(POST + b"same: x\r\n" * (MAX_HEADERS - 2) + b"Content-Length: 0\r\n\r\n")
    assert handler.requests[0].headers[b"same"] == b",".join([b"x"] * (MAX_HEADERS - 2))


@pytest.mark.parametrize("size", [None, 4096])
def test_long_body_and_many_requests_count_for_no_head(size: int | None) -> None:
    sent = POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000 + NEXT * 3000
    assert len(parse(sent, size).requests) == 3001
    handler = parse(CHUNKED + b"1;extension=long\r\na\r\n" * MAX_HEAD_BYTES + b"0\r\n\r\n", size)
    assert handler.bodies == [(b"/first", b"a" * MAX_HEAD_BYTES)]


def test_body_in_chunks_of_a_byte_takes_little_more_than_its_length() -> None:
    size = 10_000
    handler = Handler()
    parser = RequestParser(handler, size, BufferedBytes())
    parser.feed(CHUNKED)
    tracemalloc.start()
    try:
        for _ in range(100):
            parser.feed(b"1\r\nx\r\n" * (size // 100))
        assert tracemalloc.get_traced_memory()[1] < 3 * size
    finally:
        tracemalloc.stop()
    parser.feed(b"0\r\n\r\n")
    assert handler.bodies == [(b"/first", b"x" * size)]


# Bytes as a connection may get them: in whatever pieces, and damaged. Some bodies are like heads, and ends of chunks.
BODIES = [
    *(b"", b"body", b"\r\n\r\n", b"\r\ntransfer-encoding:\r\n\r\n0\r\n\r\n"),
    b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
]


@st.composite
def framed(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A request, and its body."""
    body = draw(st.sampled_from(BODIES))
    head = b"\r\n" * draw(st.integers(0, 2)) + POST
    head += draw(st.sampled_from([b"", UPGRADE, b"A: Content-Length: 5\r\n"]))
    if draw(st.booleans()):
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body), body
    size = draw(st.integers(1, 50))
    extension = draw(st.sampled_from([b"", b";a", b' ; a = "b"']))
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    written = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    trailer = draw(st.sampled_from([b"", b"Checksum: 1\r\n"]))
    return head + b"Transfer-Encoding: chunked\r\n\r\n%b0%b\r\n%b\r\n" % (written, extension, trailer), body


OTHERS = [
    (b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n", b""),
    (b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    (b"GET http://x/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b""),
    (post(b"", b"Cookie: a=b", b"Cookie: c=d"), b""),
    (post(b"x" * 99, b"Expect: 100-continue"), b"x" * 99),
    (post(b"later", path=b"/slow"), b"later"),
]
LAST = [
    b"",
    post(b"x" * 101),
    CHUNKED + b"70\r\n" + b"x" * 112 + b"\r\n0\r\n\r\n",
    POST + b"Connection: close\r\nContent-Length: 4\r\n\r\nbody",
    POST + b"Content-Length: none\r\n\r\n",
    b"nonsense\r\n\r\n",
]
# Requests, each with its body, and what comes last.
CONVERSATIONS = st.tuples(st.lists(framed() | st.sampled_from(OTHERS), max_size=5), st.sampled_from(LAST))
SENT = CONVERSATIONS.map(lambda conversation: b"".join(request for request, _ in conversation[0]) + conversation[1])
CUTS = st.lists(st.floats(0, 1), max_size=8)
EVENTS = ["pause", "resume", "respond", "eof", "drain", "later", "yield"]


def pieces(data: bytes, cuts: list[float]) -> list[bytes]:
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    return [data[begin:end] for begin, end in pairwise(places)]


def pending(client: Client) -> list[int]:
    return [number for number, response in enumerate(client.echo.slow) if not response.done()]


async def exchange(client: Client, parts: list[bytes]) -> bytes:
    """All responses, without what differs from second to second."""
    for part in parts:
        if not client.is_closed:
            client.send(part)
        for number in pending(client):
            await client.respond(number)
    while numbers := pending(client):
        await client.respond(numbers[0])
    # Not sent where the body, or an earlier response, is already there.
    received = client.received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return re.sub(rb"\r\n(date|x-request-id): [^\r]*", b"", received)


async def leave(client: Client) -> None:
    client.leave()
    await asyncio.sleep(0)
    assert (client.buffered, len(client.connections)) == (0, 0)


@given(CONVERSATIONS, CUTS)
def test_each_request_ends_where_it_says_in_whatever_pieces(
    conversation: tuple[list[tuple[bytes, bytes]], bytes], cuts: list[float]
) -> None:
    requests, last = conversation

    async def scenario(parts: list[bytes]) -> tuple[object, ...]:
        client = Client(b"", Connections(max_buffered_bytes=10_000))
        received = await exchange(client, parts)
        parsed = [(one.method, one.target, one.headers, one.body) for one in client.echo.requests]
        assert [body for *_, body in parsed][: len(requests)] == [body for _, body in requests]
        await leave(client)
        return received, client.echo.rejected, parsed

    data = b"".join(request for request, _ in requests) + last
    assert asyncio.run(scenario(pieces(data, cuts))) == asyncio.run(scenario([data]))


@given(mutated(SENT), CUTS)
def test_damaged_requests_are_answered_or_rejected(data: bytes, cuts: list[float]) -> None:
    async def scenario() -> None:
        client = Client(b"", Connections(max_buffered_bytes=1_000))
        await exchange(client, pieces(data, cuts))
        # Not by their first line alone: a response echoes its request.
        statuses = re.findall(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\ncontent-type: ", client.received)
        assert set(map(int, statuses)) <= {200, 400, 413, 431, 501, 503, 505}
        client.later(1_000)
        client.later(2_000)
        assert client.is_closed
        await leave(client)

    asyncio.run(scenario())


@given(SENT, CUTS, st.lists(st.sampled_from(EVENTS), min_size=3, max_size=20))
def test_responses_come_in_order_whatever_happens(data: bytes, cuts: list[float], events: list[str]) -> None:
    async def scenario() -> None:
        client = Client(b"", Connections(max_buffered_bytes=10_000))
        client.transport.unread_bytes = 100
        unsent = pieces(data, cuts)
        is_paused = False
        for event in events:
            if unsent and not client.is_closed and not client.transport.is_reading_paused:
                client.send(unsent.pop(0))
            if event == "pause" and not is_paused:
                is_paused = True
                client.connection.pause_writing()
            elif event == "resume" and is_paused:
                is_paused = False
                client.connection.resume_writing()
            elif event == "respond" and (numbers := pending(client)):
                await client.respond(numbers[0])
            elif event == "eof":
                client.connection.eof_received()
            elif event == "drain":
                client.connection.drain(close_idle=True)
            elif event == "later":
                client.later(20)
            await asyncio.sleep(0)
        sent = [one.target.startswith(b"/slow") for one in client.echo.requests]
        received = [part.partition(b"\r\n\r\n")[2] for part in client.received.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        assert [body.startswith(b"slow") for body in received] == sent[: len(received)]
        await leave(client)

    asyncio.run(scenario())
