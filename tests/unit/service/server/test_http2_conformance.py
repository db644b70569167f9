"""What a server must do with wrong frames, by section of RFC 9113. The library does it; this is what we rely on."""

import struct

import pytest

from service.http import Request, Response
from service.server.connection import Connections
from service.server.http2 import MAX_FRAME_BYTES, MAX_STREAMS
from service.server.http2_connection import Http2Connection
from tests.unit.service.fakes import FakeTransport
from tests.unit.service.server.clients import Echo

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, COMPRESSION_ERROR = 6, 7, 9
# :method GET or POST, :scheme http, :path /, :authority x
GET, POST = b"\x82\x86\x84\x41\x01x", b"\x83\x86\x84\x41\x01x"
CONTENT_LENGTH_5 = b"\x0f\x0d\x015"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def setting(number: int, value: int) -> bytes:
    return frame(SETTINGS, payload=struct.pack(">HI", number, value))


def request(stream: int = 1, fields: bytes = GET) -> bytes:
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, fields)


def begun(stream: int = 1, fields: bytes = POST) -> bytes:
    """A request with more to come."""
    return frame(HEADERS, END_HEADERS, stream, fields)


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
        pytest.param(request(fields=b"\x3f\xe1\xff\x03" + GET), {COMPRESSION_ERROR}, id="4.3 too large a table"),
        pytest.param(request(fields=GET + b"\x20"), {COMPRESSION_ERROR}, id="4.3 size of the table at the end"),
        pytest.param(request(fields=GET + b"\x40"), {COMPRESSION_ERROR}, id="4.3 half a field"),
        pytest.param(frame(DATA, 0, 1, b"x"), {PROTOCOL_ERROR, STREAM_CLOSED}, id="5.1 DATA on an idle stream"),
        pytest.param(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), {PROTOCOL_ERROR}, id="5.1 window of an idle stream"),
        pytest.param(request() + frame(DATA, 0, 1, b"x"), {STREAM_CLOSED}, id="5.1 DATA behind the end"),
        pytest.param(frame(RST_STREAM, 0, 1, b"\0\0\0\0"), {PROTOCOL_ERROR}, id="5.1 RST_STREAM on an idle stream"),
        pytest.param(request(2), {PROTOCOL_ERROR}, id="5.1.1 even stream"),
        pytest.param(request() + request(), {STREAM_CLOSED}, id="5.1.1 stream used again"),
        pytest.param(frame(DATA, 0, 0, b"x"), {PROTOCOL_ERROR}, id="6.1 DATA on no stream"),
        pytest.param(frame(DATA, 8, 1, b"\5x"), {PROTOCOL_ERROR, STREAM_CLOSED}, id="6.1 more padding than data"),
        pytest.param(frame(HEADERS, END_HEADERS, 0, GET), {PROTOCOL_ERROR}, id="6.2 HEADERS on no stream"),
        pytest.param(frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + GET), {PROTOCOL_ERROR}, id="6.2 padding"),
        pytest.param(frame(PRIORITY, 0, 1, b"\0\0\0\0"), {FRAME_SIZE_ERROR}, id="6.3 length of PRIORITY"),
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
        pytest.param(
            begun() + frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"),
            {FLOW_CONTROL_ERROR},
            id="6.9.1 too large a window of a stream",
        ),
        pytest.param(frame(CONTINUATION, END_HEADERS, 1, GET), {PROTOCOL_ERROR}, id="6.10 nothing to continue"),
        pytest.param(frame(HEADERS, 0, 1, GET) + frame(PING, payload=b"12345678"), {PROTOCOL_ERROR}, id="6.10 between"),
        pytest.param(
            frame(HEADERS, 0, 1, GET) + frame(CONTINUATION, END_HEADERS, 3), {PROTOCOL_ERROR}, id="6.10 other stream"
        ),
        pytest.param(begun() + frame(CONTINUATION, END_HEADERS, 1), {PROTOCOL_ERROR}, id="6.10 behind the end"),
    ],
)
async def test_connection_ends_with_the_error(sent: bytes, errors: set[int]) -> None:
    frames = answered(sent)
    goodbyes = [payload for kind, _, payload in frames if kind == GOAWAY]
    assert goodbyes, frames
    assert int.from_bytes(goodbyes[-1][4:8]) in errors


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(begun() + begun(fields=b"\x40\x01x\x01a"), id="8.1 fields in the middle"),
        pytest.param(begun() + request(fields=b"\x82"), id="8.1 pseudo-header in trailers"),
        pytest.param(
            begun(fields=POST + CONTENT_LENGTH_5) + frame(DATA, END_STREAM, 1, b"x"), id="8.1.1 body too short"
        ),
        pytest.param(begun(fields=POST + CONTENT_LENGTH_5) + frame(DATA, 0, 1, b"123456"), id="8.1.1 body too long"),
        pytest.param(request(fields=POST + CONTENT_LENGTH_5), id="8.1.1 no body"),
        pytest.param(request(fields=GET + b"\x40\x01X\x01a"), id="8.2.1 upper case"),
        pytest.param(request(fields=GET + b"\x40\x01 \x01a"), id="8.2.1 blank in a name"),
        pytest.param(request(fields=GET + b"\x40\x03a:b\x01a"), id="8.2.1 colon in a name"),
        pytest.param(request(fields=GET + b"\x40\x01x\x02a\n"), id="8.2.1 line break in a value"),
        pytest.param(request(fields=GET + b"\x40\x01x\x02a\0"), id="8.2.1 NUL in a value"),
        pytest.param(request(fields=GET + b"\x40\x01x\x02 a"), id="8.2.1 blank before a value"),
        pytest.param(request(fields=GET + b"\x40\x0aconnection\x05close"), id="8.2.2 connection-specific field"),
        pytest.param(request(fields=GET + b"\x40\x02te\x04gzip"), id="8.2.2 TE other than trailers"),
        pytest.param(request(fields=b"\x82\x86\x41\x01x"), id="8.3.1 no path"),
        pytest.param(request(fields=b"\x82\x86\x44\0\x41\x01x"), id="8.3.1 empty path"),
        pytest.param(request(fields=b"\x86\x84\x41\x01x"), id="8.3.1 no method"),
        pytest.param(request(fields=b"\x82\x84\x41\x01x"), id="8.3.1 no scheme"),
        pytest.param(request(fields=b"\x82" + GET), id="8.3.1 method twice"),
        pytest.param(request(fields=b"\x40\x01x\x01a" + GET), id="8.3 pseudo-header behind a header"),
        pytest.param(request(fields=b"\x40\x02:x\x01a" + GET), id="8.3 unknown pseudo-header"),
        pytest.param(request(fields=b"\x88" + GET), id="8.3 pseudo-header of responses"),
    ],
)
async def test_malformed_request_resets_its_stream(sent: bytes) -> None:
    frames = answered(sent + request(3))
    assert [int.from_bytes(payload) for kind, stream, payload in frames if (kind, stream) == (RST_STREAM, 1)] == [
        PROTOCOL_ERROR
    ]
    # The next one is answered.
    assert is_answered(frames, 3)


