"""A client on a connection without sockets: bytes in, bytes out."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from service.http import Request, Response
from service.server.connection import Connections, HttpConnection
from tests.unit.service.fakes import FakeTransport

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = GET.replace(b"/ ", b"/slow ")
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def admit_all(_request: Request) -> Response | None:
    return None


class Echo:
    """A dispatcher that responds with target and body, or as `answer`. Requests for /slow wait for `Client.respond`."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], Response | asyncio.Future[Response]] | None = None
        self.requests: list[Request] = []
        self.slow: list[asyncio.Future[Response]] = []
        self.rejected: list[str] = []

    def dispatch(self, request: Request) -> "Response | asyncio.Future[Response]":
        self.requests.append(request)
        if self.answer is not None:
            return self.answer(request)
        if request.target.startswith(b"/slow"):
            return self.hold(request)
        return Response(200, request.target + b" " + request.body, "text/plain")

    def hold(self, _request: Request) -> "asyncio.Future[Response]":
        """A response that the test gives later."""
        self.slow.append(asyncio.get_running_loop().create_future())
        return self.slow[-1]

    def reject(self, rejection: Response, request: Request) -> Response:
        return rejection

    def count_rejected(self, reason: str) -> None:
        self.rejected.append(reason)


class Client:
    """It has sent `data`."""

    def __init__(
        self,
        data: bytes = b"",
        connections: Connections | None = None,
        *,
        max_body_bytes: int = 100,
        admit: Callable[[Request], Response | None] = admit_all,
        kind: Callable[..., HttpConnection] = HttpConnection,
        **settings: Any,
    ) -> None:
        self.echo, self.transport = Echo(), FakeTransport()
        self.connections = Connections() if connections is None else connections
        self.connection = kind(self.echo, self.connections, max_body_bytes, admit, **settings)
        self.connection.connection_made(self.transport)
        if data:
            self.send(data)

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def later(self, seconds: float) -> None:
        self.connection.sweep(time.monotonic() + seconds)

    def leave(self) -> None:
        self.connection.connection_lost(None)

    async def respond(self, number: int = 0) -> None:
        self.echo.slow[number].set_result(Response(200, b"slow"))
        await asyncio.sleep(0)

    @property
    def received(self) -> bytes:
        return self.transport.written

    @property
    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.received.split(b"HTTP/1.1 ")[1:]]

    @property
    def is_closed(self) -> bool:
        return self.transport.is_closing()

    @property
    def buffered(self) -> int:
        return self.connections.buffered.now


def post(body: bytes, *headers: bytes, path: bytes = b"/") -> bytes:
    lines = [b"POST %s HTTP/1.1" % path, b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
