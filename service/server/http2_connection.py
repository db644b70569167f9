"""Connections that speak HTTP/2: calls of gRPC, and plain requests, as streams beside each other.

Each stream is a request to the dispatcher, as on a connection of HTTP/1.1, and waits have the same timeouts. What one
pass of the event loop brings is answered in one write.
"""

import asyncio
import time
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache, partial
from random import uniform
from typing import Any, cast

import msgspec

from service.api.grpc.v2 import stream_error
from service.api.routes import TABLE, Match
from service.http import GRPC, Request, Response, error_response
from service.inference.context import RequestContext
from service.security import cors
from service.security.cors import Cors
from service.server import grpc
from service.server.admission import Admit
from service.server.connection import (
    BODY_SECONDS,
    CLIENT_LEFT,
    MAX_REJECTED_CONNECTIONS,
    MIN_BYTES_PER_SECOND,
    TOO_SLOW,
    WRITE_SECONDS,
    Connections,
    Dispatch,
    OnResponse,
    Timeout,
)
from service.server.grpc import InvalidFraming, MessageReader
from service.server.http2 import (
    MAX_HEADERS,
    ConnectionClosed,
    DataReceived,
    ErrorCode,
    Http2Error,
    NeverIndexedHeader,
    RequestReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    server_connection,
)
from service.server.parser import too_long
from service.server.response import encode_body

# Messages of one stream that wait for those before them.
MAX_WAITING_MESSAGES = 64
# Responses that one client has asked for and not read.
MAX_UNREAD_BYTES = 64 * 1024 * 1024
# Up to this size a message is copied once more, to send it with its prefix.
SMALL_BYTES = 64 * 1024

_GRPC_HEAD = ((b":status", b"200"), (b"content-type", grpc.CONTENT_TYPE))
_OK = grpc.trailers(grpc.OK)


class _Stream:
    """One request under way, or a call with many messages. `waiting`: messages that come after the one that is handled.
    `watched`: the last status that its client was told."""

    __slots__ = (
        "began",
        "body_bytes",
        "has_begun",
        "has_many",
        "has_messages",
        "is_call",
        "is_complete",
        "is_rejected",
        "max_message_bytes",
        "number",
        "parts",
        "pending",
        "reader",
        "request",
        "since",
        "waiting",
        "watched",
    )

    def __init__(self, number: int, request: Request, is_complete: bool) -> None:
        self.number = number
        self.request = request
        self.is_call = request.method == GRPC
        # A call with any number of messages.
        self.has_many = self.has_messages = False
        self.max_message_bytes = 0
        # Of a call whose messages come in pieces.
        self.reader: MessageReader | None = None
        # The body of a plain request.
        self.parts: list[bytes] = []
        self.body_bytes = 0
        # Its client sends no more.
        self.is_complete = is_complete
        # What it still sends does not count.
        self.is_rejected = False
        self.has_begun = False
        self.pending: asyncio.Future[Response] | None = None
        self.waiting: list[Request] = []
        self.watched: bytes | None = None
        self.began = self.since = time.monotonic()

    @property
    def is_within_message(self) -> bool:
        return self.reader is not None and self.reader.is_within_message


