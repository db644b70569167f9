"""A connection of HTTP/2 against clients that are slow, broken or hostile. No sockets: bytes in, bytes out."""

import asyncio
import gzip
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import ngh2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.routes import TABLE
from service.http import Request, Response, error_response
from service.server.connection import (
    BODY_SECONDS,
    CLIENT_LEFT,
    MAX_REJECTED_CONNECTIONS,
    WRITE_SECONDS,
    Connections,
)
from service.server.grpc import MAX_OPEN_BYTES
from service.server.http2 import MAX_FRAME_BYTES, MAX_STREAMS
from service.server.http2_connection import MAX_UNREAD_BYTES, MAX_WAITING_MESSAGES, Http2Connection
from tests.unit.service.fakes import FakeTransport
from tests.unit.service.server.clients import GET, Echo, admit_all
from tests.unit.service.server.clients import Client as Http1Client

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
WATCH = "/grpc.health.v1.Health/Watch"
MAX_BODY_BYTES = 100_000
INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE = 3, 4, 8, 12, 14
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def message(body: bytes, is_packed: bool = False) -> bytes:
    return struct.pack(">BI", is_packed, len(body)) + body


class Answer:
    def __init__(self) -> None:
        # Of the head and of the trailers.
        self.blocks: list[dict[str, str]] = []
        self.body = b""
        self.is_over = False
        self.reset: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {name: value for block in self.blocks for name, value in block.items()}

    @property
    def status(self) -> int | None:
        """gRPC's."""
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None

    @property
    def error(self) -> str:
        return self.headers["grpc-message"]

    @property
    def messages(self) -> list[bytes]:
        found, rest = [], self.body
        while rest:
            end = 5 + int.from_bytes(rest[1:5])
            found.append(rest[5:end])
            rest = rest[end:]
        return found


class Client:
    def __init__(
        self,
        connections: Connections | None = None,
        admit: Callable[[Request], Response | None] = admit_all,
        *,
        answer: Callable[[Request], Response] | None = None,
        holds: bool = False,
    ) -> None:
        def find_and_admit(request: Request) -> Response | None:
            request.match = TABLE.find(request.method, request.target)
            return admit(request)

        def report(request: Request, status: int, _bytes: int) -> None:
            self.reported.append((request.target.decode(), status))

        self.echo = Echo()
        self.echo.answer = self.echo.hold if holds else answer
        self.reported: list[tuple[str, int]] = []
        self.transport = FakeTransport()
        self.connections = Connections() if connections is None else connections
        self.connection = Http2Connection(self.echo, self.connections, MAX_BODY_BYTES, find_and_admit, report)
        self.http2 = ngh2.Connection(ngh2.Role.CLIENT, ngh2.Configuration(max_inbound_header_list_size=2**20))
        self.answers: dict[int, Answer] = {}
        self.goaways: list[int] = []
        self._read_bytes = 0
        self.connection.connection_made(self.transport)
        self.http2.initiate_connection()

    def begin(
        self, path: str = PREDICT, headers: Mapping[str, str] | None = None, *, method: str = "POST", end: bool = False
    ) -> int:
        fields = {":method": method, ":scheme": "http", ":path": path, ":authority": "x"}
        if method == "POST":
            fields["content-type"] = "application/grpc"
        fields |= headers or {}
        number = self.http2.send_request([(k.encode(), v.encode()) for k, v in fields.items()], end_stream=end)
        self.answers[number] = Answer()
        return number

    async def turn(self) -> None:
        """Exchange what there is, until both sides are silent."""
        for _ in range(8):
            if (data := self.http2.data_to_send()) and not self.transport.is_closing():
                self.connection.data_received(data)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            new, self._read_bytes = self.transport.written[self._read_bytes :], len(self.transport.written)
            if new:
                # What comes behind a goodbye counts no more.
                with suppress(ngh2.ConnectionStateError):
                    self.http2.receive_data(new)
            for event in self.http2.events():
                self._on(event)

    def _on(self, event: object) -> None:
        if isinstance(event, ngh2.GoAwayReceived):
            self.goaways.append(event.last_stream_id)
        elif isinstance(event, ngh2.ResponseReceived | ngh2.TrailersReceived):
            block = {name.decode(): value.decode() for name, value in event.headers}
            self.answers[event.stream_id].blocks.append(block)
        elif isinstance(event, ngh2.DataReceived):
            self.answers[event.stream_id].body += event.data
        elif isinstance(event, ngh2.StreamReset):
            self.answers[event.stream_id].reset = event.error_code
        elif isinstance(event, ngh2.StreamClosed):
            self.answers[event.stream_id].is_over = True

    async def call(
        self, body: bytes, path: str = PREDICT, headers: Mapping[str, str] | None = None, *, end: bool = True
    ) -> Answer:
        """`body`: what the call sends at first, or all of it."""
        number = self.begin(path, headers)
        self.http2.send_data(number, body, end_stream=end)
        await self.turn()
        return self.answers[number]

    async def later(self, *seconds: float) -> None:
        for each in seconds:
            self.connection.sweep(time.monotonic() + each)
        await self.turn()

    async def drain(self, *, close_idle: bool) -> None:
        self.connection.drain(close_idle=close_idle)
        await self.turn()

    async def respond(self) -> None:
        self.echo.slow[0].set_result(Response(200, b"late"))
        await self.turn()

    async def leave(self) -> None:
        self.connection.connection_lost(None)
        await asyncio.sleep(0)
        assert (self.buffered, len(self.connections)) == (0, 0)

    @property
    def buffered(self) -> int:
        return self.connections.buffered.now


