import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from service.server.listener import BACKLOG, MAX_ACCEPTED, MAX_FEW, Accepting, bound_socket, waiting

HAS_IPV6 = Path("/proc/net/if_inet6").exists()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", pytest.param("::1", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6"))]
)
def test_workers_share_a_port_each_once_it_listens(host: str) -> None:
    with bound_socket(host, 0) as first, bound_socket(host, port := first.getsockname()[1]) as second:
        with socket.socket(first.family) as client:
            assert client.connect_ex((host, port)) != 0
        second.listen()
        for _ in range(10):
            with socket.create_connection((host, port)):
                second.accept()[0].close()
        first.listen()


class Clients(ExitStack):
    """Clients of a listener that accepts none by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.listener = self.enter_context(bound_socket("127.0.0.1", 0))
        self.listener.listen(BACKLOG)
        self.listener.setblocking(False)
        self.accepted: list[asyncio.BaseTransport] = []

    def connect(self, count: int) -> None:
        for _ in range(count):
            self.enter_context(socket.create_connection(self.listener.getsockname()))

    async def accept(self, listener: socket.socket | None = None) -> int:
        """How many are accepted then."""
        assert isinstance(Accepting(listener or self.listener, partial(Accepted, self.accepted))(), Accepted)
        for _ in range(5):
            await asyncio.sleep(0)
        return len(self.accepted)


@pytest.fixture
def clients() -> Iterator[Clients]:
    with Clients() as clients:
        yield clients


class Accepted(asyncio.Protocol):
    def __init__(self, transports: list[asyncio.BaseTransport]) -> None:
        self._transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transports.append(transport)


@pytest.mark.parametrize("result", [OSError(errno.ENOPROTOOPT, "Protocol not available"), b"\0" * 8])
def test_waiting_is_0_where_the_system_does_not_tell(result: bytes | OSError) -> None:
    class FakeSocket(socket.socket):
        def getsockopt(self, *_options: int) -> bytes:  # type: ignore[override]
            if isinstance(result, OSError):
                raise result
            return result

    with FakeSocket() as listener:
        assert waiting(listener) == 0


async def test_few_connections_are_left_to_the_event_loop(clients: Clients) -> None:
    assert waiting(clients.listener) == 0
    clients.connect(MAX_FEW)
    assert (await clients.accept(), waiting(clients.listener)) == (0, MAX_FEW)


async def test_many_connections_are_accepted_up_to_a_limit(clients: Clients) -> None:
    clients.connect(MAX_ACCEPTED + 20)
    assert (await clients.accept(), waiting(clients.listener)) == (MAX_ACCEPTED, 20)
    assert (await clients.accept(), waiting(clients.listener)) == (MAX_ACCEPTED + 20, 0)
    for transport in clients.accepted:
        transport.close()


async def test_connections_that_cannot_be_accepted_are_left_to_the_event_loop(clients: Clients) -> None:
    class WithoutFiles(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            raise OSError(errno.EMFILE, "Too many open files")

    clients.connect(MAX_FEW + 1)
    with WithoutFiles(fileno=clients.listener.detach()) as listener:
        assert await clients.accept(listener) == 0
