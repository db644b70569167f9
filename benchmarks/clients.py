"""Clients that record every response, in a process of their own.

Each has a connection, and sends its next request as soon as the last is answered, or at a steady rate. Rejected, it
sends again at once: none waits as Retry-After says.
"""

import asyncio
import gc
import math
import resource
import time
from collections.abc import Callable, Sequence
from inspect import isawaitable
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

import psutil
import uvloop

from benchmarks.process import Body

# Connections made at a time, and a pause longer than a tick of the service: more would not fit into the queue of those
# that it has not accepted yet, and be lost.
CONNECTING, PAUSE_SECONDS = 500, 0.2
RECONNECT_SECONDS = 0.1
MAX_WAIT_SECONDS = 10


class Response(NamedTuple):
    """Times in seconds of the machine's monotonic clock, which all processes share. `status`: 0 where no response came.
    `key`, `value`: what next_request() and read() of the clients made of request and body."""

    key: Any
    sent: float
    received: float
    status: int
    value: Any = None


class Client(asyncio.Protocol):
    """`due`: when the next request is, at a steady rate."""

    def __init__(self, clients: "Clients", due: float) -> None:
        self._clients, self.due = clients, due
        self._received = b""
        self._transport: asyncio.Transport
        self.is_leaving = self.is_waiting = False
        self.key: Any = None
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, key: Any, request: bytes, sent: float) -> None:
        self.key, self.sent, self.is_waiting = key, sent, True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        # Every response of the service has a length.
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]):
            self._received, self.is_waiting = b"", False
            self._clients.record(self, int(head[9:12]), body)
            self._clients.schedule(self)

    def leave(self) -> None:
        self.is_leaving = True
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_leaving:
            self._clients.replace(self, error)


class Clients:
    """A subclass says what they send. `rate`: requests a second of all together; None: as many as are answered."""

    def __init__(self, port: int, rate: float | None = None) -> None:
        self._port, self._rate = port, rate
        self._count = self._failed = 0
        self._is_ended = False
        self._responses: list[Response] = []
        self._replacing: set[asyncio.Task[None]] = set()
        self.clients: set[Client] = set()

    def next_request(self) -> tuple[Any, bytes]:
        """A key, and the request; the response is recorded under the key."""
        raise NotImplementedError

    def read(self, key: Any, status: int, body: bytes) -> Any:
        """What to keep of a response."""

    async def resize(self, count: int) -> int:
        """Connect or leave until there are so many; how many responses so far were no 200."""
        self._count = count
        while len(self.clients) > count:
            self.clients.pop().leave()
        connected: list[Client] = []
        while (missing := count - len(self.clients) - len(connected)) > 0:
            connected += await asyncio.gather(*(self._connect() for _ in range(min(missing, CONNECTING))))
            await asyncio.sleep(PAUSE_SECONDS)
        # None sends before all are connected.
        self.clients.update(connected)
        began = time.monotonic()
        for place, client in enumerate(connected):
            client.due = began + place / self._rate if self._rate else began
            self.schedule(client)
        return self._failed

    async def end(self) -> list[Response]:
        """All responses, once those under way have come; after MAX_WAIT_SECONDS none comes any more."""
        self._is_ended = True
        ends = time.monotonic() + MAX_WAIT_SECONDS
        while (waiting := [client for client in self.clients if client.is_waiting]) and time.monotonic() < ends:
            await asyncio.sleep(0.01)
        for client in waiting:
            self._fail(client.key, client.sent, "no response")
        return self._responses

    def record(self, client: Client, status: int, body: bytes) -> None:
        self._failed += status != 200
        value = self.read(client.key, status, body)
        self._responses.append(Response(client.key, client.sent, time.monotonic(), status, value))

    def schedule(self, client: Client) -> None:
        if self._rate is None:
            self._send(client)
            return
        due, client.due = client.due, client.due + self._count / self._rate
        if (delay := due - time.monotonic()) > 0:
            asyncio.get_running_loop().call_later(delay, self._send, client)
        else:
            # It had to wait for the last response, and so for the service.
            self._send(client, due)

    def replace(self, client: Client, error: Exception | None) -> None:
        """After the service has closed the connection."""
        self._fail(client.key, client.sent, f"connection lost {error or ''}")
        self.clients.discard(client)
        self._replacing.add(task := asyncio.ensure_future(self._reconnect(client.due)))
        task.add_done_callback(self._replacing.discard)

    async def _reconnect(self, due: float) -> None:
        await asyncio.sleep(RECONNECT_SECONDS)
        client = await self._connect(due)
        if len(self.clients) < self._count:
            self.clients.add(client)
            self.schedule(client)
        else:
            client.leave()

    async def _connect(self, due: float = 0.0) -> Client:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return (await loop.create_connection(lambda: Client(self, due), "127.0.0.1", self._port))[1]
            except OSError as error:
                self._fail(None, time.monotonic(), str(error))
                await asyncio.sleep(RECONNECT_SECONDS)

    def _send(self, client: Client, due: float | None = None) -> None:
        if client in self.clients and not self._is_ended:
            key, request = self.next_request()
            client.send(key, request, due or time.monotonic())

    def _fail(self, key: Any, sent: float, why: str) -> None:
        self._failed += 1
        self._responses.append(Response(key, sent, time.monotonic(), 0, why))


class ClientsProcess:
    """`call` runs a method of `make(*arguments)`, which lives in a process of its own."""

    def __init__(self, make: Callable[..., Clients], *arguments: object) -> None:
        self._connection, theirs = Pipe()
        self._process = get_context("spawn").Process(target=_run, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "ClientsProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def call(self, method: str, *arguments: object) -> Any:
        self._connection.send((method, arguments))
        return self._connection.recv()

    def cpu_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)


def _run(commands: Connection, make: Callable[..., Clients], arguments: tuple[object, ...]) -> None:
    # Each client has a file open.
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    # A collection over all recorded responses would stop the clients for as long as some of them take.
    gc.disable()
    uvloop.run(_serve(commands, make(*arguments)))


async def _serve(commands: Connection, clients: Clients) -> None:
    while True:
        method, arguments = await asyncio.to_thread(commands.recv)
        result = getattr(clients, method)(*arguments)
        commands.send(await result if isawaitable(result) else result)


def http_request(path: str, body: Body) -> bytes:
    headers = {"Host": "127.0.0.1", "Content-Length": str(len(body.content)), **body.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body.content


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
