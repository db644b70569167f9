"""A connection against clients that are slow, broken or rude. No sockets: bytes in, bytes out."""

import asyncio
import errno
import gc
import re
import resource
import socket
import time
import weakref
from functools import partial
from typing import Any

import pytest

from service.http import Request, Response, error_response
from service.security.cors import Cors
from service.server.connection import (
    BODY_SECONDS,
    CLIENT_LEFT,
    DISCARD_SECONDS,
    HEAD_SECONDS,
    MAX_PIPELINED,
    MAX_REJECTED_CONNECTIONS,
    MIN_BYTES_PER_SECOND,
    OTHER_FILES,
    WRITE_SECONDS,
    Connections,
    CorsConnection,
    affordable_connections,
)
from service.server.parser import MAX_HEAD_BYTES
from tests.unit.service.server.clients import CHUNKED, GET, HEAD, SLOW, Client, post

KEEP_ALIVE_SECONDS = 600
EXPECT = b"Expect: 100-continue"
CLOSE = GET.replace(b"Host", b"Connection: close\r\nHost")
KEYED = GET.replace(b"Host", b"X-API-Key: a\r\nHost")


def only_keyed(request: Request) -> Response | None:
    return None if b"x-api-key" in request.headers else error_response(401, "no key")


# Requests and responses


@pytest.mark.parametrize(
    ("request_line", "header", "is_kept", "answered"),
    [
        (b"GET / HTTP/1.1", b"", True, []),
        (b"GET / HTTP/1.1", b"Connection: close\r\n", False, [b"close"]),
        (b"GET / HTTP/1.0", b"", False, [b"close"]),
        (b"GET / HTTP/1.0", b"Connection: keep-alive\r\n", True, [b"keep-alive"]),
    ],
)
def test_connection_is_kept_as_the_client_wants(
    request_line: bytes, header: bytes, is_kept: bool, answered: list[bytes]
) -> None:
    client = Client(request_line + b"\r\nHost: x\r\n" + header + b"\r\n")
    assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.received.endswith(b"\r\n\r\n/ ")
    assert client.is_closed is not is_kept
    assert re.findall(rb"\r\nconnection: (.*)\r\n", client.received) == answered


async def test_responses_are_reported() -> None:
    reported: list[tuple[bytes, int, int]] = []

    def report(request: Request, status: int, body_bytes: int) -> None:
        reported.append((request.target, status, body_bytes))

    client = Client(KEYED + KEYED.replace(b"GET", b"HEAD") + GET, admit=only_keyed, on_response=report)
    client.send(KEYED.replace(b"/", b"/slow", 1))
    client.leave()
    await asyncio.sleep(0)
    rejection_bytes = len(b'{"error":"no key"}')
    assert reported == [(b"/", 200, 2), (b"/", 200, 0), (b"/", 401, rejection_bytes), (b"/slow", CLIENT_LEFT, 0)]


@pytest.mark.parametrize(
    ("sent", "status", "request_id"),
    [
        (post(b"", b"X-Request-ID: mine"), 200, b"mine"),
        (post(b"x" * 101, b"X-Request-ID: mine"), 413, b"mine"),
        (post(b"body", b"X-Request-ID: mine")[:-1], 408, b"mine"),
        (b"nonsense\r\n\r\n", 400, rb"[0-9a-f]{16,24}"),
    ],
)
def test_every_response_has_a_request_id(sent: bytes, status: int, request_id: bytes) -> None:
    client = Client(sent)
    client.later(BODY_SECONDS + 1)
    assert client.statuses == [status]
    assert re.search(rb"\r\nx-request-id: %b\r\n" % request_id, client.received)


# 100 Continue


def test_continue() -> None:
    client = Client(post(b"x", EXPECT)[:-1])
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"x")
    assert client.statuses == [100, 200]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx", 200),
        (CLOSE + post(b"body", EXPECT), 200),
        (post(b"x" * 101, EXPECT)[:-101], 413),
    ],
    ids=["HTTP/1.0", "after the last response", "body too long"],
)
def test_no_continue(sent: bytes, status: int) -> None:
    assert Client(sent).statuses == [status]


