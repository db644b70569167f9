"""A connection against clients that are slow, broken or rude. No sockets: bytes in, bytes out."""

import asyncio
import errno
import gc
import re
import socket
import time
import tracemalloc
import weakref
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import pytest

from service.http import Response
from service.server import connection as protocol
from service.server import connection as waits
from service.server import parser
from service.server.connection import Connections
from tests.unit.service.server.clients import GET, connect, post


def test_an_answer_carries_its_date() -> None:
    client = connect()
    client.send(GET)
    (date,) = re.findall(rb"\r\ndate: (.+)\r\n", client.transport.written)
    assert parsedate_to_datetime(date.decode()).tzinfo is not None


def test_a_request_is_answered_and_the_connection_kept() -> None:
    client = connect()
    client.send(post(b"body"))
    assert client.transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.transport.written.endswith(b"\r\n\r\n/ body")
    assert not client.is_closed


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_request_may_come_in_pieces_of_any_size(size: int) -> None:
    client = connect()
    data = post(b"body", path=b"/" + b"long" * 20)
    for start in range(0, len(data), size):
        client.send(data[start : start + size])
    assert client.transport.written.endswith(b"/" + b"long" * 20 + b" body")


def test_a_chunked_body_is_put_together() -> None:
    client = connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert client.echo.requests[0].body == b"abcde"


def test_a_client_that_asks_may_go_on_is_told_so() -> None:
    client = connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    assert client.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"x")
    assert client.statuses == [100, 200]


def test_nobody_is_told_to_go_on_before_the_answers_before() -> None:
    async def scenario() -> None:
        client = connect()
        client.send(GET.replace(b"/ ", b"/slow ") + post(b"body", b"Expect: 100-continue")[:-4])
        assert client.transport.written == b""
        client.echo.slow[0].set_result(Response(200, b"slow"))
        client.send(b"body")
        await asyncio.sleep(0)
        assert client.statuses == [200, 200]

    asyncio.run(scenario())


def test_nobody_is_told_to_go_on_behind_the_last_answer() -> None:
    client = connect()
    client.send(GET.replace(b"Host", b"Connection: close\r\nHost") + post(b"body", b"Expect: 100-continue"))
    assert client.statuses == [200]


def test_a_client_that_asks_with_too_long_a_body_is_not_told_to_go_on() -> None:
    client = connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\nExpect: 100-continue\r\n\r\n")
    assert client.statuses == [413]