class Http2Connection(asyncio.Protocol):
    def __init__(
        self,
        dispatcher: Dispatch,
        connections: Connections,
        max_body_bytes: int,
        admit: Admit,
        on_response: OnResponse = lambda _request, _status, _body_bytes: None,
        cors_policy: Cors | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._admit = admit
        self._on_response = on_response
        self._connections = connections
        self._buffered = connections.buffered
        self._max_body_bytes = max_body_bytes
        self._cors = cors_policy
        self._http2 = server_connection()
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, _Stream] = {}
        # Answered before their clients had sent everything.
        self._to_reset: list[int] = []
        self._is_one_too_many = False
        self._is_write_paused = False
        self._is_flush_scheduled = False
        # Of responses, not yet on their way.
        self._unread_bytes = 0
        self._unread_since = 0.0
        self._is_draining = self._has_said_goodbye = False
        self._idle_since = time.monotonic()
        # Clients that came together must not come again together.
        age = connections.max_age_seconds
        self._retires_at = self._idle_since + age * uniform(0.9, 1.1) if age else float("inf")  # noqa: S311

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        if len(self._connections) > self._connections.max_connections + MAX_REJECTED_CONNECTIONS:
            self._transport.abort()
            return
        self._is_one_too_many = len(self._connections) > self._connections.max_connections
        self._flush()

    def connection_lost(self, _error: Exception | None) -> None:
        self._connections.discard(self)
        for stream in list(self._streams.values()):
            self._leave(stream)
        self._note_unread(0)

    def data_received(self, data: bytes) -> None:
        try:
            self._http2.receive_data(data)
        # It has said why, in frames that are still to be sent.
        except Http2Error:
            self._flush()
            self._transport.close()
            return
        self._handle_events()
        # After the tick, in which most responses are made, and in the pass of the loop that hands them over.
        if (self._streams or self._http2.want_write) and not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._loop.call_soon, self._flush)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        self._flush()

    # Frames

    def _handle_events(self) -> None:
        # Their kinds are compared by identity, without a cast: there are two or three for each request.
        event: Any
        for event in self._http2.events():
            kind = type(event)
            if kind is DataReceived:
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    self._on_data(stream, event.data, event.end_stream)
            elif kind is RequestReceived:
                self._on_head(event.stream_id, event.headers, event.end_stream)
            elif kind is StreamReset or kind is StreamClosed:
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    self._leave(stream)
            elif kind is TrailersReceived:
                # Those of a request say nothing that counts here.
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    self._on_data(stream, b"", True)
            elif kind is ConnectionClosed:
                self._flush()
                self._transport.close()
                return

    def _flush(self) -> None:
        """Write what is to be sent, unless the client reads too slowly."""
        self._is_flush_scheduled = False
        if self._transport.is_closing():
            return
        if not self._is_write_paused:
            data = self._take()
            if self._to_reset:
                # Behind the trailers, which they must not overtake.
                for number in self._to_reset:
                    self._try(partial(self._http2.reset_stream, number, ErrorCode.NO_ERROR))
                self._to_reset.clear()
                data += self._take()
            if data:
                self._transport.write(data)
        unread = self._http2.queued_body_size() + self._transport.get_write_buffer_size()
        if unread or self._unread_bytes:
            self._note_unread(unread)
        if self._has_said_goodbye and not self._streams and not self._unread_bytes:
            self._transport.close()

    def _take(self) -> bytes:
        """What is to be sent; nothing more on a connection that its client has broken."""
        try:
            return self._http2.data_to_send()
        except Http2Error:
            return b""

    def _note_unread(self, count: int) -> None:
        if count < self._unread_bytes or not self._unread_bytes:
            self._unread_since = time.monotonic()
        self._buffered.now += count - self._unread_bytes
        self._unread_bytes = count

    def _flush_soon(self) -> None:
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush)

    @staticmethod
    def _try(send: "partial[None]") -> None:
        """Send on a stream that its client may have ended."""
        with suppress(Http2Error):
            send()

    # Requests

    def _on_head(self, number: int, fields: "tuple[tuple[bytes, bytes], ...]", is_complete: bool) -> None:
        headers = dict(fields)
        if len(headers) < len(fields):
            headers = _joined(fields)
        method = headers[b":method"]
        is_call = method == b"POST" and grpc.is_grpc(headers.get(b"content-type", b""))
        request = Request(
            GRPC if is_call else method.decode("latin-1"),
            headers.get(b":path", b""),
            headers,
            RequestContext(headers),
            http_version="2",
            has_body=not is_complete and not is_call,
        )
        if not is_call:
            headers.setdefault(b"host", headers.get(b":authority", b""))
            for name in [name for name in headers if name.startswith(b":")]:
                del headers[name]
        stream = self._streams[number] = _Stream(number, request, is_complete)
        if self._is_one_too_many or len(fields) > MAX_HEADERS or self._unread_bytes > MAX_UNREAD_BYTES:
            rejection: Response | None = self._out_of_bounds(len(fields))
        else:
            rejection = self._call_rejection(stream) if is_call else self._plain_rejection(stream)
        if rejection is not None:
            self._reject(stream, rejection)
        elif is_complete:
            self._on_end(stream)
        elif b"expect" in headers and headers[b"expect"].lower() == b"100-continue":
            self._try(partial(self._http2.send_informational_response, number, [(b":status", b"100")]))

    def _reject(self, stream: _Stream, rejection: Response) -> None:
        """Answer once there is time for it."""
        stream.is_rejected = True
        response = self._dispatcher.reject(rejection, stream.request)
        if isinstance(response, Response):
            self._answer_early(stream, response)
            return
        stream.pending = response

        def done(future: "asyncio.Future[Response]") -> None:
            stream.pending = None
            if future.cancelled():
                self._report(stream.request, CLIENT_LEFT, 0)
                return
            self._answer_early(stream, future.result())
            if not self._is_flush_scheduled:
                self._flush()

        response.add_done_callback(done)

    def _out_of_bounds(self, count: int) -> Response:
        if self._is_one_too_many:
            open_, limit = len(self._connections), self._connections.max_connections
            self._dispatcher.count_rejected("too_many_connections")
            message = f"{open_} connections are open; at most {limit} may be (SERVING_MAX_CONNECTIONS)"
            return error_response(503, message, ("retry-after", "1"))
        if count > MAX_HEADERS:
            self._dispatcher.count_rejected("head_too_large")
            return error_response(431, f"the request has {count} headers; at most {MAX_HEADERS} are taken")
        self._dispatcher.count_rejected("buffers_full")
        return error_response(503, f"{self._unread_bytes} bytes of responses wait for this client to read them")

    def _call_rejection(self, stream: _Stream) -> Response | None:
        request = stream.request
        if (rejection := self._admit(request)) is not None:
            return rejection
        if request.match is None:
            return TABLE.no_route(request)
        stream.has_many = request.match.route.is_stream
        stream.max_message_bytes = grpc.MAX_OPEN_BYTES if request.is_operations else self._max_body_bytes
        if b"grpc-encoding" in request.headers and grpc.coding(request.headers) is None:
            encoding = request.headers[b"grpc-encoding"].decode("latin-1")[:40]
            message = f"grpc-encoding {encoding!r} is not taken; expected identity, gzip or deflate"
            return error_response(501, message, ("grpc-accept-encoding", "identity, deflate, gzip"))
        return None

    def _plain_rejection(self, stream: _Stream) -> Response | None:
        request = stream.request
        if self._is_preflight(request):
            return None
        if (rejection := self._admit(request)) is not None:
            return rejection
        length = request.headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self._max_body_bytes:
            self._dispatcher.count_rejected("too_large")
            return error_response(413, too_long(int(length[:20]), self._max_body_bytes))
        return None

    def _is_preflight(self, request: Request) -> bool:
        return self._cors is not None and cors.is_preflight(request.method, request.headers)

    def _on_data(self, stream: _Stream, data: bytes, is_complete: bool) -> None:
        if stream.is_rejected:
            stream.is_complete = is_complete
            return
        size = len(data)
        if size:
            if self._buffered.now + size > self._buffered.most:
                self._dispatcher.count_rejected("buffers_full")
                self._answer_early(stream, error_response(503, self._buffered.full_message(), ("retry-after", "1")))
                return
            stream.body_bytes += size
            self._buffered.now += size
            if (
                is_complete
                and stream.is_call
                and not stream.has_many
                and stream.reader is None
                and size <= stream.max_message_bytes
                and grpc.is_one_message(data)
            ):
                # Nearly every call.
                stream.is_complete = True
                self._handle(stream, self._with_message(stream.request, data[grpc.PREFIX.size :]))
                return
            stream.since = time.monotonic()
            if stream.is_call:
                if not self._read_messages(stream, data):
                    return
            elif stream.body_bytes > self._max_body_bytes:
                self._dispatcher.count_rejected("too_large")
                self._answer_early(stream, error_response(413, too_long(None, self._max_body_bytes)))
                return
            else:
                stream.parts.append(data)
        if is_complete:
            stream.is_complete = True
            self._on_end(stream)

    @staticmethod
    def _with_message(request: Request, body: bytes, coding: bytes = b"") -> Request:
        """`coding`: of a compressed message. It stands in the headers as HTTP has it there: unpacking, its limits and
        packing the response are the same."""
        headers = request.headers
        if coding:
            headers[b"content-encoding"] = headers[b"accept-encoding"] = coding
        elif b"accept-encoding" in headers or b"content-encoding" in headers:
            headers.pop(b"accept-encoding", None)
            headers.pop(b"content-encoding", None)
        request.body = body
        request.context.arrive(len(body))
        return request

    def _read_messages(self, stream: _Stream, data: bytes) -> bool:
        """False where the call has ended with an error."""
        if stream.reader is None:
            stream.reader = MessageReader(stream.max_message_bytes)
        fault = ""
        status = 400
        try:
            for body, is_compressed in stream.reader.feed(data):
                coding = b""
                if is_compressed and not (coding := grpc.coding(stream.request.headers) or b""):
                    fault = "a message is compressed, and grpc-encoding does not say how"
                elif stream.has_many:
                    stream.waiting.append(self._with_message(self._next_request(stream), body, coding))
                elif stream.waiting:
                    fault = "the call has two messages; expected one"
                else:
                    stream.waiting.append(self._with_message(stream.request, body, coding))
        except grpc.TooLong as error:
            self._dispatcher.count_rejected("too_large")
            fault, status = str(error), 413
        except InvalidFraming as error:
            fault = str(error)
        if len(stream.waiting) > MAX_WAITING_MESSAGES:
            fault, status = f"more than {MAX_WAITING_MESSAGES} messages wait for their responses", 429
        if fault:
            self._answer_early(stream, error_response(status, fault))
        elif stream.has_many:
            self._next(stream)
        return not fault

    def _next_request(self, stream: _Stream) -> Request:
        """For one message of a call with many. Each counts for its key's limits; the head counted for the first."""
        headers = dict(stream.request.headers)
        request = msgspec.structs.replace(stream.request, headers=headers, context=RequestContext(headers), body=b"")
        if stream.has_messages:
            request.rejection = self._admit(request)
        stream.has_messages = True
        return request

    def _on_end(self, stream: _Stream) -> None:
        """Its client has sent everything."""
        if not stream.is_call:
            request = stream.request
            request.body = stream.parts[0] if len(stream.parts) == 1 else b"".join(stream.parts)
            stream.parts = []
            request.context.arrive(len(request.body))
            stream.waiting.append(request)
        elif stream.is_within_message:
            self._answer_early(stream, error_response(400, "the call ends in the middle of a message"))
            return
        elif not stream.waiting and not stream.has_many:
            self._answer_early(stream, error_response(400, "the call has no message; expected one"))
            return
        self._next(stream)

    def _next(self, stream: _Stream) -> None:
        """Handle the next message; end the call where there is none and none will come."""
        while stream.pending is None and stream.waiting:
            self._handle(stream, stream.waiting.pop(0))
        is_over = stream.is_complete and stream.pending is None and not stream.waiting
        if is_over and stream.has_many and stream.number in self._streams:
            self._end(stream, _OK if stream.has_begun else None)

    def _handle(self, stream: _Stream, request: Request) -> None:
        size = stream.body_bytes
        stream.body_bytes = 0
        if self._cors is not None and not stream.is_call and cors.is_preflight(request.method, request.headers):
            self._buffered.now -= size
            self._respond(stream, request, self._cors.preflight(request.headers))
            return
        rejection = request.rejection
        response = (
            self._dispatcher.dispatch(request) if rejection is None else self._dispatcher.reject(rejection, request)
        )
        if isinstance(response, Response):
            self._buffered.now -= size
            self._respond(stream, request, response)
            return
        stream.pending = response

        def done(future: "asyncio.Future[Response]") -> None:
            stream.pending = None
            self._buffered.now -= size
            if future.cancelled() or self._streams.get(stream.number) is not stream:
                self._report(request, CLIENT_LEFT, 0)
                return
            self._respond(stream, request, future.result())
            self._next(stream)
            if not self._is_flush_scheduled:
                self._flush()

        response.add_done_callback(done)

    def _leave(self, stream: _Stream) -> None:
        """Its client has ended it, or left; or it is over."""
        if self._streams.pop(stream.number, None) is None:
            return
        self._buffered.now -= stream.body_bytes
        stream.body_bytes = 0
        stream.waiting.clear()
        if stream.pending is not None:
            stream.pending.cancel()
        if not self._streams:
            self._idle_since = time.monotonic()

    # Responses

    def _answer_early(self, stream: _Stream, response: Response) -> None:
        """An answer before all of the request was read: its client is told to stop."""
        is_incomplete = not stream.is_complete
        stream.is_complete = True
        stream.waiting.clear()
        stream.request.context.arrive(stream.body_bytes)
        if stream.is_call:
            self._fail(stream, stream.request, response)
        else:
            self._respond_plain(stream, stream.request, response)
        if is_incomplete:
            self._to_reset.append(stream.number)

    def _respond(self, stream: _Stream, request: Request, response: Response) -> None:
        if not stream.is_call:
            self._respond_plain(stream, request, response)
            return
        match = request.match
        if match is not None and (match.route.is_stream or match.route.verb == "watch"):
            self._respond_on_stream(stream, request, response)
        elif response.status != 200:
            self._fail(stream, request, response)
        else:
            response = encode_body(response, request.accept_encoding)
            self._leave(stream)
            self._send_message(stream, request, response, is_last=True)
            self._report(request, 200, len(response.body))

    def _respond_on_stream(self, stream: _Stream, request: Request, response: Response) -> None:
        """The response to one message; the call goes on."""
        match = cast(Match, request.match)
        if match.route.verb == "watch" and response.status == 200:
            # Only what is new.
            if response.body != stream.watched:
                stream.watched = response.body
                self._send_message(stream, request, response)
            return
        if response.status != 200:
            if not match.route.is_prediction:
                self._fail(stream, request, response)
                return
            _, message = grpc.status_of(response)
            self._send_message(stream, request, Response(200, stream_error(message)))
            self._report(request, response.status, 0)
            return
        response = encode_body(response, request.accept_encoding)
        self._send_message(stream, request, response)
        self._report(request, 200, len(response.body))

    def _fail(self, stream: _Stream, request: Request, response: Response) -> None:
        status, message = grpc.status_of(response)
        self._end(stream, grpc.trailers(status, message), request, response)
        self._report(request, response.status, 0)

    def _send_message(self, stream: _Stream, request: Request, response: Response, *, is_last: bool = False) -> None:
        is_packed = bool(response.headers) and any(name == "content-encoding" for name, _ in response.headers)
        body = response.body
        data = grpc.PREFIX.pack(is_packed, len(body))
        if len(body) <= SMALL_BYTES:
            data += body
        self._flush_soon()
        try:
            if not stream.has_begun:
                stream.has_begun = True
                head = [*_GRPC_HEAD, _request_id(request)]
                if response.headers:
                    head += _metadata(response)
                if is_packed:
                    head.append((b"grpc-encoding", request.accept_encoding))
                self._http2.send_response(stream.number, head)
            self._http2.send_data(stream.number, data)
            if len(body) > SMALL_BYTES:
                self._http2.send_data(stream.number, body)
            if is_last:
                self._http2.send_trailers(stream.number, _OK)
        except Http2Error:
            # Its client has ended it.
            return

    def _end(
        self,
        stream: _Stream,
        trailers: grpc.Headers | None,
        request: Request | None = None,
        response: Response | None = None,
    ) -> None:
        """End a call with these trailers; None: it had no message at all, and is over."""
        self._leave(stream)
        trailers = trailers or _OK
        if stream.has_begun:
            with suppress(Http2Error):
                self._http2.send_trailers(stream.number, trailers)
        else:
            head: grpc.Headers = list(_GRPC_HEAD)
            if request is not None and response is not None:
                head += [_request_id(request), *_metadata(response)]
            head += trailers
            self._try(partial(self._http2.send_response, stream.number, head, end_stream=True))
        self._flush_soon()

    def _respond_plain(self, stream: _Stream, request: Request, response: Response) -> None:
        response = encode_body(response, request.accept_encoding)
        if self._cors is not None:
            response = self._cors.with_headers(response, request.headers)
        self._leave(stream)
        body = b"" if request.method == "HEAD" else response.body
        head = [
            *_plain_head(response.status, response.content_type, int(time.time())),
            (b"content-length", b"%d" % len(response.body)),
            _request_id(request),
            *[(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in response.headers],
        ]
        self._try(partial(self._http2.send_response, stream.number, head, end_stream=not body))
        if body:
            self._try(partial(self._http2.send_data, stream.number, body, end_stream=True))
        self._flush_soon()
        self._report(request, response.status, len(body))

    def _report(self, request: Request, status: int, body_bytes: int) -> None:
        request.context.answered = time.perf_counter()
        self._on_response(request, status, body_bytes)

    # Called by the worker

    def sweep(self, now: float) -> None:
        """End waits that took too long, tell watchers what has changed, and retire an old connection."""
        if self._transport.is_closing():
            return
        if self._unread_bytes and now - self._unread_since >= WRITE_SECONDS:
            self._transport.abort()
            return
        for stream in list(self._streams.values()):
            if stream.watched is not None:
                self._respond(stream, stream.request, cast(Response, self._dispatcher.dispatch(stream.request)))
            elif self._is_too_slow(stream, now):
                self._dispatcher.count_rejected("too_slow")
                self._answer_early(stream, error_response(408, TOO_SLOW[Timeout.BODY]))
        is_idle = not self._streams and now - self._idle_since >= self._connections.keep_alive_seconds
        if is_idle or now >= self._retires_at:
            # In two steps, a sweep apart: what the client sends before it hears of the first is answered.
            self.drain(close_idle=self._is_draining)

    def _is_too_slow(self, stream: _Stream, now: float) -> bool:
        if stream.is_complete:
            return False
        if stream.has_many and not stream.is_within_message:
            # Such a call may be silent between its messages.
            return False
        min_bytes = MIN_BYTES_PER_SECOND * (now - stream.began - BODY_SECONDS)
        return now - stream.since >= BODY_SECONDS or (not stream.has_many and stream.body_bytes < min_bytes)

    def drain(self, *, close_idle: bool) -> None:
        """Take no more calls, and close once those that are there are answered. Clients may be sending some: they are
        turned away only with `close_idle`."""
        if self._transport.is_closing():
            return
        if not self._is_draining:
            self._is_draining = True
            self._try(partial(self._http2.send_shutdown_notice))
        if close_idle and not self._has_said_goodbye:
            self._has_said_goodbye = True
            self._try(partial(self._http2.send_goaway))
        for stream in list(self._streams.values()) if close_idle else ():
            # Those that would last, with nothing under way.
            if stream.pending is None and not stream.waiting and (stream.watched is not None or stream.has_many):
                self._end(stream, grpc.trailers(grpc.UNAVAILABLE, "the service is going away; connect anew"))
        self._flush_soon()


def _joined(fields: "tuple[tuple[bytes, bytes], ...]") -> dict[bytes, bytes]:
    """By name, values of one name joined by commas."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        headers[name] = headers[name] + b"," + value if name in headers else value
    return headers


def _request_id(request: Request) -> NeverIndexedHeader:
    # No other response has it: it must not take another header's place in the table that both sides keep.
    return NeverIndexedHeader(b"x-request-id", request.context.request_id.encode())


def _metadata(response: Response) -> grpc.Headers:
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers
        if name not in ("content-encoding", "vary")
    ]


@lru_cache(64)
def _plain_head(status: int, content_type: str, second: int) -> grpc.Headers:
    return [
        (b":status", b"%d" % status),
        (b"content-type", content_type.encode("latin-1", "replace")),
        (b"date", formatdate(second, usegmt=True).encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
