"""A connection of HTTP/2 against clients that are slow, broken or hostile. No sockets: bytes in, bytes out."""

import asyncio
import gzip
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

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
    HttpConnection,
)
from service.server.grpc import MAX_OPEN_BYTES
from service.server.http2_connection import MAX_UNREAD_BYTES, MAX_WAITING_MESSAGES, Http2Connection
from tests.unit.service.fakes import FakeTransport
from tests.unit.service.server.clients import Echo

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
WATCH = "/grpc.health.v1.Health/Watch"
MAX_BODY_BYTES = 100_000
INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE = 3, 4, 5, 8, 12, 14
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message(body: bytes, is_packed: bool = False) -> bytes:
    return struct.pack(">BI", is_packed, len(body)) + body


@dataclass
class Answer:
    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_over: bool = False
    reset: int | None = None

    @property
    def status(self) -> int | None:
        """gRPC's."""
        text = (self.headers | self.trailers).get("grpc-status")
        return None if text is None else int(text)

    @property
    def error(self) -> str:
        return (self.headers | self.trailers)["grpc-message"]

    @property
    def messages(self) -> list[bytes]:
        found, rest = [], self.body
        while rest:
            _, length = struct.unpack_from(">BI", rest)
            found.append(rest[5 : 5 + length])
            rest = rest[5 + length :]
        return found


class Stub(Echo):
    """An Echo whose answers a test may set."""

    answer: "Callable[[Request], Response | asyncio.Future[Response]] | None" = None

    def dispatch(self, request: Request) -> "Response | asyncio.Future[Response]":
        response = super().dispatch(request)
        return response if self.answer is None else self.answer(request)


class Client:
    def __init__(
        self,
        connections: Connections | None = None,
        admit: Callable[[Request], Response | None] = lambda _request: None,
    ) -> None:
        def find_and_admit(request: Request) -> Response | None:
            request.match = TABLE.find(request.method, request.target)
            return admit(request)

        self.echo = Stub()
        self.reported: list[tuple[bytes, int]] = []
        self.transport = FakeTransport()
        self.connections = Connections() if connections is None else connections
        self.connection = Http2Connection(
            self.echo,
            self.connections,
            MAX_BODY_BYTES,
            find_and_admit,
            lambda request, status, _bytes: self.reported.append((request.target, status)),
        )
        self.http2 = ngh2.Connection(ngh2.Role.CLIENT, ngh2.Configuration(max_inbound_header_list_size=2**20))
        self.answers: dict[int, Answer] = {}
        self.goaways: list[int] = []
        self._read_bytes = 0
        self.connection.connection_made(self.transport)
        self.http2.initiate_connection()

    def begin(
        self,
        path: str = PREDICT,
        headers: Mapping[str, str] | None = None,
        *,
        end: bool = False,
        method: str = "POST",
    ) -> int:
        pseudo = {":method": method, ":scheme": "http", ":path": path, ":authority": "x"}
        own = {"content-type": "application/grpc"} if method == "POST" else {}
        fields = {**pseudo, **own, **(headers or {})}
        number = self.http2.send_request([(k.encode(), v.encode()) for k, v in fields.items()], end_stream=end)
        self.answers[number] = Answer()
        return number

    def send(self, number: int, data: bytes, *, end: bool = True) -> None:
        self.http2.send_data(number, data, end_stream=end)

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
        if isinstance(event, ngh2.ResponseReceived):
            self.answers[event.stream_id].headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, ngh2.DataReceived):
            self.answers[event.stream_id].body += event.data
        elif isinstance(event, ngh2.TrailersReceived):
            self.answers[event.stream_id].trailers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, ngh2.StreamReset):
            self.answers[event.stream_id].reset = event.error_code
        elif isinstance(event, ngh2.StreamClosed):
            self.answers[event.stream_id].is_over = True
        elif isinstance(event, ngh2.GoAwayReceived):
            self.goaways.append(event.last_stream_id)

    async def call(self, body: bytes, path: str = PREDICT, headers: Mapping[str, str] | None = None) -> Answer:
        """`body`: everything that the call sends."""
        number = self.begin(path, headers)
        self.send(number, body)
        await self.turn()
        return self.answers[number]

    def later(self, seconds: float) -> None:
        self.connection.sweep(time.monotonic() + seconds)

    @property
    def buffered(self) -> int:
        return self.connections.buffered.now


