"""How many connections there may be, and how much they may hold together."""

import asyncio
import resource

import pytest

from service.http import Response
from service.server import connection
from service.server.connection import MAX_REJECTED_CONNECTIONS, OTHER_FILES, Connections, affordable_connections
from tests.unit.service.server.clients import GET, connect, post

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW = GET.replace(b"/ ", b"/slow ")


def test_a_connection_too_many_is_told_so_and_closed() -> None:
    few = Connections(1)
    first, second = connect(connections=few), connect(connections=few)
    second.send(GET)
    assert second.statuses == [503]
    assert b"2 connections are open; at most 1 may be (SERVING_MAX_CONNECTIONS)" in second.transport.written
    assert b"\r\nretry-after: 1\r\n" in second.transport.written
    assert second.is_closed
    assert second.echo.refusals == ["too_many_connections"]
    assert second.echo.requests == []
    first.send(GET)
    assert first.statuses == [200]
    assert not first.is_closed


def test_a_connection_too_many_may_send_its_body_before_it_looks_for_an_answer() -> None:
    few = Connections(0)
    client = connect(connections=few)
    client.send(post(b"x" * 50)[:-20])
    assert client.statuses == [503]
    assert not client.is_closed
    client.send(b"x" * 20)
    assert client.is_closed


def test_a_connection_too_many_that_asks_nothing_is_soon_closed() -> None:
    client = connect(connections=Connections(0))
    client.send(b"GET / HT")
    client.later(connection.DISCARD_SECONDS + 1)
    assert client.is_closed
    assert client.transport.written == b""


def test_far_too_many_connections_are_closed_without_a_word() -> None:
    few = Connections(1)
    clients = [connect(connections=few) for _ in range(1 + MAX_REJECTED_CONNECTIONS + 1)]
    assert [client.is_closed for client in clients] == [False] * (1 + MAX_REJECTED_CONNECTIONS) + [True]


def test_the_place_of_a_connection_that_ended_is_free_again() -> None:
    counts: list[int] = []
    one = Connections(1, on_change=counts.append)
    first, second = connect(connections=one), connect(connections=one)
    first.leave()
    second.leave()
    third = connect(connections=one)
    third.send(GET)
    assert third.statuses == [200]
    assert counts == [1, 2, 1, 0, 1]


def limits(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> list[tuple[int, int]]:
    """What is set comes into the list."""
    was_set: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, both: was_set.append(both))
    return was_set


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "affordable"),
    [
        (20_000, 20_000, [], 10_000),
        (1024, 524_288, [(10_000 + MAX_REJECTED_CONNECTIONS + OTHER_FILES, 524_288)], 10_000),
        (
            1024,
            resource.RLIM_INFINITY,
            [(10_000 + MAX_REJECTED_CONNECTIONS + OTHER_FILES, resource.RLIM_INFINITY)],
            10_000,
        ),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, [], 10_000),
        (1024, 4096, [(4096, 4096)], 4096 - MAX_REJECTED_CONNECTIONS - OTHER_FILES),
        (256, 256, [(256, 256)], 64),
    ],
)
def test_there_are_no_more_connections_than_the_process_may_open_files(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    raised: list[tuple[int, int]],
    affordable: int,
) -> None:
    was_set = limits(monkeypatch, soft, hard)
    assert affordable_connections(10_000) == affordable
    assert was_set == raised
    assert ("(SERVING_MAX_CONNECTIONS)" in caplog.text) is (affordable < 10_000)


def test_a_system_that_keeps_its_limit_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_which: int, _both: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    limits(monkeypatch, 1024, 4096)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert affordable_connections(10_000) == 1024 - MAX_REJECTED_CONNECTIONS - OTHER_FILES


@pytest.fixture
def full() -> Connections:
    """For 150 bytes; a body of 100 is on its way."""
    some = Connections(max_buffered_bytes=150)
    connect(connections=some).send(post(b"x" * 100)[:-1])
    return some


def test_a_body_for_which_there_is_no_room_is_refused(full: Connections) -> None:
    client = connect(connections=full)
    client.send(post(b"x" * 60))
    assert client.statuses == [503]
    assert b"99 bytes of requests and answers wait already; at most 150 may" in client.transport.written
    assert b"\r\nretry-after: 1\r\n" in client.transport.written
    assert client.echo.refusals == ["buffers_full"]
    assert client.is_closed


def test_a_request_without_a_body_needs_no_room() -> None:
    client = connect(connections=Connections(max_buffered_bytes=0))
    client.send(GET)
    assert client.statuses == [200]


def test_what_a_body_took_is_free_once_it_is_answered() -> None:
    async def scenario() -> None:
        some = Connections(max_buffered_bytes=150)
        for _ in range(3):
            client = connect(connections=some)
            client.send(post(b"x" * 100) + post(b"x" * 100, path=b"/slow"))
            assert some.buffered.now == 100
            client.echo.slow[0].set_result(Response(200, b"done"))
            await asyncio.sleep(0)
            assert client.statuses == [200, 200]
            assert some.buffered.now == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("leaves", [False, True])
def test_a_body_counts_until_it_is_answered_or_its_client_leaves(leaves: bool) -> None:
    async def scenario() -> None:
        some = Connections(max_buffered_bytes=150)
        client = connect(connections=some)
        client.send(post(b"x" * 90, path=b"/slow"))
        assert some.buffered.now == 90
        if leaves:
            client.leave()
        else:
            client.echo.slow[0].set_result(Response(200, b"done"))
        await asyncio.sleep(0)
        assert some.buffered.now == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "sent",
    [
        post(b"x" * 90)[:-1],
        post(b"x" * 90)[:-1] + b"y" + post(b"x" * 20),
        SLOW + post(b"x" * 50) * 2 + post(b"x" * 20)[:-1],
        CHUNKED + b"5\r\nabcde\r\nnonsense\r\n",
        CHUNKED + b"32\r\n" + b"x" * 50 + b"\r\n64\r\n" + b"x" * 80,
        post(b"", b"Connection: close") + post(b"x" * 80),
    ],
    ids=["half a body", "answered, too large", "waiting, half a body", "malformed", "grows too long", "after the last"],
)
def test_a_client_that_leaves_takes_nothing_with_it(sent: bytes) -> None:
    async def scenario() -> None:
        some = Connections(max_buffered_bytes=150)
        client = connect(connections=some)
        client.send(sent)
        client.leave()
        assert some.buffered.now == 0
        assert len(some) == 0

    asyncio.run(scenario())


def test_answers_that_clients_do_not_read_take_room_too() -> None:
    some = Connections(max_buffered_bytes=150)
    client, other = connect(connections=some), connect(connections=some)
    client.send(GET)
    client.transport.unread_bytes = 120
    client.connection.pause_writing()
    other.send(post(b"x" * 60))
    assert other.statuses == [503]
    client.connection.resume_writing()
    assert some.buffered.now == 0
    client.connection.pause_writing()
    client.leave()
    assert some.buffered.now == 0