@pytest.mark.parametrize(
    ("request_line", "header", "is_kept"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: close\r\n", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_the_connection_is_kept_as_the_client_wants_it(request_line: bytes, header: bytes, is_kept: bool) -> None:
    client = connect()
    client.send(request_line + b"\r\nHost: x\r\n" + header + b"\r\n")
    assert client.is_closed is not is_kept
    assert (b"connection: close" in client.transport.written) is not is_kept


def test_a_head_gets_the_length_of_the_body_and_no_body() -> None:
    client = connect()
    client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"content-length: 2\r\n" in client.transport.written
    assert client.transport.written.endswith(b"\r\n\r\n")


def test_an_upgrade_that_nobody_offers_is_answered_as_the_request_it_is() -> None:
    client = connect()
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert client.statuses == [200]


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def scenario() -> None:
        client = connect()
        client.send(GET.replace(b"/ ", b"/slow ") + GET.replace(b"/ ", b"/second "))
        assert client.transport.written == b""
        client.echo.slow[0].set_result(Response(200, b"slow"))
        await asyncio.sleep(0)
        first, second = client.transport.written.index(b"slow"), client.transport.written.index(b"/second")
        assert first < second

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("refused", "status", "reason"),
    [
        (b"this is not HTTP\r\n\r\n", 400, "malformed"),
        (post(b"x" * 300), 413, "too_large"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\nonly its beginning", 413, "too_large"),
        (b"GET /" + b"x" * parser.MAX_HEAD_BYTES, 431, "head_too_large"),
    ],
)
def test_a_refusal_waits_for_the_answers_before_it(refused: bytes, status: int, reason: str) -> None:
    async def scenario() -> None:
        client = connect()
        client.send(GET.replace(b"/ ", b"/slow ") + GET)
        client.send(refused)
        client.send(GET)
        assert client.statuses == []
        client.echo.slow[0].set_result(Response(200, b"slow"))
        await asyncio.sleep(0)
        assert client.statuses == [200, 200, status]
        client.later(waits.DISCARD_SECONDS + 1)
        assert client.is_closed
        assert client.echo.refusals == [reason]

    asyncio.run(scenario())


def test_a_connection_that_ends_leaves_nothing_for_the_collector() -> None:
    gc.disable()
    try:
        client = connect()
        client.send(post(b"body"))
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbo")
        connection = weakref.ref(client.connection)
        client.connection.connection_lost(None)
        del client
        assert connection() is None
    finally:
        gc.enable()


def test_a_connection_that_waits_does_not_hold_the_last_body() -> None:
    client = connect()
    client.send(post(b"body"))
    request = client.echo.requests.pop()
    assert request.body == b"body"
    held_by = gc.get_referrers(request)
    assert not [holder for holder in held_by if holder is client.connection or holder is vars(client.connection)]


def test_a_client_that_pipelines_without_end_is_not_read_further() -> None:
    async def scenario() -> None:
        client = connect()
        client.send(GET.replace(b"/ ", b"/slow ") + GET * protocol.MAX_PIPELINED)
        assert client.transport.is_reading_paused
        client.echo.slow[0].set_result(Response(200, b"slow"))
        await asyncio.sleep(0)
        assert not client.transport.is_reading_paused
        assert client.statuses == [200] * (1 + protocol.MAX_PIPELINED)

    asyncio.run(scenario())


def test_a_client_that_reads_no_answers_gets_no_further_ones() -> None:
    client = connect()
    client.send(GET)
    client.connection.pause_writing()
    client.send(GET)
    assert client.statuses == [200]
    client.connection.resume_writing()
    assert client.statuses == [200, 200]


def test_a_client_that_never_reads_is_cut_off() -> None:
    client = connect()
    client.send(GET)
    client.connection.pause_writing()
    client.later(waits.WRITE_SECONDS + 1)
    assert client.is_closed


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost x\r\n\r\n"],
)
def test_what_is_not_http_is_told_so_and_cut_off(data: bytes) -> None:
    client = connect()
    client.send(data)
    assert client.statuses == [400]
    assert b"Malformed request" in client.transport.written
    assert client.is_closed
    assert client.echo.refusals == ["malformed"]


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -5\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
    ],
)
def test_a_request_whose_end_is_in_doubt_is_refused(headers: bytes) -> None:
    client = connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n0\r\n\r\n" + GET)
    assert client.statuses == [400]
    assert client.is_closed
    assert client.echo.requests == []


@pytest.mark.parametrize("part", [b"GET /" + b"x" * 70_000, b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000])
def test_a_head_without_end_is_refused(part: bytes) -> None:
    client = connect()
    for start in range(0, len(part), 4096):
        if not client.is_closed:
            client.send(part[start : start + 4096])
    assert client.statuses == [431]
    assert client.is_closed


@pytest.mark.parametrize("target", [b"/" + b"x" * 70_000, b"/"])
@pytest.mark.parametrize("body", [b"", b"body"])
def test_a_head_that_is_too_long_is_refused_also_where_it_comes_at_once(target: bytes, body: bytes) -> None:
    client = connect()
    client.send(b"POST %b HTTP/1.1\r\nA: %b\r\nContent-Length: %d\r\n\r\n%b" % (target, b"x" * 66_000, len(body), body))
    assert client.statuses == [431]
    assert b"the request's head is too long: at most 65536 bytes are taken" in client.transport.written
    assert client.is_closed
    assert client.echo.refusals == ["head_too_large"]


def test_a_long_body_that_comes_with_its_head_counts_for_no_head() -> None:
    client = connect(max_body_bytes=100_000)
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    assert client.statuses == [200]


HEADERS = b"POST / HTTP/1.1\r\nHost: x\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
CHUNKED = HEADERS + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("end", [b"Content-Length: 2\r\n\r\nxy", b"", UPGRADE], ids=["whole", "no end", "upgrade"])
@pytest.mark.parametrize("name", [b"same", b"name%d"])
def test_a_head_of_too_many_headers_is_refused(name: bytes, end: bytes) -> None:
    lines = [name % number if b"%" in name else name for number in range(parser.MAX_HEADERS + 1)]
    client = connect()
    client.send(HEADERS + b"".join(line + b": x\r\n" for line in lines) + end)
    assert client.statuses == [431]
    assert b"too many headers: at most 100 are taken" in client.transport.written
    assert client.is_closed
    assert client.echo.refusals == ["head_too_large"]


def test_as_many_headers_as_are_taken_are_there() -> None:
    client = connect()
    client.send(HEADERS + b"same: x\r\n" * (parser.MAX_HEADERS - 2) + b"Content-Length: 0\r\n\r\n")
    assert client.echo.requests[0].headers[b"same"] == b",".join([b"x"] * (parser.MAX_HEADERS - 2))


