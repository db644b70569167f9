import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from service.server.listener import BACKLOG, MAX_ACCEPTED, MAX_FEW, Accepting, bound_socket, waiting


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        pytest.param(
            "::1",
            marks=pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6"),
        ),
    ],
)
def test_worker_processes_listen_side_by_side_each_when_it_is_ready(host: str) -> None:
    with bound_socket(host, 0) as first, bound_socket(host, port := first.getsockname()[1]) as second:
        with socket.socket(first.family) as client:
            assert client.connect_ex((host, port)) != 0
        second.listen()
        for _ in range(10):
            with socket.create_connection((host, port)):
                second.accept()[0].close()
        first.listen()


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        bound_socket("192.0.2.1", 8501)


class Crowd(ExitStack):
    """Connects to a listener that accepts nobody by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.listener = self.enter_context(bound_socket("127.0.0.1", 0))
        self.listener.listen(BACKLOG)
        self.listener.setblocking(False)

    def grow(self, count: int) -> None:
        for _ in range(count):
            self.enter_context(socket.create_connection(self.listener.getsockname()))


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    with Crowd() as crowd:
        yield crowd


class Accepted(asyncio.Protocol):
    def __init__(self, transports: list[asyncio.BaseTransport]) -> None:
        self._transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transports.append(transport)


async def rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_the_queue_of_a_listener_is_told(crowd: Crowd) -> None:
    assert waiting(crowd.listener) == 0
    crowd.grow(20)
    assert waiting(crowd.listener) == 20
    crowd.listener.accept()[0].close()
    assert waiting(crowd.listener) == 19


class Silent(socket.socket):
    def __init__(self, told: bytes | OSError) -> None:
        super().__init__()
        self._told = told

    def getsockopt(self, *_options: int) -> bytes:  # type: ignore[override]
        if isinstance(self._told, OSError):
            raise self._told
        return self._told


@pytest.mark.parametrize("told", [OSError(errno.ENOPROTOOPT, "Protocol not available"), b"\0" * 8])
def test_where_the_queue_is_not_told_nobody_is_taken_to_wait(told: bytes | OSError) -> None:
    with Silent(told) as listener:
        assert waiting(listener) == 0


def test_a_few_who_wait_are_left_to_the_event_loop(crowd: Crowd) -> None:
    crowd.grow(MAX_FEW)
    assert isinstance(Accepting(crowd.listener, partial(Accepted, []))(), Accepted)
    assert waiting(crowd.listener) == MAX_FEW


def test_many_who_wait_are_accepted_at_once_but_not_so_many_that_others_are_held_up(crowd: Crowd) -> None:
    accepted: list[asyncio.BaseTransport] = []

    async def accept_twice() -> None:
        accept = Accepting(crowd.listener, partial(Accepted, accepted))
        accept()
        await rounds(5)
        assert len(accepted) == MAX_ACCEPTED
        assert waiting(crowd.listener) == 20
        accept()
        await rounds(5)
        assert len(accepted) == MAX_ACCEPTED + 20
        assert waiting(crowd.listener) == 0
        for transport in accepted:
            transport.close()

    crowd.grow(MAX_ACCEPTED + 20)
    asyncio.run(accept_twice())


class WithoutFiles(socket.socket):
    def accept(self) -> tuple[socket.socket, object]:
        raise OSError(errno.EMFILE, "Too many open files")


def test_what_cannot_be_accepted_now_is_left_to_the_event_loop(crowd: Crowd) -> None:
    accepted: list[asyncio.BaseTransport] = []

    async def accept() -> None:
        with WithoutFiles(fileno=crowd.listener.detach()) as listener:
            assert isinstance(Accepting(listener, partial(Accepted, accepted))(), Accepted)
            await rounds(5)

    crowd.grow(MAX_FEW + 1)
    asyncio.run(accept())
    assert accepted == []
