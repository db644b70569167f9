"""What a server must do with wrong frames, by section of RFC 9113. The library does it; this is what we rely on."""

import struct

import pytest

from service.http import Request, Response
from service.server.connection import Connections
from service.server.http2 import MAX_FRAME_BYTES
from service.server.http2_connection import Http2Connection
from tests.unit.service.fakes import FakeTransport
from tests.unit.service.server.clients import Echo

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, COMPRESSION_ERROR = 6, 9
# :method GET, :scheme http, :path /, :authority x
GET = b"\x82\x86\x84\x41\x01x"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def setting(number: int, value: int) -> bytes:
    return frame(SETTINGS, payload=struct.pack(">HI", number, value))


def request(stream: int = 1, fields: bytes = GET) -> bytes:
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, fields)


def answered(sent: bytes) -> list[tuple[int, int, bytes]]:
    """Kind, stream and payload of the frames that the server sends."""
    transport = FakeTransport()

    def admit(_request: Request) -> Response | None:
        return None

    connection = Http2Connection(Echo(), Connections(), 1000, admit)
    connection.connection_made(transport)
    connection.data_received(PREFACE + frame(SETTINGS) + sent)
    if not transport.is_closing():
        connection._flush()
    found, rest = [], transport.written
    while rest:
        length = int.from_bytes(rest[:3])
        found.append((rest[3], int.from_bytes(rest[5:9]), rest[9 : 9 + length]))
        rest = rest[9 + length :]
    return found