async def test_no_continue_before_earlier_responses() -> None:
    client = Client(SLOW + post(b"body", EXPECT)[:-4])
    assert client.received == b""
    await client.respond()
    client.send(b"body")
    assert client.statuses == [200, 200]


def test_rejection_instead_of_continue_ends_the_connection() -> None:
    client = Client(post(b"x" * 90, EXPECT)[:-90], admit=only_keyed)
    assert client.statuses == [401]
    assert b"\r\nconnection: close\r\n" in client.received
    client.send(b"x" * 90)
    assert (client.is_closed, client.echo.requests) == (True, [])


# Pipelining


async def test_pipelined_requests_are_answered_in_order_and_bounded() -> None:
    client = Client(SLOW + GET * MAX_PIPELINED)
    assert (client.received, client.transport.is_reading_paused) == (b"", True)
    await client.respond()
    assert not client.transport.is_reading_paused
    assert client.statuses == [200] * (1 + MAX_PIPELINED)
    assert client.received.index(b"slow") < client.received.index(b"\r\n\r\n/ ")


@pytest.mark.parametrize(
    ("invalid", "status", "reason"),
    [
        (b"this is not HTTP\r\n\r\n", 400, "malformed"),
        (post(b"x" * 300), 413, "too_large"),
        (post(b"x" * 300)[:-200], 413, "too_large"),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, 431, "head_too_large"),
    ],
)
async def test_rejection_waits_for_earlier_responses_and_is_the_last(invalid: bytes, status: int, reason: str) -> None:
    client = Client(SLOW + GET)
    client.send(invalid)
    client.send(GET)
    assert client.statuses == []
    await client.respond()
    assert client.statuses == [200, 200, status]
    client.later(DISCARD_SECONDS + 1)
    assert (client.is_closed, client.echo.rejected) == (True, [reason])


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (HEAD + b"Content-Length: 90\r\n\r\n", b"x" * 90),
        (CHUNKED, b"5a\r\n" + b"x" * 90 + b"\r\n0\r\n\r\n"),
    ],
)
def test_unadmitted_body_is_not_kept_and_the_connection_is(head: bytes, body: bytes) -> None:
    client = Client(head, admit=only_keyed)
    client.send(body[:50])
    assert (client.buffered, client.received) == (0, b"")
    client.send(body[50:] + KEYED + GET + KEYED)
    assert client.statuses == [401, 200, 401, 200]
    assert not client.is_closed


@pytest.mark.parametrize(
    ("sent", "rest", "message"),
    [
        (post(b"x" * 300)[:-300], b"x" * 300, b"a body of 300 bytes is too long: at most 100 bytes"),
        (CHUNKED + b"65\r\n" + b"x" * 101 + b"\r\n", b"0\r\n\r\n", b"the body is too long: at most 100 bytes"),
        (post(b"x" * 99_999)[:-99_999], b"x" * 801, b"a body of 99999 bytes is too long: at most 100 bytes"),
    ],
)
def test_too_long_body_is_413_and_read_to_its_end_or_a_limit(sent: bytes, rest: bytes, message: bytes) -> None:
    client = Client(sent)
    assert (client.statuses, client.is_closed) == ([413], False)
    assert message in client.received
    client.send(rest)
    assert (client.is_closed, client.echo.requests) == (True, [])


# Timeouts


@pytest.mark.parametrize(
    ("sent", "seconds", "statuses"),
    [
        (b"", HEAD_SECONDS, []),
        (b"GET / HT", HEAD_SECONDS, [408]),
        (GET + b"GET / HT", HEAD_SECONDS, [200, 408]),
        (post(b"body")[:-1], BODY_SECONDS, [408]),
        (post(b"x" * 300)[:-300], DISCARD_SECONDS, [413]),
        (GET, KEEP_ALIVE_SECONDS, [200]),
    ],
    ids=["nothing", "head", "next head", "body", "rejected body", "idle"],
)
def test_client_that_stops_sending_is_cut_off(sent: bytes, seconds: float, statuses: list[int]) -> None:
    client = Client(sent, Connections(keep_alive_seconds=KEEP_ALIVE_SECONDS))
    client.later(seconds - 1)
    assert not client.is_closed
    client.later(seconds + 1)
    assert (client.statuses, client.is_closed) == (statuses, True)


