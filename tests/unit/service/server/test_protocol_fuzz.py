"""Bytes as a connection may get them: in whatever pieces, and damaged. It answers or refuses, and forgets nothing."""

import asyncio
import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.http import Response
from service.server.connection import Connections
from tests.unit.service.mutations import mutated
from tests.unit.service.server.clients import Client, connect, post

HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
REQUESTS = [
    b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\nAccept-Encoding: gzip\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\n\r\n",
    b"GET http://x/a HTTP/1.0\r\nConnection: keep-alive\r\nX-Request-ID: mine\r\n\r\n",
    post(b"body", b"X-Request-ID: mine"),
    post(b"", b"X-Request-ID: mine", b"Cookie: a=b", b"Cookie: c=d"),
    post(b"x" * 99, b"X-Request-ID: mine", b"Expect: 100-continue"),
    CHUNKED + b'4 ; a = "b c"\r\nbody\r\n0\r\nChecksum: x\r\n\r\n',
    CHUNKED + b"1\r\nb\r\n" * 9 + b"0\r\n\r\n",
    HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nbody",
    HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    # Where another head ends within the body.
    post(b"\r\n\r\nTransfer-Encoding: chunked\r\n\r\n", b"X-Request-ID: mine"),
    b"\r\n" + CHUNKED + b"0\r\n\r\n",
    post(b"later", b"X-Request-ID: mine", path=b"/slow"),
]
LAST = [
    post(b"x" * 101, b"X-Request-ID: mine"),
    CHUNKED + b"70\r\n" + b"x" * 112 + b"\r\n0\r\n\r\n",
    HEAD + b"Connection: close\r\nContent-Length: 4\r\n\r\nbody",
    HEAD + b"Content-Length: none\r\n\r\n",
    b"nonsense\r\n\r\n",
]


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    said = b"".join(draw(st.lists(st.sampled_from(REQUESTS), max_size=5)))
    return said + draw(st.sampled_from([b"", *LAST]))


def pieces(data: bytes, cuts: list[float]) -> list[bytes]:
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    return [data[begin:end] for begin, end in pairwise(places)]


CUTS = st.lists(st.floats(0, 1), max_size=8)


async def talk(client: Client, parts: list[bytes]) -> bytes:
    """All that is answered, without what differs from second to second."""
    for part in parts:
        if not client.is_closed:
            client.send(part)
        # Who is slow answers now.
        for answer in [answer for answer in client.echo.slow if not answer.done()]:
            answer.set_result(Response(200, b"slow"))
            await asyncio.sleep(0)
    while open_answers := [answer for answer in client.echo.slow if not answer.done()]:
        open_answers[0].set_result(Response(200, b"slow"))
        await asyncio.sleep(0)
    # Whoever has sent a body already, or waits for other answers, need not be told to go on.
    answers = client.transport.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return re.sub(rb"\r\n(date|x-request-id): [^\r]*", b"", answers)


async def hang_up(client: Client, connections: Connections) -> None:
    client.leave()
    await asyncio.sleep(0)
    assert (connections.buffered.now, len(connections)) == (0, 0)


@given(conversations(), CUTS)
def test_a_conversation_is_the_same_in_whatever_pieces_it_comes(data: bytes, cuts: list[float]) -> None:
    async def scenario() -> None:
        whole, cut = Connections(max_buffered_bytes=10_000), Connections(max_buffered_bytes=10_000)
        at_once, in_pieces = connect(connections=whole), connect(connections=cut)
        assert await talk(in_pieces, pieces(data, cuts)) == await talk(at_once, [data])
        assert in_pieces.echo.refusals == at_once.echo.refusals
        requests = [
            [(one.method, one.target, one.headers, one.body) for one in client.echo.requests]
            for client in (at_once, in_pieces)
        ]
        assert requests[0] == requests[1]
        await hang_up(at_once, whole)
        await hang_up(in_pieces, cut)

    asyncio.run(scenario())


# Bodies that look like heads, and like ends of chunks.
BODIES = [
    b"",
    b"body",
    b"\r\n\r\n",
    b"\r\ntransfer-encoding:\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
]


@st.composite
def framed(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A request, and its body."""
    body = draw(st.sampled_from(BODIES))
    head = b"\r\n" * draw(st.integers(0, 2)) + b"POST / HTTP/1.1\r\nHost: x\r\n"
    head += draw(st.sampled_from([b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"A: Content-Length: 5\r\n"]))
    if draw(st.booleans()):
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body), body
    size = draw(st.integers(1, 50))
    extension = draw(st.sampled_from([b"", b";a", b' ; a = "b"']))
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    written = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    trailer = draw(st.sampled_from([b"", b"Checksum: 1\r\n"]))
    return head + b"Transfer-Encoding: chunked\r\n\r\n%b0%b\r\n%b\r\n" % (written, extension, trailer), body


@given(st.lists(framed(), max_size=5), CUTS)
def test_each_request_ends_where_it_says_however_the_others_are_framed(
    requests: list[tuple[bytes, bytes]], cuts: list[float]
) -> None:
    client = connect()
    for piece in pieces(b"".join(request for request, _ in requests), cuts):
        client.send(piece)
    assert [one.body for one in client.echo.requests] == [body for _, body in requests]
    assert client.echo.refusals == []


@given(mutated(conversations()), CUTS)
def test_a_damaged_conversation_is_answered_or_refused_and_forgotten(data: bytes, cuts: list[float]) -> None:
    async def scenario() -> None:
        connections = Connections(max_buffered_bytes=1_000)
        client = connect(connections=connections)
        await talk(client, pieces(data, cuts))
        # Not by their first line alone: an answer says what was asked.
        statuses = re.findall(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\ncontent-type: ", client.transport.written)
        assert set(map(int, statuses)) <= {200, 400, 413, 431, 501, 503, 505}
        client.later(1_000)
        client.later(2_000)
        assert client.is_closed
        await hang_up(client, connections)

    asyncio.run(scenario())


@given(
    conversations(),
    CUTS,
    st.lists(st.sampled_from(["pause", "resume", "answer", "eof", "drain", "later", "yield"]), min_size=3, max_size=20),
)
def test_whatever_happens_meanwhile_answers_come_in_order_and_nothing_is_kept(
    data: bytes, cuts: list[float], events: list[str]
) -> None:
    async def scenario() -> None:
        connections = Connections(max_buffered_bytes=10_000)
        client = connect(connections=connections)
        client.transport.unread_bytes = 100
        to_come = pieces(data, cuts)
        is_paused = False
        for event in events:
            if to_come and not client.is_closed and not client.transport.is_reading_paused:
                client.send(to_come.pop(0))
            if event == "pause" and not is_paused:
                is_paused = True
                client.connection.pause_writing()
            elif event == "resume" and is_paused:
                is_paused = False
                client.connection.resume_writing()
            elif event == "answer" and (unanswered := [one for one in client.echo.slow if not one.done()]):
                unanswered[0].set_result(Response(200, b"slow"))
            elif event == "eof":
                client.connection.eof_received()
            elif event == "drain":
                client.connection.drain(close_idle=True)
            elif event == "later":
                client.later(20)
            await asyncio.sleep(0)
        asked = [one.target for one in client.echo.requests]
        said = [part.partition(b"\r\n\r\n")[2] for part in client.transport.written.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        told = [b"/slow" if body.startswith(b"slow") else b"/a" for body in said]
        assert told == [b"/slow" if target.startswith(b"/slow") else b"/a" for target in asked[: len(told)]]
        await hang_up(client, connections)

    asyncio.run(scenario())