# Calls


async def test_call_is_a_request_whose_body_is_the_message() -> None:
    client = Client()
    answer = await client.call(message(b"body"), headers={"x-request-id": "mine"})
    (request,) = client.echo.requests
    assert (request.method, request.target, request.body) == ("GRPC", PREDICT.encode(), b"body")
    head = {":status": "200", "content-type": "application/grpc", "x-request-id": "mine"}
    assert answer.blocks == [head, {"grpc-status": "0"}]
    assert answer.messages == [PREDICT.encode() + b" body"]
    assert (client.reported, client.buffered) == ([(PREDICT, 200)], 0)


@pytest.mark.parametrize("size", [1, 3, 50])
async def test_message_may_come_in_pieces(size: int) -> None:
    client = Client()
    data = message(b"x" * 100)
    number = client.begin()
    for start in range(0, len(data), size):
        client.http2.send_data(number, data[start : start + size], end_stream=start + size >= len(data))
        await client.turn()
    assert client.answers[number].messages == [PREDICT.encode() + b" " + b"x" * 100]


@pytest.mark.parametrize(("http", "status"), {400: 3, 404: 5, 413: 8, 429: 8, 501: 12, 503: 14, 504: 4}.items())
async def test_error_has_its_status_and_a_bounded_message(http: int, status: int) -> None:
    response = error_response(http, "Größe 5 %" + "x" * 10_000)
    answer = await Client(answer=lambda _request: response).call(message(b""))
    assert (answer.status, answer.is_over) == (status, True)
    assert answer.error.startswith("Gr%C3%B6%C3%9Fe 5 %25xx")
    assert len(answer.error) < 8_000


async def test_error_may_have_a_status_of_its_own() -> None:
    client = Client(answer=lambda _request: Response(400, b'{"error":"no"}', grpc_status=9))
    assert (await client.call(message(b""))).status == 9


@pytest.mark.parametrize(
    ("body", "path", "status", "words"),
    [
        (b"", PREDICT, INVALID_ARGUMENT, "no message"),
        (message(b"body")[:-1], PREDICT, INVALID_ARGUMENT, "ends in the middle"),
        (b"\0\0", PREDICT, INVALID_ARGUMENT, "ends in the middle"),
        (message(b"a") + message(b"b"), PREDICT, INVALID_ARGUMENT, "two messages"),
        (b"\2\0\0\0\0", PREDICT, INVALID_ARGUMENT, "begins with 2"),
        (message(b"x", True), PREDICT, INVALID_ARGUMENT, "does not say how"),
        (struct.pack(">BI", 0, MAX_BODY_BYTES + 1), PREDICT, RESOURCE_EXHAUSTED, "larger than max"),
        (message(b"x"), "/a.b/C", UNIMPLEMENTED, "/a.b/C"),
        (message(b"x" * (MAX_OPEN_BYTES + 1)), WATCH, RESOURCE_EXHAUSTED, "larger than max"),
    ],
)
async def test_wrong_call_is_an_error(body: bytes, path: str, status: int, words: str) -> None:
    client = Client()
    answer = await client.call(body, path)
    assert (answer.status, client.echo.requests, client.buffered) == (status, [], 0)
    assert words in answer.error


