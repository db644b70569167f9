"""A client on a connection without sockets: bytes in, bytes out."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.http import Request, Response
from service.server.admission import Admit
from service.server.connection import Connections, HttpConnection
from tests.unit.service.fakes import FakeTransport

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = GET.replace(b"/ ", b"/slow ")
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Echo:
    """A dispatcher that responds with target and body. Requests for /slow wait for `Client.respond`."""

    requests: list[Request] = field(default_factory=list)
    slow: "list[asyncio.Future[Response]]" = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def dispatch(self, request: Request) -> "Response | asyncio.Future[Response]":
        self.requests.append(request)
        if request.target.startswith(b"/slow"):
            self.slow.append(asyncio.get_running_loop().create_future())
            return self.slow[-1]
        return Response(200, request.target + b" " + request.body, "text/plain")

    def reject(self, rejection: Response, request: Request) -> Response:
        return rejection

    def count_rejected(self, reason: str) -> None:
        self.rejected.append(reason)


@dataclass
class Client:
    echo: Echo
    transport: FakeTransport
    connection: HttpConnection

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


def connect(
    max_body_bytes: int = 100,
    connections: Connections | None = None,
    admit: Admit = lambda _request: None,
    kind: Callable[..., HttpConnection] = HttpConnection,
) -> Client:
    echo, transport = Echo(), FakeTransport()
    connection = kind(echo, Connections() if connections is None else connections, max_body_bytes, admit)
    connection.connection_made(transport)
    return Client(echo, transport, connection)


def post(body: bytes, *headers: bytes, path: bytes = b"/") -> bytes:
    lines = [b"POST %s HTTP/1.1" % path, b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
