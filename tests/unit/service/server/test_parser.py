"""What is taken for a request, and where it ends: a proxy in front must not see another one there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from service.http import Request, Response
from service.server.parser import MAX_HEAD_BYTES, BufferedBytes, RequestParser

POST = b"POST /first HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Taker:
    heads: list[Mapping[bytes, bytes]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    refusals: list[Response] = field(default_factory=list)

    def on_head(self, request: Request) -> None:
        self.heads.append(request.headers)

    def on_request(self, request: Request) -> None:
        self.requests.append(request)

    def on_invalid(self, _request: Request, _reason: str, refusal: Response) -> None:
        self.refusals.append(refusal)

    def on_discarded(self) -> None:
        pass


def read(data: bytes, size: int | None = None) -> Taker:
    """In pieces of so many bytes."""
    taker = Taker()
    reader = RequestParser(taker, 1_000_000, BufferedBytes())
    for start in range(0, len(data), size or len(data)):
        reader.feed(data[start : start + size] if size else data)
    return taker


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n1\r\na\r\n0\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        POST + b"Content-Length: 1, 1\r\n\r\na",
        POST + b"Content-Length: +1\r\n\r\na",
        POST + b"Content-Length: 0x1\r\n\r\na",
        POST + b"Content-Length: 1 1\r\n\r\na",
        POST + b"Content-Length:\r\n\r\na",
        POST + b"Content-Length: 18446744073709551617\r\n\r\na",
        POST + b"Content-Length : 1\r\n\r\na",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        POST + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        POST + b"A: b\nContent-Length: 0\r\n\r\n",
        POST + b"A: b\rContent-Length: 0\r\n\r\n",
        POST + b"A: b\r\n\rContent-Length: 0\r\n\r\n",
        POST + b"A: b\x00c\r\nContent-Length: 0\r\n\r\n",
        POST + b"A\x00: b\r\nContent-Length: 0\r\n\r\n",
        POST + b"A B: b\r\nContent-Length: 0\r\n\r\n",
        POST + b": b\r\nContent-Length: 0\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET \\a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        CHUNKED + b"1;a\nb\r\na\r\n0\r\n\r\n",
        CHUNKED + b"1\na\r\n0\r\n\r\n",
        CHUNKED + b"1\r\na\n0\r\n\r\n",
        CHUNKED + b"1\r\naa\r\n0\r\n\r\n",
        CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
        CHUNKED + b"+1\r\na\r\n0\r\n\r\n",
        CHUNKED + b"-1\r\na\r\n0\r\n\r\n",
        CHUNKED + b"10000000000000001\r\na\r\n0\r\n\r\n",
    ],
)
def test_what_others_could_read_otherwise_is_refused_and_nothing_after_it_is_read(request_: bytes) -> None:
    taker = read(request_ + NEXT)
    assert [refusal.status for refusal in taker.refusals] == [400]
    assert taker.requests == []


@pytest.mark.parametrize("coding", [b"identity", b"gzip, chunked", b"xchunked", b'"chunked"'])
def test_a_transfer_coding_that_is_not_taken_is_refused(coding: bytes) -> None:
    taker = read(POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n" + NEXT)
    assert [refusal.status for refusal in taker.refusals] == [501]
    assert b"is not taken; expected chunked" in taker.refusals[0].body
    assert taker.requests == []


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (POST + b"Content_Length: 1\r\n\r\n", b""),
        (POST + b"Content-Length: 1\r\n\r\na", b"a"),
        (POST + b"Transfer-Encoding:\tCHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a"),
        (CHUNKED + b"1;b=c\r\na\r\n0\r\n\r\n", b"a"),
        (b"\r\n" + POST + b"Content-Length: 0\r\n\r\n", b""),
    ],
)
def test_what_the_standard_allows_is_taken_and_ends_where_it_says(request_: bytes, body: bytes) -> None:
    taker = read(request_ + NEXT)
    assert [(request.target, request.body) for request in taker.requests] == [(b"/first", body), (b"/next", b"")]


def test_blanks_around_a_headers_value_are_no_part_of_it() -> None:
    (head,) = read(b"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: \t a b \t \r\nX-Empty: \r\n\r\n").heads
    assert (head[b"x-api-key"], head[b"x-empty"]) == (b"a b", b"")


def test_a_trailer_cannot_pass_for_a_header() -> None:
    taker = read(CHUNKED + b"1\r\na\r\n0\r\nX-Request-ID: theirs\r\nChecksum: 1\r\n\r\n" + NEXT)
    assert [dict(request.headers) for request in taker.requests] == [
        {b"host": b"x", b"transfer-encoding": b"chunked"},
        {b"host": b"x"},
    ]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: user@x\r\n\r\n", 400),
        (POST + b"Content-Type: image/png\r\nContent-Type: text/html\r\nContent-Length: 1\r\n\r\na", 400),
        (POST + b"Content-Type: image/png\r\nContent-Type: image/png\r\nContent-Length: 1\r\n\r\na", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"OPTIONS *a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"PUT s://]x/: HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET a/b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/111\r\nHost: x\r\n\r\n", 400),
        *(
            (CHUNKED + b"1\r\na\r\n0\r\nA: b\r\n" + name + b": 1\r\n\r\n", 400)
            for name in (b"Content-Length", b"TRANSFER-ENCODING", b"host", b"Authorization", b"X-API-Key", b"TE")
        ),
        (CHUNKED + b"1\r\na\r\n0\r\nA: b\r\n c\r\n\r\n", 400),
        (CHUNKED + b"1\r\na\r\n0\r\nA : b\r\n\r\n", 400),
        (CHUNKED + b"1\r\na\r\n0\r\nA: b\x00c\r\n\r\n", 400),
        (CHUNKED + b"1\r\na\r\n0\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400),
        (CHUNKED + b" 1\r\na\r\n0\r\n\r\n", 400),
        (CHUNKED + b";a\r\na\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\na\r\n0\r\n\r\n", 400),
        (CHUNKED + b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n", 400),
        (CHUNKED + b"1;\r\na\r\n0\r\n\r\n", 400),
        (CHUNKED + b"1;a b\r\na\r\n0\r\n\r\n", 400),
        (CHUNKED + b'1;a="b\r\na\r\n0\r\n\r\n', 400),
        (CHUNKED + b"1;a\rb\r\na\r\n0\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_what_the_standard_forbids_is_refused_and_nothing_after_it_is_read(
    request_: bytes, status: int, size: int | None
) -> None:
    taker = read(request_ + NEXT, size)
    assert [refusal.status for refusal in taker.refusals] == [status]
    assert taker.requests == []


@pytest.mark.parametrize(
    "line",
    [b"5; a", b"5 ;a", b"5\t;\ta", b"5;a = b", b"5; a; b=c", b'5;a="b; c"', b'5 ; a = "b\\"c" ; d', b"0005", b"05;A=B"],
)
@pytest.mark.parametrize("size", [None, 1, 3])
def test_blanks_in_chunk_extensions_are_taken(line: bytes, size: int | None) -> None:
    taker = read(CHUNKED + line + b"\r\na\r\nbc\r\n1\r\nd\r\n000;e\r\nChecksum: 1\r\n\r\n" + NEXT, size)
    assert [(request.target, request.body) for request in taker.requests] == [(b"/first", b"a\r\nbcd"), (b"/next", b"")]


# Of the kinds of gunicorn's own corpus (tests/requests in its repository) those that come to something else here: the
# status of their refusal, TAKEN, or WAITED_FOR where it is no whole request. What begins with two slashes is refused
# later (test_security.py).
TAKEN, WAITED_FOR = 200, 0
OTHER_THAN_GUNICORN = [
    # Where it is laxer, or can be set so.
    (b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", 400, "RFC 9112, 3.2: HTTP/1.1 without Host must be refused"),
    (
        POST + b"Transfer-Encoding: identity\r\nContent-Length: 1\r\n\r\na",
        400,
        "RFC 9112, 6.3: with both, others may read another end; and identity is no coding any more",
    ),
    (
        POST + b"Transfer-Encoding: identity, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        501,
        "RFC 9112, 7: identity is no coding any more, and others may take it for one",
    ),
    (
        POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        501,
        "gunicorn hands the packed bytes on; here packed bodies come by Content-Encoding",
    ),
    (b"GET /\xc3\xa9 HTTP/1.0\r\n\r\n", 400, "RFC 3986, 2: what is not ASCII is percent-encoded in a path"),
    (b"-CUSTOM / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "httptools knows registered methods only, and no route others"),
    (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 400, "this is no proxy"),
    (b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n", 400, "this is no proxy"),
    (
        POST + b"Content-Length: 9\r\n\r\nbody",
        WAITED_FOR,
        "gunicorn begins before the body is there; here it may come yet",
    ),
    (POST + b"Content-Length : 1\r\n\r\na", 400, "RFC 9112, 5.1: must be refused (strip_header_spaces)"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, "RFC 9112, 5.2 (permit_obsolete_folding)"),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 80 80\r\n" + NEXT, 400, "anybody could forge it (proxy_protocol)"),
    # Where it is stricter, or can be set so.
    (b"GET /" + b"a" * 8_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", TAKEN, "64 KB of a head may be spread as one likes"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 9_000 + b"\r\n\r\n", TAKEN, "the same (limit_request_field_size)"),
    (POST + b"Content_Length: 9\r\nContent-Length: 1\r\n\r\na", TAKEN, "A_B is never taken for A-B (header_map)"),
    (
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n",
        TAKEN,
        "nothing goes by what a proxy says of the scheme (forwarded_allow_ips)",
    ),
]


@pytest.mark.parametrize(("request_", "comes_to", "_why"), OTHER_THAN_GUNICORN)
def test_what_gunicorn_reads_otherwise(request_: bytes, comes_to: int, _why: str) -> None:
    taker = read(request_)
    assert [*(refusal.status for refusal in taker.refusals), *(TAKEN for _ in taker.requests)] == [comes_to] * bool(
        comes_to
    )


@pytest.mark.parametrize("host", [b"x", b"", b"x:80", b"[::1]:80", b"a_b.c", b"caf%C3%A9"])
def test_a_host_of_any_form_is_taken(host: bytes) -> None:
    assert len(read(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").requests) == 1


@pytest.mark.parametrize("piece", [b"1;" + b"a" * 2_000_000, b"0\r\nA: " + b"a" * 2_000_000])
def test_what_frames_a_body_is_no_longer_than_a_head(piece: bytes) -> None:
    taker = read(CHUNKED + b"1\r\na\r\n" + piece, 4096)
    assert [refusal.status for refusal in taker.refusals] == [431]
    assert b"chunk extensions or trailers are too long" in taker.refusals[0].body


def test_a_body_in_many_small_chunks_may_be_longer_than_a_head() -> None:
    body = b"1;extension=long\r\na\r\n" * MAX_HEAD_BYTES
    taker = read(CHUNKED + body + b"0\r\n\r\n", 4096)
    assert taker.requests[0].body == b"a" * MAX_HEAD_BYTES
    assert taker.refusals == []


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 4\r\n\r\nbody", b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_who_offers_an_upgrade_is_answered_without_and_its_body_is_no_request(
    protocol: bytes, framing: bytes, size: int | None
) -> None:
    """Java's own HTTP client offers h2c with every request."""
    offer = (
        POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\nHTTP2-Settings: a\r\n" + framing
    )
    taker = read(offer + offer + NEXT, size)
    assert [(request.target, request.body) for request in taker.requests] == [
        (b"/first", b"body"),
        (b"/first", b"body"),
        (b"/next", b""),
    ]
    assert taker.heads == [request.headers for request in taker.requests]
    assert [request.method for request in taker.requests] == ["POST", "POST", "GET"]
    assert taker.requests[0].headers[b"http2-settings"] == b"a"


def test_a_request_hidden_in_the_body_of_one_that_offers_an_upgrade_stays_hidden() -> None:
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    head = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    taker = Taker()
    reader = RequestParser(taker, 1000, BufferedBytes())
    reader.feed(head)
    reader.feed(hidden)
    assert [(request.target, request.body) for request in taker.requests] == [(b"/first", hidden)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://x/v2/health/live?a=b", b"/v2/health/live?a=b"),
        (b"HTTP://user@x:80/a", b"/a"),
        (b"http://x", b"/"),
        (b"http://x?a", b"/?a"),
        (b"http://[::1]:8080/a", b"/a"),
        (b"/a?b=http://x/c", b"/a?b=http://x/c"),
        (b"//x/a", b"//x/a"),
        (b"*", b"*"),
    ],
)
def test_a_target_with_the_servers_name_is_read_as_the_path_in_it(target: bytes, expected: bytes) -> None:
    taker = read(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: y\r\n\r\n")
    assert [request.target for request in taker.requests] == [expected]