def test_slow_body_is_408_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    client = Client(post(b"x" * 100_000)[:-80_000], max_body_bytes=100_000)
    while not client.is_closed:
        now += 1
        client.send(b"x")
        client.later(0)
        assert now < 1000
    expected = BODY_SECONDS + 20_000 / MIN_BYTES_PER_SECOND
    assert expected <= now <= expected + 2
    assert client.statuses == [408]
    assert b"by then less than 500 bytes a second" in client.received


async def test_body_behind_a_slow_request_has_its_own_timeout() -> None:
    client = Client(SLOW + post(b"body")[:-1])
    # A response has none.
    client.later(10 * BODY_SECONDS)
    assert not client.is_closed
    await client.respond()
    client.later(BODY_SECONDS - 1)
    assert not client.is_closed
    client.later(BODY_SECONDS + 1)
    assert client.statuses == [200, 408]


def test_client_that_does_not_read_gets_no_further_responses_and_is_cut_off() -> None:
    client, reads = Client(GET), Client(GET)
    for one in (client, reads):
        one.connection.pause_writing()
        # More requests do not put the timeout off.
        one.send(GET * 3 + post(b"body")[:-1])
        assert one.statuses == [200]
    reads.connection.resume_writing()
    assert reads.statuses == [200] * 4
    client.later(WRITE_SECONDS + 1)
    assert client.transport.is_aborted


def test_client_that_does_not_read_its_last_response_is_cut_off() -> None:
    client = Client(CLOSE)
    assert client.is_closed
    client.later(WRITE_SECONDS - 1)
    assert not client.transport.is_aborted
    client.later(WRITE_SECONDS + 1)
    assert client.transport.is_aborted


# Clients that leave


async def test_request_is_cancelled_when_its_client_leaves() -> None:
    client = Client(SLOW + GET)
    client.leave()
    assert client.echo.slow[0].cancelled()
    await asyncio.sleep(0)
    assert (client.received, len(client.echo.requests)) == (b"", 1)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_half_closed_connection_gets_the_same_response(version: bytes) -> None:
    assert not Client().connection.eof_received(), "an idle one ends"
    whole, half = (Client(CLOSE.replace(b"/ HTTP/1.1", b"/slow HTTP/" + version)) for _ in range(2))
    assert half.connection.eof_received()
    # A client that has left answers this with a reset.
    assert half.received == b"HTTP/1.1 "
    half.later(1)
    received = []
    for client in (whole, half):
        await client.respond()
        received.append(re.sub(rb"\r\n(date|x-request-id): [^\r]*", b"", client.received))
    assert received[0] == received[1]
    assert half.is_closed


async def test_half_closed_connection_begins_its_first_response_only() -> None:
    client = Client(SLOW * 2)
    client.connection.eof_received()
    for number in range(2):
        await client.respond(number)
    assert (client.statuses, client.is_closed) == ([200, 200], True)


async def test_half_closed_connection_that_was_reset_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {(socket.SOL_SOCKET, socket.SO_ERROR): 0}

    class Socket:
        def getsockopt(self, level: int, option: int) -> int:
            return errors[level, option]

    client = Client(SLOW)
    monkeypatch.setattr(client.transport, "get_extra_info", {"socket": Socket()}.get)
    client.connection.eof_received()
    client.later(1)
    assert not client.transport.is_aborted
    errors[socket.SOL_SOCKET, socket.SO_ERROR] = errno.EPIPE
    client.later(2)
    assert client.transport.is_aborted


# Draining