def is_answered(frames: list[tuple[int, int, bytes]], stream: int) -> bool:
    return any((kind, number) == (HEADERS, stream) for kind, number, _ in frames)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(request(1 | 1 << 31), id="4.1 reserved bit"),
        pytest.param(frame(PING, 0xFE, 0, b"12345678") + request(), id="4.1 undefined flags"),
        pytest.param(frame(200, 0, 0, b"x") + request(), id="4.1 unknown frame"),
        pytest.param(setting(1, 0) + request(), id="4.3 no table"),
        pytest.param(frame(PRIORITY, 0, 1, b"\0\0\0\0\1") + request(), id="5.1 PRIORITY on an idle stream"),
        pytest.param(setting(4242, 1) + request(), id="6.5.2 unknown setting"),
        pytest.param(
            frame(HEADERS, END_STREAM, 1, GET[:2])
            + frame(CONTINUATION, 0, 1, GET[2:4])
            + frame(CONTINUATION, END_HEADERS, 1, GET[4:]),
            id="6.10 in three parts",
        ),
        pytest.param(request(fields=GET + b"\x40\x02te\x08trailers"), id="8.2.2 TE of trailers"),
    ],
)
async def test_what_is_allowed_is_answered(sent: bytes) -> None:
    assert is_answered(answered(sent), 1)


async def test_ping_and_settings_are_acknowledged() -> None:
    frames = answered(setting(3, 5) + frame(PING, payload=b"12345678"))
    assert (PING, 0, b"12345678") in frames
    # Those of the client's greeting, too.
    assert frames.count((SETTINGS, 0, b"")) == 2


async def test_lower_stream_is_not_answered() -> None:
    """5.1.1 has the connection end; the library ignores it, for it cannot tell it from one that it has reset."""
    frames = answered(request(5) + request(3) + request(7))
    assert [is_answered(frames, stream) for stream in (5, 3, 7)] == [True, False, True]


async def test_streams_beyond_the_limit_are_refused() -> None:
    """5.1.2"""
    frames = answered(b"".join(begun(2 * index + 1) for index in range(MAX_STREAMS + 1)))
    refused = [(stream, int.from_bytes(payload)) for kind, stream, payload in frames if kind == RST_STREAM]
    assert refused == [(2 * MAX_STREAMS + 1, REFUSED_STREAM)]


async def test_response_keeps_to_the_window() -> None:
    """6.9.2"""
    frames = answered(setting(4, 1) + request())
    assert [len(payload) for kind, _, payload in frames if kind == DATA] == [1]


async def test_wrong_preface_ends_the_connection() -> None:
    transport = FakeTransport()
    connection = Http2Connection(Echo(), Connections(), 1000, lambda _request: None)
    connection.connection_made(transport)
    connection.data_received(PREFACE[:-4] + b"XX\r\n" + frame(SETTINGS))
    assert transport.is_closing()