async def test_unknown_encoding_is_unimplemented() -> None:
    answer = await Client().call(message(b"x"), headers={"grpc-encoding": "snappy"})
    assert (answer.status, answer.headers["grpc-accept-encoding"]) == (UNIMPLEMENTED, "identity, deflate, gzip")


@pytest.mark.parametrize("rest", ["+proto", "; charset=utf-8"])
async def test_content_types_of_calls(rest: str) -> None:
    assert (await Client().call(message(b""), headers={"content-type": f"application/grpc{rest}"})).status == 0


async def test_rejected_call_is_not_read_and_told_to_stop_behind_its_trailers() -> None:
    client = Client(admit=lambda _request: error_response(401, "no key"))
    answer = await client.call(message(b"x" * 50_000), end=False)
    assert (answer.status, answer.error, answer.reset) == (16, "no key", ngh2.ErrorCode.NO_ERROR)
    assert client.buffered == 0


async def test_rejection_may_have_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(admit=lambda _request: error_response(429, "no"))
    later: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(client.echo, "reject", lambda _rejection, _request: later)
    answer = await client.call(message(b"x" * 1000))
    assert (answer.status, client.buffered) == (None, 0)
    later.set_result(error_response(429, "no"))
    await client.turn()
    assert (answer.status, answer.reset) == (RESOURCE_EXHAUSTED, None)


async def test_compressed_message_gets_a_compressed_one() -> None:
    client = Client(answer=lambda _request: Response(200, b"x" * 5000))
    answer = await client.call(message(gzip.compress(b"body"), True), headers={"grpc-encoding": "gzip"})
    (request,) = client.echo.requests
    assert (request.headers[b"content-encoding"], gzip.decompress(request.body)) == (b"gzip", b"body")
    assert (answer.headers["grpc-encoding"], answer.body[0]) == ("gzip", 1)
    assert gzip.decompress(answer.messages[0]) == b"x" * 5000


async def test_responses_of_one_pass_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(holds=True)
    await client.turn()
    writes: list[bytes] = []
    monkeypatch.setattr(client.transport, "write", writes.append)
    for _ in range(5):
        client.http2.send_data(client.begin(), message(b""), end_stream=True)
    client.connection.data_received(client.http2.data_to_send())
    for future in client.echo.slow:
        # As a tick does.
        asyncio.get_running_loop().call_soon(future.set_result, Response(200, b"body"))
    for _ in range(6):
        await asyncio.sleep(0)
    assert len(writes) == 1


# Streams


async def test_messages_of_a_stream_are_answered_in_order() -> None:
    client = Client()
    number = client.begin(STREAM)
    client.http2.send_data(number, message(b"a") + message(b"b"))
    await client.turn()
    answer = client.answers[number]
    assert (answer.messages, answer.is_over) == ([STREAM.encode() + b" a", STREAM.encode() + b" b"], False)
    # It may be silent between messages.
    await client.later(BODY_SECONDS + 1)
    client.http2.send_data(number, message(b"c"), end_stream=True)
    await client.turn()
    assert (len(answer.messages), answer.status) == (3, 0)


async def test_stream_goes_on_after_an_error_and_each_message_is_admitted() -> None:
    rejections = iter([None, None, error_response(429, "too many"), None])
    client = Client(admit=lambda _request: next(rejections))
    client.echo.answer = lambda request: error_response(400, "no") if request.body == b"a" else Response(200, b"yes")
    answer = await client.call(b"".join(map(message, (b"a", b"b", b"c"))), STREAM)
    assert answer.messages == [b"\x0a\x02no", b"yes", b"\x0a\x08too many"]
    assert (len(client.echo.requests), answer.status) == (2, 0)


async def test_stream_without_messages_ends() -> None:
    client = Client()
    number = client.begin(STREAM, end=True)
    await client.turn()
    assert client.answers[number].status == 0