async def test_draining_responds_to_requests_under_way_and_closes() -> None:
    busy, half = Client(SLOW), Client(post(b"body")[:-1])
    for client in (busy, half):
        client.connection.drain(close_idle=True)
        assert not client.is_closed
    await busy.respond()
    half.send(b"y")
    for client in (busy, half):
        assert (client.statuses, client.is_closed) == ([200], True)
        assert b"connection: close" in client.received


def test_draining_closes_idle_connections_only_on_demand() -> None:
    used, unused = Client(GET), Client(GET)
    for client in (used, unused):
        client.connection.drain(close_idle=False)
        assert not client.is_closed
    used.send(GET)
    assert (used.statuses, used.is_closed) == ([200, 200], True)
    unused.connection.drain(close_idle=True)
    assert unused.is_closed


# Memory


def test_connection_leaves_nothing_for_the_collector_and_holds_no_answered_request() -> None:
    gc.disable()
    try:
        client = Client(post(b"body"))
        request = client.echo.requests.pop()
        holders = gc.get_referrers(request)
        assert not [holder for holder in holders if holder is client.connection or holder is vars(client.connection)]
        client.send(post(b"body") + post(b"body")[:-2])
        connection = weakref.ref(client.connection)
        client.leave()
        del client, holders
        assert connection() is None
    finally:
        gc.enable()


# How many connections there may be


def test_connection_too_many_is_503() -> None:
    connections = Connections(1)
    first, second = Client(b"", connections), Client(b"", connections)
    second.send(post(b"x" * 50)[:-20])
    assert second.statuses == [503]
    assert b"2 connections are open; at most 1 may be (SERVING_MAX_CONNECTIONS)" in second.received
    assert b"\r\nretry-after: 1\r\n" in second.received
    # It may send its body before it reads the response.
    assert not second.is_closed
    second.send(b"x" * 20)
    assert second.is_closed
    assert (second.echo.rejected, second.echo.requests) == (["too_many_connections"], [])
    first.send(GET)
    assert (first.statuses, first.is_closed) == ([200], False)


def test_connection_too_many_without_a_request_is_soon_closed() -> None:
    client = Client(b"GET / HT", Connections(0))
    client.later(DISCARD_SECONDS + 1)
    assert (client.is_closed, client.received) == (True, b"")


def test_far_too_many_connections_are_aborted_and_closed_ones_make_room() -> None:
    counts: list[int] = []
    connections = Connections(1, on_change=counts.append)
    clients = [Client(b"", connections) for _ in range(1 + MAX_REJECTED_CONNECTIONS + 1)]
    assert [client.is_closed for client in clients] == [False] * (1 + MAX_REJECTED_CONNECTIONS) + [True]
    for client in clients:
        client.leave()
    assert Client(GET, connections).statuses == [200]
    assert counts == [*range(1, len(clients) + 1), *reversed(range(len(clients))), 1]


NEEDED = 10_000 + MAX_REJECTED_CONNECTIONS + OTHER_FILES
UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "affordable"),
    [
        (20_000, 20_000, [], 10_000),
        (1024, 524_288, [(NEEDED, 524_288)], 10_000),
        (1024, UNLIMITED, [(NEEDED, UNLIMITED)], 10_000),
        (UNLIMITED, UNLIMITED, [], 10_000),
        (1024, 4096, [(4096, 4096)], 4096 - MAX_REJECTED_CONNECTIONS - OTHER_FILES),
        (256, 256, [(256, 256)], 64),
        # A system that refuses to raise it.
        (1024, 4096, None, 1024 - MAX_REJECTED_CONNECTIONS - OTHER_FILES),
    ],
)
def test_affordable_connections(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    raised: list[tuple[int, int]] | None,
    affordable: int,
) -> None:
    limits: list[tuple[int, int]] = []

    def set_limits(_which: int, both: tuple[int, int]) -> None:
        if raised is None:
            raise ValueError("not allowed to raise maximum limit")
        limits.append(both)

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    assert affordable_connections(10_000) == affordable
    assert limits == (raised or [])
    assert ("(SERVING_MAX_CONNECTIONS)" in caplog.text) is (affordable < 10_000)