# Calls


async def test_call_is_a_request_whose_body_is_the_message() -> None:
    client = Client()
    answer = await client.call(message(b"body"), headers={"x-request-id": "mine"})
    (request,) = client.echo.requests
    assert (request.method, request.target, request.body) == ("GRPC", PREDICT.encode(), b"body")
    assert answer.headers == {":status": "200", "content-type": "application/grpc", "x-request-id": "mine"}
    assert answer.messages == [PREDICT.encode() + b" body"]
    assert answer.trailers == {"grpc-status": "0"}
    assert client.reported == [(PREDICT.encode(), 200)]
    assert client.buffered == 0


@pytest.mark.parametrize("size", [1, 3, 5, 7, 1000])
async def test_message_may_come_in_pieces(size: int) -> None:
    client = Client()
    data = message(b"x" * 5000)
    number = client.begin()
    for start in range(0, len(data), size):
        client.send(number, data[start : start + size], end=start + size >= len(data))
        if size > 100:
            await client.turn()
    await client.turn()
    assert len(client.answers[number].messages[0]) == len(PREDICT) + 1 + 5000


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (error_response(400, "no"), INVALID_ARGUMENT),
        (error_response(404, "no"), NOT_FOUND),
        (error_response(413, "no"), RESOURCE_EXHAUSTED),
        (error_response(429, "no"), RESOURCE_EXHAUSTED),
        (error_response(501, "no"), UNIMPLEMENTED),
        (error_response(503, "no"), UNAVAILABLE),
        (error_response(504, "no"), DEADLINE_EXCEEDED),
        (Response(400, b'{"error":"no"}', grpc_status=9), 9),
    ],
)
async def test_error_has_its_status(response: Response, status: int) -> None:
    client = Client()
    client.echo.answer = lambda _request: response
    answer = await client.call(message(b""))
    assert (answer.status, answer.error, answer.is_over) == (status, "no", True)


async def test_error_message_is_percent_encoded_and_bounded() -> None:
    client = Client()
    client.echo.answer = lambda _request: error_response(400, "Größe 5 %" + "x" * 10_000)
    answer = await client.call(message(b""))
    assert answer.error.startswith("Gr%C3%B6%C3%9Fe 5 %25xx")
    assert len(answer.error) < 8_000


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
    assert answer.status == status
    assert words in answer.error
    assert client.echo.requests == []
    assert client.buffered == 0


async def test_unknown_encoding_is_unimplemented() -> None:
    answer = await Client().call(message(b"x"), headers={"grpc-encoding": "snappy"})
    assert (answer.status, answer.headers["grpc-accept-encoding"]) == (UNIMPLEMENTED, "identity, deflate, gzip")


async def test_client_is_told_to_stop_behind_the_trailers() -> None:
    client = Client()
    number = client.begin()
    client.send(number, struct.pack(">BI", 0, MAX_BODY_BYTES + 1) + b"x", end=False)
    await client.turn()
    answer = client.answers[number]
    assert (answer.status, answer.reset) == (RESOURCE_EXHAUSTED, ngh2.ErrorCode.NO_ERROR)


@pytest.mark.parametrize("path", ["", "+proto", "; charset=utf-8"])
async def test_content_types_of_calls(path: str) -> None:
    answer = await Client().call(message(b""), headers={"content-type": f"application/grpc{path}"})
    assert answer.status == 0


async def test_rejected_call_is_not_read() -> None:
    client = Client(admit=lambda _request: error_response(401, "no key"))
    number = client.begin()
    client.send(number, message(b"x" * 50_000), end=False)
    await client.turn()
    assert (client.answers[number].status, client.answers[number].error) == (16, "no key")
    assert client.buffered == 0