def test_a_body_in_pieces_of_one_byte_takes_little_more_than_its_length() -> None:
    size = 100_000
    client = connect(max_body_bytes=size)
    client.send(CHUNKED)
    tracemalloc.start()
    try:
        for _ in range(100):
            client.send(b"1\r\nx\r\n" * (size // 100))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 3 * size
    client.send(b"0\r\n\r\n")
    assert client.echo.requests[0].body == b"x" * size


def test_many_requests_on_one_connection_do_not_add_up_to_a_long_head() -> None:
    client = connect()
    for _ in range(3000):
        client.send(GET)
    assert client.statuses == [200] * 3000


def test_a_body_that_is_announced_too_long_is_refused_at_once_and_read_to_its_end() -> None:
    client = connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n")
    assert client.statuses == [413]
    assert b"a body of 300 bytes is too long: at most 100 bytes" in client.transport.written
    assert not client.is_closed
    client.send(b"x" * 300)
    assert client.is_closed
    assert client.echo.requests == []


def test_a_chunked_body_that_grows_too_long_is_refused() -> None:
    client = connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n")
    assert client.statuses == [413]
    client.send(b"0\r\n\r\n")
    assert client.is_closed
    assert client.echo.requests == []


def test_who_sends_far_too_much_is_cut_off() -> None:
    client = connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + b"x" * 801)
    assert client.is_closed


@pytest.mark.parametrize(
    ("sent", "seconds", "status"),
    [
        (b"GET / HT", waits.HEAD_SECONDS, 408),
        (post(b"body")[:-1], waits.BODY_SECONDS, 408),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n", waits.DISCARD_SECONDS, 413),
    ],
)
def test_who_stops_sending_is_told_so_and_cut_off(sent: bytes, seconds: float, status: int) -> None:
    client = connect()
    client.send(sent)
    client.later(seconds - 1)
    assert not client.is_closed
    client.later(seconds + 1)
    assert client.statuses == [status]
    assert client.is_closed


def test_a_body_may_take_its_time_but_not_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    client = connect(max_body_bytes=100_000)
    client.send(HEADERS + b"Content-Length: 100000\r\n\r\n" + b"x" * 20_000)
    while not client.is_closed:
        now += 1
        client.send(b"x")
        client.later(0)
        assert now < 1000
    expected = waits.BODY_SECONDS + 20_000 / waits.MIN_BYTES_PER_SECOND
    assert expected <= now <= expected + 2
    assert client.statuses == [408]
    assert b"by then less than 500 bytes a second" in client.transport.written


def test_who_sends_nothing_at_all_is_cut_off_without_a_word() -> None:
    client = connect()
    client.later(waits.HEAD_SECONDS + 1)
    assert client.is_closed
    assert client.transport.written == b""


def test_a_head_that_comes_behind_another_request_has_no_longer_than_any() -> None:
    client = connect()
    client.send(GET + b"GET / HT")
    client.later(waits.HEAD_SECONDS + 1)
    assert client.statuses == [200, 408]
    assert client.is_closed


def test_a_body_that_comes_behind_a_slow_request_has_no_longer_than_any() -> None:
    async def scenario() -> None:
        client = connect()
        client.send(GET.replace(b"/ ", b"/slow ") + post(b"body")[:-1])
        client.later(10 * waits.BODY_SECONDS)
        assert not client.is_closed
        client.echo.slow[0].set_result(Response(200, b"slow"))
        await asyncio.sleep(0)
        client.later(waits.BODY_SECONDS - 1)
        assert not client.is_closed
        client.later(waits.BODY_SECONDS + 1)
        assert client.statuses == [200, 408]

    asyncio.run(scenario())


def test_a_client_that_does_not_read_its_last_answer_is_cut_off() -> None:
    client = connect()
    client.send(GET.replace(b"Host", b"Connection: close\r\nHost"))
    assert client.is_closed
    client.later(waits.WRITE_SECONDS - 1)
    assert not client.transport.is_aborted
    client.later(waits.WRITE_SECONDS + 1)
    assert client.transport.is_aborted


def test_a_client_that_reads_no_answers_cannot_put_that_off_by_sending_more() -> None:
    client = connect()
    client.send(GET)
    client.connection.pause_writing()
    client.send(GET * 3 + post(b"body")[:-1])
    client.later(waits.WRITE_SECONDS + 1)
    assert client.transport.is_aborted


def test_a_connection_without_a_further_request_is_closed_in_the_end() -> None:
    client = connect(connections=Connections(keep_alive_seconds=600))
    client.send(GET)
    client.later(599)
    assert not client.is_closed
    client.later(601)
    assert client.is_closed


def test_an_answer_under_way_is_waited_for_however_long_it_takes() -> None:
    async def scenario() -> None:
        client = connect()
        client.send(GET.replace(b"/ ", b"/slow "))
        client.later(10_000)
        assert not client.is_closed
        client.echo.slow[0].set_result(Response(200, b"at last"))
        await asyncio.sleep(0)
        assert client.statuses == [200]

    asyncio.run(scenario())


def test_whoever_works_for_a_client_that_has_left_is_told_so() -> None:
    async def scenario() -> None:
        client = connect()
        client.send(GET.replace(b"/ ", b"/slow ") + GET)
        client.connection.connection_lost(None)
        assert client.echo.slow[0].cancelled()
        await asyncio.sleep(0)
        assert client.transport.written == b""
        assert len(client.echo.requests) == 1

    asyncio.run(scenario())


def test_draining_answers_what_is_under_way_and_then_closes() -> None:
    async def scenario() -> None:
        busy, half = connect(), connect()
        busy.send(GET.replace(b"/ ", b"/slow "))
        half.send(post(b"body")[:-1])
        for client in (busy, half):
            client.connection.drain(close_idle=True)
            assert not client.is_closed
        busy.echo.slow[0].set_result(Response(200, b"done"))
        half.send(b"y")
        await asyncio.sleep(0)
        for client in (busy, half):
            assert client.statuses == [200]
            assert b"connection: close" in client.transport.written
            assert client.is_closed

    asyncio.run(scenario())


def test_draining_leaves_an_idle_connection_open_for_a_request_on_its_way_until_told() -> None:
    used, unused = connect(), connect()
    for client in (used, unused):
        client.send(GET)
        client.connection.drain(close_idle=False)
        assert not client.is_closed
    used.send(GET)
    assert used.statuses == [200, 200]
    assert used.is_closed
    unused.connection.drain(close_idle=True)
    assert unused.is_closed


def test_a_half_closed_connection_still_gets_its_answer() -> None:
    async def scenario() -> None:
        client = connect()
        client.send(GET.replace(b"/ ", b"/slow "))
        assert client.connection.eof_received()
        client.later(1)
        client.echo.slow[0].set_result(Response(200, b"done"))
        await asyncio.sleep(0)
        assert client.statuses == [200]
        assert client.is_closed

    asyncio.run(scenario())


def test_a_client_that_turns_out_to_have_closed_all_of_the_connection_is_waited_for_no_more() -> None:
    @dataclass
    class Reset:
        """A socket's state."""

        error: int = 0

        def getsockopt(self, level: int, option: int) -> int:
            assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
            return self.error

    async def scenario() -> None:
        client = connect()
        state = client.transport._extra["socket"] = Reset()  # type: ignore[attr-defined]
        client.send(GET.replace(b"/ ", b"/slow "))
        client.connection.eof_received()
        client.later(1)
        assert not client.transport.is_aborted
        state.error = errno.EPIPE
        client.later(2)
        assert client.transport.is_aborted

    asyncio.run(scenario())


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_half_closed_connection_gets_what_another_gets(version: bytes) -> None:
    async def scenario() -> None:
        clients = connect(), connect()
        for client in clients:
            client.send(
                GET.replace(b"/ HTTP/1.1", b"/slow HTTP/" + version).replace(b"Host", b"Connection: close\r\nHost")
            )
            client.send(b"")
        clients[1].connection.eof_received()
        # Whether it is still there shows by a beginning of its answer.
        assert clients[1].transport.written == b"HTTP/1.1 "
        for client in clients:
            client.echo.slow[0].set_result(Response(200, b"done"))
        await asyncio.sleep(0)
        whole, half = (re.sub(rb"\r\n(date|x-request-id): [^\r]*", b"", one.transport.written) for one in clients)
        assert half == whole

    asyncio.run(scenario())


def test_of_a_half_closed_connections_answers_only_the_first_begins_early() -> None:
    async def scenario() -> None:
        client = connect()
        client.send(GET.replace(b"/ ", b"/slow ") * 2)
        client.connection.eof_received()
        for number in range(2):
            client.echo.slow[number].set_result(Response(200, b"done"))
            await asyncio.sleep(0)
        assert client.statuses == [200, 200]
        assert client.is_closed

    asyncio.run(scenario())


def test_a_client_of_http_1_0_is_never_told_to_go_on() -> None:
    client = connect()
    client.send(b"POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    assert client.transport.written == b""
    client.send(b"x")
    assert client.statuses == [200]