@pytest.mark.parametrize(
    ("sent", "errors"),
    [
        pytest.param(frame(DATA, 0, 1, b"x" * (MAX_FRAME_BYTES + 1)), {FRAME_SIZE_ERROR}, id="4.2 too long a frame"),
        pytest.param(request(fields=b"\xff\xff\xff"), {COMPRESSION_ERROR}, id="4.3 wrong index"),
        pytest.param(frame(DATA, 0, 1, b"x"), {PROTOCOL_ERROR, STREAM_CLOSED}, id="5.1 DATA on an idle stream"),
        pytest.param(frame(RST_STREAM, 0, 1, b"\0\0\0\0"), {PROTOCOL_ERROR}, id="5.1 RST_STREAM on an idle stream"),
        pytest.param(request(2), {PROTOCOL_ERROR}, id="5.1.1 even stream"),
        pytest.param(frame(DATA, 0, 0, b"x"), {PROTOCOL_ERROR}, id="6.1 DATA on no stream"),
        pytest.param(frame(DATA, 8, 1, b"\5x"), {PROTOCOL_ERROR, STREAM_CLOSED}, id="6.1 more padding than data"),
        pytest.param(frame(HEADERS, END_HEADERS, 0, GET), {PROTOCOL_ERROR}, id="6.2 HEADERS on no stream"),
        pytest.param(frame(RST_STREAM, 0, 0, b"\0\0\0\0"), {PROTOCOL_ERROR}, id="6.4 RST_STREAM on no stream"),
        pytest.param(request() + frame(RST_STREAM, 0, 1, b"\0"), {FRAME_SIZE_ERROR}, id="6.4 length of RST_STREAM"),
        pytest.param(frame(SETTINGS, ACK, 0, b"\0" * 6), {FRAME_SIZE_ERROR}, id="6.5 acknowledgement with settings"),
        pytest.param(frame(SETTINGS, 0, 1), {PROTOCOL_ERROR}, id="6.5 SETTINGS on a stream"),
        pytest.param(frame(SETTINGS, payload=b"\0" * 5), {FRAME_SIZE_ERROR}, id="6.5 length of SETTINGS"),
        pytest.param(setting(2, 2), {PROTOCOL_ERROR}, id="6.5.2 ENABLE_PUSH"),
        pytest.param(setting(4, 2**31), {FLOW_CONTROL_ERROR}, id="6.5.2 INITIAL_WINDOW_SIZE"),
        pytest.param(setting(5, 100), {PROTOCOL_ERROR}, id="6.5.2 MAX_FRAME_SIZE"),
        pytest.param(frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + GET), {PROTOCOL_ERROR}, id="6.6 PUSH_PROMISE"),
        pytest.param(frame(PING, 0, 1, b"12345678"), {PROTOCOL_ERROR}, id="6.7 PING on a stream"),
        pytest.param(frame(PING, payload=b"1234567"), {FRAME_SIZE_ERROR}, id="6.7 length of PING"),
        pytest.param(frame(GOAWAY, 0, 1, b"\0" * 8), {PROTOCOL_ERROR}, id="6.8 GOAWAY on a stream"),
        pytest.param(frame(WINDOW_UPDATE, payload=b"\0" * 4), {PROTOCOL_ERROR}, id="6.9 window update of nothing"),
        pytest.param(frame(WINDOW_UPDATE, payload=b"\0" * 3), {FRAME_SIZE_ERROR}, id="6.9 length of WINDOW_UPDATE"),
        pytest.param(
            frame(WINDOW_UPDATE, payload=b"\x7f\xff\xff\xff") * 2, {FLOW_CONTROL_ERROR}, id="6.9.1 too large a window"
        ),
        pytest.param(frame(CONTINUATION, END_HEADERS, 1, GET), {PROTOCOL_ERROR}, id="6.10 nothing to continue"),
        pytest.param(frame(HEADERS, 0, 1, GET) + frame(PING, payload=b"12345678"), {PROTOCOL_ERROR}, id="6.10 between"),
    ],
)
async def test_connection_ends_with_the_error(sent: bytes, errors: set[int]) -> None:
    frames = answered(sent)
    goodbyes = [payload for kind, _, payload in frames if kind == GOAWAY]
    assert goodbyes, frames
    assert int.from_bytes(goodbyes[-1][4:8]) in errors


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(GET + b"\x40\x01X\x01a", id="8.2.1 upper case"),
        pytest.param(GET + b"\x40\x01 \x01a", id="8.2.1 blank in a name"),
        pytest.param(GET + b"\x40\x01x\x02a\n", id="8.2.1 line break in a value"),
        pytest.param(GET + b"\x40\x0aconnection\x05close", id="8.2.2 connection-specific field"),
        pytest.param(b"\x82\x86\x41\x01x", id="8.3.1 no path"),
        pytest.param(b"\x86\x84\x41\x01x", id="8.3.1 no method"),
        pytest.param(b"\x82\x84\x41\x01x", id="8.3.1 no scheme"),
        pytest.param(b"\x82" + GET, id="8.3.1 method twice"),
        pytest.param(b"\x40\x01x\x01a" + GET, id="8.3 pseudo-header behind a header"),
        pytest.param(b"\x40\x02:x\x01a" + GET, id="8.3 unknown pseudo-header"),
    ],
)
async def test_malformed_request_resets_its_stream(fields: bytes) -> None:
    frames = answered(request(1, fields) + request(3))
    assert [int.from_bytes(payload) for kind, stream, payload in frames if (kind, stream) == (RST_STREAM, 1)] == [
        PROTOCOL_ERROR
    ]
    # The next one is answered.
    assert any((kind, stream) == (HEADERS, 3) for kind, stream, _ in frames)


async def test_what_is_unknown_is_ignored_and_a_ping_is_answered() -> None:
    frames = answered(frame(200, 0, 0, b"x") + setting(4242, 1) + frame(PING, payload=b"12345678") + request())
    assert (PING, 0, b"12345678") in frames
    assert any((kind, stream) == (HEADERS, 1) for kind, stream, _ in frames)


async def test_wrong_preface_ends_the_connection() -> None:
    transport = FakeTransport()
    connection = Http2Connection(Echo(), Connections(), 1000, lambda _request: None)
    connection.connection_made(transport)
    connection.data_received(PREFACE[:-4] + b"XX\r\n" + frame(SETTINGS))
    assert transport.is_closing()