async def test_rejection_may_have_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(admit=lambda _request: error_response(429, "no"))
    later: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(client.echo, "reject", lambda _rejection, _request: later)
    number = client.begin()
    client.send(number, message(b"x" * 1000))
    await client.turn()
    assert (client.answers[number].status, client.buffered) == (None, 0)
    later.set_result(error_response(429, "no"))
    await client.turn()
    assert (client.answers[number].status, client.answers[number].reset) == (RESOURCE_EXHAUSTED, None)


async def test_compressed_message_gets_a_compressed_one() -> None:
    client = Client()
    client.echo.answer = lambda _request: Response(200, b"x" * 5000)
    answer = await client.call(message(gzip.compress(b"body"), True), headers={"grpc-encoding": "gzip"})
    (request,) = client.echo.requests
    assert (request.headers[b"content-encoding"], gzip.decompress(request.body)) == (b"gzip", b"body")
    assert (answer.headers["grpc-encoding"], answer.body[0]) == ("gzip", 1)
    assert gzip.decompress(answer.messages[0]) == b"x" * 5000


async def test_responses_of_one_pass_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    await client.turn()
    loop = asyncio.get_running_loop()

    def dispatch(request: Request) -> "asyncio.Future[Response]":
        # As a tick does.
        future: asyncio.Future[Response] = loop.create_future()
        loop.call_soon(future.set_result, Response(200, b"body"))
        return future

    client.echo.answer = dispatch
    writes: list[bytes] = []
    monkeypatch.setattr(client.transport, "write", writes.append)
    for _ in range(5):
        client.send(client.begin(), message(b""))
    client.connection.data_received(client.http2.data_to_send())
    for _ in range(6):
        await asyncio.sleep(0)
    assert len(writes) == 1


# Streams


async def test_messages_of_a_stream_are_answered_in_order() -> None:
    client = Client()
    number = client.begin(STREAM)
    client.send(number, message(b"a") + message(b"b"), end=False)
    await client.turn()
    assert client.answers[number].messages == [STREAM.encode() + b" a", STREAM.encode() + b" b"]
    assert not client.answers[number].is_over
    client.send(number, message(b"c"))
    await client.turn()
    assert (len(client.answers[number].messages), client.answers[number].status) == (3, 0)


async def test_stream_goes_on_after_an_error() -> None:
    client = Client()
    client.echo.answer = lambda request: error_response(400, "no") if request.body == b"a" else Response(200, b"yes")
    answer = await client.call(message(b"a") + message(b"b"), STREAM)
    assert answer.messages == [b"\x0a\x02no", b"yes"]
    assert answer.status == 0


async def test_stream_without_messages_ends() -> None:
    client = Client()
    number = client.begin(STREAM, end=True)
    await client.turn()
    assert client.answers[number].status == 0


async def test_messages_that_wait_are_bounded() -> None:
    client = Client()
    number = client.begin(STREAM)
    never: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    client.echo.answer = lambda _request: never
    client.send(number, message(b"") * (MAX_WAITING_MESSAGES + 2), end=False)
    await client.turn()
    assert client.answers[number].status == RESOURCE_EXHAUSTED


async def test_each_message_of_a_stream_is_admitted() -> None:
    rejections = iter([None, None, error_response(429, "too many"), None])
    client = Client(admit=lambda _request: next(rejections))
    answer = await client.call(message(b"a") * 4, STREAM)
    assert answer.messages[2] == b"\x0a\x08too many"
    assert (len(answer.messages), len(client.echo.requests), answer.status) == (4, 3, 0)


