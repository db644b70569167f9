"""Clients that fall silent, leave without a word, or are too many."""

import itertools
import json
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.integration.server import (
    DEADLINE_SECONDS,
    PREDICT,
    TEN,
    Server,
    at_start_of_python,
    clients_of,
    running,
    wait_for,
    workers,
)

BODY = json.dumps(TEN).encode()

# They are no settings, and a minute is too long for a test.
SHORT_WAITS = """
from service.server.connection import Timeout
for timeout in Timeout:
    timeout._value_ /= 15
"""

# A socket in repair mode is closed without a word to the other side (linux/tcp.h).
TCP_REPAIR = 19


def head(length: int) -> bytes:
    return f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


# Its answer is longer than what the sockets of both sides hold.
LONG_BODY = json.dumps({"instances": [1.23456] * 900_000}, separators=(",", ":")).encode()
STAGES = {
    "nothing": b"",
    "half a head": b"POST /v1/mod",
    "a head": head(100),
    "half a body": head(100) + b"[" * 50,
    "a request": head(len(BODY)) + BODY,
    "a request with a long answer": head(len(LONG_BODY)) + LONG_BODY,
}


@pytest.fixture
def server(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    at_start_of_python(SHORT_WAITS, tmp_path, monkeypatch)
    with running(models, tmp_path / "log", max_body_bytes=8_000_000, keep_alive_seconds=2) as server:
        yield server


def connect(server: Server) -> socket.socket:
    client = socket.socket()
    # Little of an answer that is not read stays on its way.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(DEADLINE_SECONDS)
    client.connect(("127.0.0.1", server.port))
    return client


def vanish(client: socket.socket) -> None:
    # Without the right to (CAP_NET_ADMIN) it closes.
    with suppress(PermissionError):
        client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_clients_that_fall_silent_or_leave_are_forgotten(server: Server) -> None:
    """At any stage of a request; others are answered meanwhile."""
    (worker,) = workers(server)
    ports: dict[int, str] = {}

    def left() -> list[str]:
        assert server.request(PREDICT, TEN).status == 200
        return [ports[port] for port in ports.keys() & clients_of(worker)]

    ways = {"silent": lambda _client: None, "vanished": vanish, "closed": socket.socket.close, "reset": reset}
    with ExitStack() as stack:
        for (way, leave), (stage, sent) in itertools.product(ways.items(), STAGES.items()):
            client = stack.enter_context(connect(server))
            ports[client.getsockname()[1]] = f"{way} after {stage}"
            # On a busy machine it may be cut off before it has sent all.
            with suppress(ConnectionError):
                client.sendall(sent)
            leave(client)
        wait_for(lambda: not left(), lambda: f"still connected: {left()}")
    assert "Traceback" not in server.log.read_text()


def open_connections(server: Server, count: int, stack: ExitStack) -> list[socket.socket]:
    address = ("127.0.0.1", server.port)
    return [stack.enter_context(socket.create_connection(address, DEADLINE_SECONDS)) for _ in range(count)]


def answer_to(client: socket.socket) -> bytes:
    """Head and body; what came, where the connection ended."""
    try:
        client.sendall(head(len(BODY)) + BODY)
        return client.recv(65536)
    except ConnectionError:
        return b""


def test_process_takes_no_more_connections_than_it_may_open_files(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log") as server:
        (worker,) = workers(server)
        with ExitStack() as stack:
            (first,) = open_connections(server, 1, stack)
            assert answer_to(first).startswith(b"HTTP/1.1 200")
            most = max(int(file.name) for file in Path(f"/proc/{worker.pid}/fd").iterdir()) + 20
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (most, most))
            # No limit that it knows of: it cannot open what it has accepted.
            many = open_connections(server, 100, stack)
            assert {answer_to(client)[:12] for client in many} == {b"HTTP/1.1 200", b""}
            assert answer_to(first).startswith(b"HTTP/1.1 200")
            for client in many:
                client.close()
            server.wait_for(
                lambda: answer_to(*open_connections(server, 1, stack)).startswith(b"HTTP/1.1 200"), "no way back"
            )
            assert workers(server) == [worker]
            assert "Traceback" not in server.log.read_text()
        # A worker that begins has the limit from the beginning, and knows it.
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (400, 400))
        worker.kill()
        server.wait_until_all_workers_answer(1)
        server.wait_until_logged("this process may open 400 files (ulimit -n): it takes at most 100 connections")
        (worker,) = workers(server)
        # Clients that have left may still be counted.
        server.wait_for(lambda: not clients_of(worker), "somebody is still connected")
        with ExitStack() as stack:
            idle = open_connections(server, 100, stack)
            (further,) = open_connections(server, 1, stack)
            answer = answer_to(further)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in answer
            assert all(answer_to(client).startswith(b"HTTP/1.1 200") for client in idle)
        refused = 'serving_rejected_total{reason="too_many_connections"}'
        server.wait_for(lambda: server.sample(refused) >= 1, "it is not counted")
        server.wait_for(lambda: server.sample("serving_connections") == 1, "some are counted that are none any more")