async def test_messages_that_wait_are_bounded() -> None:
    answer = await Client(holds=True).call(message(b"") * (MAX_WAITING_MESSAGES + 2), STREAM, end=False)
    assert answer.status == RESOURCE_EXHAUSTED


async def test_watcher_hears_of_changes() -> None:
    states = iter([b"a", b"a", b"b"])
    client = Client(answer=lambda _request: Response(200, next(states)))
    answer = await client.call(message(b""), WATCH)
    await client.later(1, 2)
    assert (answer.messages, answer.is_over) == ([b"a", b"b"], False)


# Clients that leave


async def test_calls_are_cancelled_when_their_client_leaves() -> None:
    client = Client(holds=True)
    await client.call(message(b"body"))
    client.http2.reset_stream(*client.answers)
    await client.turn()
    assert client.echo.slow[0].cancelled()
    assert (client.reported, client.buffered) == ([(PREDICT, CLIENT_LEFT)], 0)
    await client.call(message(b"body"))
    await client.call(message(b"half")[:6], end=False)
    assert client.buffered > 0
    await client.leave()
    assert client.echo.slow[1].cancelled()


# Plain requests


@pytest.mark.parametrize(("method", "body"), [("GET", b"/v1/models "), ("HEAD", b"")])
async def test_plain_request_gets_its_response(method: str, body: bytes) -> None:
    client = Client()
    number = client.begin("/v1/models", method=method, end=True)
    await client.turn()
    answer = client.answers[number]
    assert (answer.headers[":status"], answer.headers["content-length"], answer.body) == ("200", "11", body)
    (request,) = client.echo.requests
    assert (request.method, request.headers[b"host"], request.http_version) == (method, b"x", "2")


@pytest.mark.parametrize("length", [{}, {"content-length": str(MAX_BODY_BYTES + 1)}])
async def test_body_too_long_is_413(length: dict[str, str]) -> None:
    client = Client()
    headers = {"content-type": "application/json", **length}
    answer = await client.call(b"x" * (MAX_BODY_BYTES + 1), "/v1/models/a:predict", headers)
    assert (answer.headers[":status"], client.buffered) == ("413", 0)


# Limits and waits


async def test_call_beyond_the_buffers_is_unavailable() -> None:
    client = Client(Connections(max_buffered_bytes=1000))
    answer = await client.call(message(b"x" * 2000))
    assert (answer.status, client.echo.rejected, client.buffered) == (UNAVAILABLE, ["buffers_full"], 0)


async def test_connection_too_many_is_told_so_and_further_ones_are_aborted() -> None:
    connections = Connections(max_connections=1)
    first, second, *others = (Client(connections) for _ in range(MAX_REJECTED_CONNECTIONS + 2))
    answer = await second.call(message(b""))
    assert answer.status == UNAVAILABLE
    assert "SERVING_MAX_CONNECTIONS" in answer.error
    assert (await first.call(message(b""))).status == 0
    assert [each.transport.is_aborted for each in others[-2:]] == [False, True]


async def test_head_too_large_is_an_error() -> None:
    client = Client()
    answer = await client.call(message(b""), headers={f"x{number}": "y" for number in range(120)})
    assert answer.status == RESOURCE_EXHAUSTED
    assert (await client.call(message(b""))).status == 0


async def test_slow_message_is_given_up() -> None:
    client = Client()
    answer = await client.call(message(b"body")[:7], end=False)
    await client.later(BODY_SECONDS - 1)
    assert not answer.is_over
    await client.later(BODY_SECONDS + 1)
    assert (answer.status, client.buffered) == (DEADLINE_EXCEEDED, 0)


async def test_client_that_does_not_read_is_left() -> None:
    client = Client()
    client.transport.unread_bytes = 1000
    await client.call(message(b""))
    await client.later(WRITE_SECONDS - 1)
    assert not client.transport.is_aborted
    await client.later(WRITE_SECONDS + 1)
    assert client.transport.is_aborted