async def test_stream_under_way_is_ended_after_its_last_response_when_draining() -> None:
    client = Client()
    client.echo.answer = _held(client)
    number = client.begin(STREAM)
    client.send(number, message(b"a"), end=False)
    await client.turn()
    for close_idle in (False, True):
        client.connection.drain(close_idle=close_idle)
    client.echo.slow[0].set_result(Response(200, b"late"))
    await client.turn()
    client.connection.drain(close_idle=True)
    await client.turn()
    assert (client.answers[number].messages, client.answers[number].status) == ([b"late"], UNAVAILABLE)
    assert client.transport.is_closing()


async def test_watcher_hears_of_changes() -> None:
    client = Client()
    states = iter([b"a", b"a", b"b"])
    client.echo.answer = lambda _request: Response(200, next(states))
    answer = await client.call(message(b""), WATCH)
    for _ in range(2):
        client.later(1)
        await client.turn()
    assert answer.messages == [b"a", b"b"]
    assert not answer.is_over


# Clients that leave


async def test_call_is_cancelled_when_its_client_resets_it() -> None:
    client = Client()
    client.echo.answer = _held(client)
    number = client.begin()
    client.send(number, message(b"body"))
    await client.turn()
    client.http2.reset_stream(number)
    await client.turn()
    assert client.echo.slow[0].cancelled()
    assert client.reported == [(PREDICT.encode(), CLIENT_LEFT)]
    assert client.buffered == 0


async def test_all_calls_are_cancelled_when_the_connection_is_lost() -> None:
    client = Client()
    client.echo.answer = _held(client)
    client.send(client.begin(), message(b"body"))
    client.send(client.begin(), message(b"half")[:6], end=False)
    await client.turn()
    assert client.buffered > 0
    client.connection.connection_lost(None)
    await asyncio.sleep(0)
    assert client.echo.slow[0].cancelled()
    assert (client.buffered, len(client.connections)) == (0, 0)


def _held(client: Client) -> "Callable[[Request], asyncio.Future[Response]]":
    def dispatch(_request: Request) -> "asyncio.Future[Response]":
        client.echo.slow.append(asyncio.get_running_loop().create_future())
        return client.echo.slow[-1]

    return dispatch


# Plain requests


async def test_plain_request_gets_its_response() -> None:
    client = Client()
    number = client.begin("/v1/models", method="GET", end=True)
    await client.turn()
    answer = client.answers[number]
    assert (answer.headers[":status"], answer.body) == ("200", b"/v1/models ")
    assert answer.headers["content-length"] == str(len(answer.body))
    (request,) = client.echo.requests
    assert (request.method, request.headers[b"host"], request.http_version) == ("GET", b"x", "2")


async def test_head_has_no_body() -> None:
    client = Client()
    number = client.begin("/v1/models", method="HEAD", end=True)
    await client.turn()
    assert (client.answers[number].headers["content-length"], client.answers[number].body) == ("11", b"")


@pytest.mark.parametrize("says_length", [True, False])
async def test_body_too_long_is_413(says_length: bool) -> None:
    client = Client()
    length = {"content-length": str(MAX_BODY_BYTES + 1)} if says_length else {}
    number = client.begin("/v1/models/a:predict", {"content-type": "application/json", **length})
    client.send(number, b"x" * (MAX_BODY_BYTES + 1))
    await client.turn()
    assert client.answers[number].headers[":status"] == "413"
    assert client.buffered == 0


# Limits and waits


async def test_call_beyond_the_buffers_is_unavailable() -> None:
    client = Client(Connections(max_buffered_bytes=1000))
    answer = await client.call(message(b"x" * 2000))
    assert (answer.status, client.echo.rejected, client.buffered) == (UNAVAILABLE, ["buffers_full"], 0)


async def test_one_connection_too_many_is_told_so() -> None:
    connections = Connections(max_connections=1)
    first, second = Client(connections), Client(connections)
    answer = await second.call(message(b""))
    assert answer.status == UNAVAILABLE
    assert "SERVING_MAX_CONNECTIONS" in answer.error
    assert (await first.call(message(b""))).status == 0