# How much they may hold together


@pytest.fixture
def connections() -> Connections:
    return Connections(max_buffered_bytes=150)


def test_body_beyond_the_buffers_is_503(connections: Connections) -> None:
    Client(post(b"x" * 100)[:-1], connections)
    client = Client(GET + post(b"x" * 60), connections)
    assert client.statuses == [200, 503]
    assert b"99 bytes of requests and answers wait already; at most 150 may" in client.received
    assert b"\r\nretry-after: 1\r\n" in client.received
    assert (client.echo.rejected, client.is_closed) == (["buffers_full"], True)


async def test_body_is_buffered_until_its_response(connections: Connections) -> None:
    client = Client(b"", connections)
    for number in range(3):
        client.send(post(b"x" * 100) + post(b"x" * 100, path=b"/slow"))
        assert client.buffered == 100
        await client.respond(number)
        assert client.buffered == 0
    assert client.statuses == [200] * 6


@pytest.mark.parametrize(
    "sent",
    [
        post(b"x" * 90)[:-1],
        post(b"x" * 90)[:-1] + b"y" + post(b"x" * 20),
        post(b"x" * 90, path=b"/slow"),
        SLOW + post(b"x" * 50) * 2 + post(b"x" * 20)[:-1],
        CHUNKED + b"5\r\nabcde\r\nnonsense\r\n",
        CHUNKED + b"32\r\n" + b"x" * 50 + b"\r\n64\r\n" + b"x" * 80,
        post(b"", b"Connection: close") + post(b"x" * 80),
    ],
    ids=["half", "answered", "running", "waiting", "malformed", "too long", "after the last"],
)
async def test_client_that_leaves_frees_its_buffers(connections: Connections, sent: bytes) -> None:
    client = Client(sent, connections)
    client.leave()
    await asyncio.sleep(0)
    assert (client.buffered, len(connections)) == (0, 0)


def test_unread_responses_are_buffered_too(connections: Connections) -> None:
    client = Client(GET, connections)
    client.transport.unread_bytes = 120
    client.connection.pause_writing()
    assert Client(post(b"x" * 60), connections).statuses == [503]
    client.connection.resume_writing()
    assert client.buffered == 0
    client.connection.pause_writing()
    client.leave()
    assert client.buffered == 0


# Pages of other origins

ORIGIN = b"Origin: https://app.example"
PREFLIGHT = b"OPTIONS / HTTP/1.1\r\nHost: x\r\n%b\r\nAccess-Control-Request-Method: POST\r\n\r\n" % ORIGIN
CORS = partial(CorsConnection, Cors(frozenset({"https://app.example"})))


def test_preflight_needs_no_key_and_pages_may_read_rejections() -> None:
    methods = []

    def admit(request: Request) -> Response | None:
        methods.append(request.method)
        return only_keyed(request)

    client = Client(PREFLIGHT + post(b"body", ORIGIN) + post(b"x" * 101, ORIGIN), kind=CORS, admit=admit)
    assert client.statuses == [200, 401, 413]
    assert client.received.count(b"access-control-allow-origin: https://app.example\r\n") == 3
    assert b"access-control-allow-methods: GET, HEAD, POST\r\n" in client.received
    assert (methods, client.echo.requests) == (["POST"], [])


def test_what_only_looks_like_a_preflight_needs_a_key() -> None:
    sent = PREFLIGHT.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nbody")
    assert Client(sent, kind=CORS, admit=only_keyed).statuses == [401]


@pytest.mark.parametrize(("settings", "vary"), [({}, []), ({"kind": CORS}, [b"origin"])], ids=["plain", "CORS"])
def test_long_response_is_encoded(settings: dict[str, Any], vary: list[bytes]) -> None:
    client = Client(post(b"", ORIGIN, b"Accept-Encoding: gzip", path=b"/" + b"long" * 500), **settings)
    assert b"content-encoding: gzip\r\n" in client.received
    assert re.findall(rb"vary: (.*)\r\n", client.received) == [b"accept-encoding", *vary]