async def test_closed_window_bounds_what_waits() -> None:
    client = Client(Connections(max_buffered_bytes=2 * MAX_UNREAD_BYTES))
    client.http2.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 0})
    await client.turn()
    client.echo.answer = lambda _request: Response(200, b"x" * (MAX_UNREAD_BYTES // 4))
    for _ in range(6):
        answer = await client.call(message(b""))
    assert (answer.status, answer.messages) == (UNAVAILABLE, [])
    assert client.buffered < MAX_UNREAD_BYTES * 1.6
    await client.later(WRITE_SECONDS + 1)
    assert client.transport.is_aborted
    await client.leave()


async def test_idle_connection_is_closed() -> None:
    client = Client(Connections(keep_alive_seconds=10))
    await client.call(message(b""))
    await client.later(9)
    assert client.goaways == []
    await client.later(11, 12)
    assert (len(client.goaways), client.transport.is_closing()) == (2, True)


async def test_old_connection_is_retired_and_its_calls_answered() -> None:
    client = Client(Connections(max_age_seconds=100), holds=True)
    answer = await client.call(message(b""))
    await client.later(111, 112)
    assert (client.goaways[-1:], client.transport.is_closing()) == ([*client.answers], False)
    await client.respond()
    assert (answer.messages, client.transport.is_closing()) == ([b"late"], True)


async def test_draining_connection_takes_what_was_under_way() -> None:
    client = Client()
    await client.turn()
    client.connection.drain(close_idle=False)
    # It had not heard of it.
    assert (await client.call(message(b""))).status == 0
    await client.drain(close_idle=True)
    assert client.transport.is_closing()


@pytest.mark.parametrize("path", [WATCH, STREAM])
async def test_draining_ends_calls_that_would_last_after_their_last_response(path: str) -> None:
    client = Client(holds=path == STREAM)
    answer = await client.call(message(b""), path, end=path == WATCH)
    await client.drain(close_idle=False)
    await client.drain(close_idle=True)
    if path == STREAM:
        assert answer.status is None
        await client.respond()
        await client.drain(close_idle=True)
    assert (len(answer.messages), answer.status) == (1, UNAVAILABLE)
    assert client.transport.is_closing()


# Wrong frames: the library sees to them, and this is what the service relies on


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def head(stream: int, fields: bytes, *, end: bool = True) -> bytes:
    return frame(1, 5 if end else 4, stream, fields)


def field(name: bytes, value: bytes) -> bytes:
    return b"\x40%c%b%c%b" % (len(name), name, len(value), value)


def frames_for(sent: bytes) -> set[tuple[int, int]]:
    """Kind and stream of the frames that answer these."""
    client = Client()
    client.connection.data_received(PREFACE + frame(4) + sent)
    client.connection._flush()
    found, rest = set(), client.transport.written
    while rest:
        found.add((rest[3], int.from_bytes(rest[5:9])))
        rest = rest[9 + int.from_bytes(rest[:3]) :]
    return found


# :method, :scheme http, :path /, :authority x
GETS, POSTS = b"\x82\x86\x84\x41\x01x", b"\x83\x86\x84\x41\x01x"
LENGTH_5 = b"\x0f\x0d\x015"
HEADERS, RST_STREAM = 1, 3


@pytest.mark.parametrize(
    "sent",
    [
        head(1, POSTS + LENGTH_5, end=False) + frame(0, 1, 1, b"x"),
        head(1, POSTS + LENGTH_5, end=False) + frame(0, 0, 1, b"123456"),
        head(1, POSTS + LENGTH_5),
        *(head(1, GETS + field(*each)) for each in ((b"X", b"a"), (b" ", b"a"), (b"a:b", b"a"))),
        *(head(1, GETS + field(b"x", value)) for value in (b"a\n", b"a\0", b" a")),
        *(head(1, GETS + field(*each)) for each in ((b"connection", b"close"), (b"te", b"gzip"))),
        *(head(1, fields) for fields in (b"\x82\x86\x41\x01x", b"\x82\x86\x44\0\x41\x01x", b"\x86\x84\x41\x01x")),
        *(head(1, first + GETS) for first in (b"\x82", b"\x88", field(b"x", b"a"), field(b":x", b"a"))),
    ],
)
async def test_malformed_request_resets_its_stream(sent: bytes) -> None:
    frames = frames_for(sent + head(3, GETS))
    assert frames & {(RST_STREAM, 1), (HEADERS, 1), (HEADERS, 3)} == {(RST_STREAM, 1), (HEADERS, 3)}


async def test_streams_beyond_the_limit_are_refused() -> None:
    frames = frames_for(b"".join(head(2 * index + 1, POSTS, end=False) for index in range(MAX_STREAMS + 1)))
    assert {stream for kind, stream in frames if kind == RST_STREAM} == {2 * MAX_STREAMS + 1}


@given(st.binary(max_size=300))
def test_fuzzed_frames_raise_nothing_and_hold_nothing(data: bytes) -> None:
    async def run() -> None:
        client = Client()
        client.connection.data_received(client.http2.data_to_send())
        if not client.transport.is_closing():
            client.connection.data_received(data)
        await asyncio.sleep(0)
        await client.leave()

    asyncio.run(run())


@given(st.data())
def test_fuzzed_calls_raise_nothing_and_hold_nothing(data: st.DataObject) -> None:
    async def run() -> None:
        client = Client()
        for _ in range(3):
            number = client.begin(data.draw(st.sampled_from([PREDICT, STREAM, WATCH, "/v2"])))
            body = message(data.draw(st.binary(max_size=40)))
            client.http2.send_data(number, body, end_stream=data.draw(st.booleans()))
        sent = bytearray(client.http2.data_to_send())
        for _ in range(data.draw(st.integers(0, 4))):
            sent[data.draw(st.integers(len(PREFACE), len(sent) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(sent)))
        for part in (bytes(sent[:cut]), bytes(sent[cut:])):
            if part and not client.transport.is_closing():
                client.connection.data_received(part)
                await asyncio.sleep(0)
        await client.leave()

    asyncio.run(run())


FLOODS = {
    "CONTINUATION": frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x86") * 10_000,
    "PING": frame(6, 0, 0, b"12345678") * 20_000,
    "SETTINGS": frame(4, 0, 0, struct.pack(">HI", 3, 1) * 100) * 200,
    "empty DATA": head(1, POSTS, end=False) + frame(0, 0, 1) * 20_000,
    "wrong stream": frame(0, 0, 7, b"x"),
    "huge frame": frame(0, 0, 1, b"x" * (MAX_FRAME_BYTES + 1)),
    "unknown frames": frame(200, 0, 0, b"x" * 100) * 10_000,
    "HPACK bomb": head(1, POSTS + b"\x40\x01a\x7f\xe1\x1e" + b"b" * 4000 + b"\xbe" * 10_000, end=False),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_flood_costs_little_memory(flood: bytes) -> None:
    client = Client()
    await client.turn()
    written = len(client.transport.written)
    for start in range(0, len(flood), 65536):
        if not client.transport.is_closing():
            client.connection.data_received(flood[start : start + 65536])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert client.buffered < 1_000_000
    # No more than an acknowledgement for each frame.
    assert len(client.transport.written) - written < len(flood) + 1000
    await client.leave()


async def test_rapid_resets_hold_nothing() -> None:
    client = Client(holds=True)
    for _ in range(300):
        number = client.begin()
        client.http2.send_data(number, message(b""), end_stream=True)
        client.http2.reset_stream(number)
        if number % 100 == 1:
            await client.turn()
    await client.turn()
    assert all(each.cancelled() for each in client.echo.slow)
    assert client.buffered == 0


async def test_many_calls_on_one_connection() -> None:
    client = Client()
    for _ in range(MAX_STREAMS + 10):
        assert (await client.call(message(b"body"))).status == 0
    assert client.buffered == 0


# Where HTTP/1.1 is spoken, too


@pytest.mark.parametrize("cut", [1, 8, len(PREFACE)])
async def test_preface_turns_a_connection_into_one_of_http2(cut: int) -> None:
    received: list[bytes] = []

    class Successor(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.append(data)

    client = Http1Client(http2=Successor)
    client.transport.set_protocol = lambda protocol: None  # type: ignore[method-assign]
    client.send(PREFACE[:cut])
    if not received:
        client.send(PREFACE[cut:])
    assert (b"".join(received), len(client.connections), client.received) == (PREFACE, 0, b"")


async def test_preface_behind_a_request_is_505() -> None:
    assert b"HTTP/1.1 505" in Http1Client(GET + PREFACE, http2=asyncio.Protocol).received