async def test_further_connections_are_closed_without_a_word() -> None:
    connections = Connections(max_connections=1)
    clients = [Client(connections) for _ in range(MAX_REJECTED_CONNECTIONS + 2)]
    assert clients[-1].transport.is_aborted
    assert not clients[-2].transport.is_aborted


async def test_head_too_large_is_an_error() -> None:
    client = Client()
    answer = await client.call(message(b""), headers={f"x{number}": "y" for number in range(120)})
    assert answer.status == RESOURCE_EXHAUSTED
    assert (await client.call(message(b""))).status == 0


async def test_slow_message_is_given_up() -> None:
    client = Client()
    number = client.begin()
    client.send(number, message(b"body")[:7], end=False)
    await client.turn()
    client.later(BODY_SECONDS + 1)
    await client.turn()
    assert client.answers[number].status == DEADLINE_EXCEEDED
    assert client.buffered == 0


async def test_stream_may_be_silent_between_messages() -> None:
    client = Client()
    number = client.begin(STREAM)
    client.send(number, message(b"a"), end=False)
    await client.turn()
    client.later(BODY_SECONDS + 1)
    await client.turn()
    assert not client.answers[number].is_over


async def test_client_that_does_not_read_is_left() -> None:
    client = Client()
    client.transport.unread_bytes = 1000
    await client.call(message(b""))
    client.later(WRITE_SECONDS - 1)
    assert not client.transport.is_aborted
    client.later(WRITE_SECONDS + 1)
    assert client.transport.is_aborted


async def test_closed_window_bounds_what_waits() -> None:
    client = Client(Connections(max_buffered_bytes=2 * MAX_UNREAD_BYTES))
    client.http2.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 0})
    await client.turn()
    client.echo.answer = lambda _request: Response(200, b"x" * (MAX_UNREAD_BYTES // 4))
    for _ in range(6):
        number = client.begin()
        client.send(number, message(b""))
        await client.turn()
    assert client.answers[number].status == UNAVAILABLE
    assert client.buffered < MAX_UNREAD_BYTES * 1.6
    client.later(WRITE_SECONDS + 1)
    assert client.transport.is_aborted
    client.connection.connection_lost(None)
    assert client.buffered == 0


async def test_idle_connection_is_closed() -> None:
    client = Client(Connections(keep_alive_seconds=10))
    await client.call(message(b""))
    client.later(9)
    await client.turn()
    assert client.goaways == []
    client.later(11)
    client.later(12)
    await client.turn()
    assert len(client.goaways) == 2
    assert client.transport.is_closing()


async def test_old_connection_is_retired_and_its_calls_answered() -> None:
    client = Client(Connections(max_age_seconds=100))
    client.echo.answer = _held(client)
    number = client.begin()
    client.send(number, message(b""))
    await client.turn()
    client.later(111)
    client.later(112)
    await client.turn()
    assert client.goaways[-1] == number
    assert not client.transport.is_closing()
    client.echo.slow[0].set_result(Response(200, b"late"))
    await client.turn()
    assert client.answers[number].messages == [b"late"]
    assert client.transport.is_closing()


async def test_draining_connection_takes_what_was_under_way() -> None:
    client = Client()
    await client.turn()
    client.connection.drain(close_idle=False)
    # It had not heard of it.
    number = client.begin()
    client.send(number, message(b""))
    await client.turn()
    assert client.answers[number].status == 0
    client.connection.drain(close_idle=True)
    await client.turn()
    assert client.transport.is_closing()


@pytest.mark.parametrize("path", [WATCH, STREAM])
async def test_draining_ends_calls_that_would_last(path: str) -> None:
    client = Client()
    number = client.begin(path)
    client.send(number, message(b""), end=path == WATCH)
    await client.turn()
    for close_idle in (False, True):
        client.connection.drain(close_idle=close_idle)
    await client.turn()
    assert client.answers[number].status == UNAVAILABLE
    assert client.transport.is_closing()


# Hostile clients


@given(st.binary(max_size=300))
def test_fuzzed_frames_raise_nothing_and_hold_nothing(data: bytes) -> None:
    async def run() -> None:
        client = Client()
        client.connection.data_received(client.http2.data_to_send())
        if not client.transport.is_closing():
            client.connection.data_received(data)
        await asyncio.sleep(0)
        client.connection.connection_lost(None)
        assert client.buffered == 0

    asyncio.run(run())


@given(st.data())
def test_fuzzed_calls_raise_nothing_and_hold_nothing(data: st.DataObject) -> None:
    async def run() -> None:
        client = Client()
        for _ in range(3):
            number = client.begin(data.draw(st.sampled_from([PREDICT, STREAM, WATCH, "/v2"])))
            client.send(number, message(data.draw(st.binary(max_size=40))), end=data.draw(st.booleans()))
        sent = bytearray(client.http2.data_to_send())
        for _ in range(data.draw(st.integers(0, 4))):
            sent[data.draw(st.integers(len(PREFACE), len(sent) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(sent)))
        for part in (bytes(sent[:cut]), bytes(sent[cut:])):
            if part and not client.transport.is_closing():
                client.connection.data_received(part)
                await asyncio.sleep(0)
        client.connection.connection_lost(None)
        assert client.buffered == 0

    asyncio.run(run())


FLOODS = {
    "CONTINUATION": frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x86") * 10_000,
    "PING": frame(6, 0, 0, b"12345678") * 20_000,
    "SETTINGS": frame(4, 0, 0, struct.pack(">HI", 3, 1) * 100) * 200,
    "empty DATA": frame(1, 4, 1, b"\x83\x86\x44\x01/\x41\x01x") + frame(0, 0, 1, b"") * 20_000,
    "wrong stream": frame(0, 0, 7, b"x"),
    "huge frame": frame(0, 0, 1, b"")[:0] + b"\xff\xff\xff\0\0\0\0\0\1",
    "unknown frames": frame(200, 0, 0, b"x" * 100) * 10_000,
    "HPACK bomb": frame(1, 4, 1, b"\x83\x86\x44\x01/\x41\x01x\x40\x01a\x7f\xe1\x1e" + b"b" * 4000 + b"\xbe" * 10_000),
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
    client.connection.connection_lost(None)
    assert client.buffered == 0


async def test_rapid_resets_hold_nothing() -> None:
    client = Client()
    client.echo.answer = _held(client)
    for _ in range(500):
        number = client.begin()
        client.send(number, message(b""))
        client.http2.reset_stream(number)
        if number % 100 == 1:
            await client.turn()
    await client.turn()
    assert all(each.cancelled() for each in client.echo.slow)
    assert client.buffered == 0


async def test_many_calls_on_one_connection() -> None:
    client = Client()
    for _ in range(2000):
        answer = await client.call(message(b"body"))
    assert answer.status == 0
    assert client.buffered == 0


# Where HTTP/1.1 is spoken, too


@pytest.mark.parametrize("cut", range(1, len(PREFACE), 3))
async def test_preface_turns_a_connection_into_one_of_http2(cut: int) -> None:
    echo, transport, connections = Echo(), FakeTransport(), Connections()
    successors: list[bytes] = []

    class Successor(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            successors.append(data)

    def find(request: Request) -> Response | None:
        return None

    transport.set_protocol = lambda protocol: None  # type: ignore[method-assign]
    connection = HttpConnection(echo, connections, 100, find, http2=Successor)
    connection.connection_made(transport)
    data = PREFACE + b"\0\0\0\4"
    connection.data_received(data[:cut])
    if not successors:
        connection.data_received(data[cut:])
    else:
        successors[0] += data[cut:]
    assert b"".join(successors) == data
    assert (len(connections), transport.written) == (0, b"")


async def test_preface_behind_a_request_is_505() -> None:
    transport = FakeTransport()
    connection = HttpConnection(Echo(), Connections(), 100, lambda _request: None, http2=asyncio.Protocol)
    connection.connection_made(transport)
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + PREFACE)
    assert b"HTTP/1.1 505" in transport.written
