"""Clients that are slow, silent, gone, or that send more than there is room for."""

import json
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.conftest import SHIPPED
from tests.integration.server import (
    DEADLINE_SECONDS,
    Server,
    at_start_of_python,
    clients_of,
    running,
    wait_for,
    workers,
)
from tests.integration.test_versions import sample

TEN = json.dumps({"instances": [10.0]}).encode()
PREDICT = "/v1/models/regression:predict"
ROWS = 900_000
MAX_BODY_CHARACTERS = 8_000_000

# They are no settings; nobody would wait a minute for a test.
SHORT_WAITS = """
import os, sys
sys.path.insert(0, os.getcwd())
from service.server.waits import Wait
for wait in Wait:
    wait._value_ /= 15
"""

# A socket in repair mode is closed without a word to the other side (linux/tcp.h).
TCP_REPAIR = 19


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("clients")
    shutil.copytree(SHIPPED / "regression" / "1", folder / "models" / "regression" / "1")
    with pytest.MonkeyPatch.context() as monkeypatch:
        at_start_of_python(SHORT_WAITS, folder, monkeypatch)
        with running(
            folder / "models", folder / "log", max_body_bytes=MAX_BODY_CHARACTERS, keep_alive_seconds=5
        ) as server:
            yield server


def connect(server: Server) -> socket.socket:
    client = socket.socket()
    # Little of an answer that is not read stays on its way.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(DEADLINE_SECONDS)
    client.connect(("127.0.0.1", server.port))
    return client


def head(length: int) -> bytes:
    return f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def long_request() -> bytes:
    """Its answer is longer than what the sockets of both sides hold."""
    body = json.dumps({"instances": [1.23456] * ROWS}, separators=(",", ":")).encode()
    return head(len(body)) + body


def port_of(client: socket.socket) -> int:
    return int(client.getsockname()[1])


def wait_until_ended(server: Server, clients: list[socket.socket] | set[int]) -> None:
    """And others are answered in the meantime."""
    ports = clients if isinstance(clients, set) else {port_of(client) for client in clients}
    (worker,) = workers(server)

    def ended() -> bool:
        assert server.request(PREDICT, TEN).status == 200
        return not ports & clients_of(worker)

    server.wait_for(ended, "they are still connected")


STAGES = {
    "before a request": b"",
    "within a head": b"POST /v1/mod",
    "behind a head": head(100),
    "within a body": head(100) + b"[" * 50,
    "behind an answer": head(len(TEN)) + TEN,
    "within an answer": long_request(),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_falls_silent_is_cut_off(server: Server, stage: str) -> None:
    with connect(server) as client:
        client.sendall(STAGES[stage])
        wait_until_ended(server, [client])
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_vanishes_without_a_word_is_cut_off(server: Server, stage: str) -> None:
    client = connect(server)
    client.sendall(STAGES[stage])
    try:
        client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except PermissionError:
        client.close()
        pytest.skip("needs the right to vanish (CAP_NET_ADMIN)")
    port = port_of(client)
    client.close()
    wait_until_ended(server, {port})
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_client_that_leaves_does_no_harm(server: Server, stage: str, how: str) -> None:
    ports = set()
    for _ in range(5):
        client = connect(server)
        ports.add(port_of(client))
        # On a busy machine it may be cut off before it has sent all. It leaves all the same.
        with suppress(ConnectionError):
            client.sendall(STAGES[stage])
        if how == "resets":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_until_ended(server, ports)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(("begin", "part"), [(b"GET /", b"a"), (head(1_000_000), b" ")], ids=["head", "body"])
def test_clients_that_send_a_byte_now_and_then_are_cut_off_and_hold_nobody_up(
    server: Server, begin: bytes, part: bytes
) -> None:
    clients = [connect(server) for _ in range(50)]
    for client in clients:
        client.sendall(begin)
        client.setblocking(False)
    answers = dict.fromkeys(clients, b"")

    def all_are_answered() -> bool:
        assert server.request(PREDICT, TEN).status == 200
        for client in [client for client, answer in answers.items() if not answer]:
            # First what may have come: a connection that was closed meanwhile takes no more.
            try:
                answers[client] = client.recv(4096)
            except BlockingIOError:
                client.send(part)
        return all(answers.values())

    wait_for(all_are_answered, lambda: f"{sum(not answer for answer in answers.values())} are still sending")
    assert {answer[:12] for answer in answers.values()} == {b"HTTP/1.1 408"}
    for client in clients:
        client.close()


def test_bodies_for_which_there_is_no_room_are_refused_and_the_others_answered(tmp_path: Path) -> None:
    # The longest body always fits, and with it no other.
    limits = {"max_buffered_bytes": 1, "max_body_bytes": MAX_BODY_CHARACTERS}
    longest = TEN.ljust(MAX_BODY_CHARACTERS)
    # With its usual waits: the first client must not be cut off before the others have been refused.
    with running(SHIPPED, tmp_path / "log", model_name="regression", **limits) as server, connect(server) as first:
        (worker,) = workers(server)
        first.sendall(head(len(longest)) + longest[:-1])
        refused = 'serving_rejected_total{reason="buffers_full"}'
        before = sample(server, refused)

        def is_refused() -> bool:
            # Until all of the first one's has come.
            return server.request(PREDICT, TEN).status == 503

        server.wait_for(is_refused, "there is always room")
        answer = server.request(PREDICT, TEN)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "(SERVING_MAX_BUFFERED_BYTES)" in answer.json()["error"]
        assert server.request("/v2/health/ready").status == 200
        first.sendall(longest[-1:])
        assert first.recv(4096).startswith(b"HTTP/1.1 200")
        assert server.request(PREDICT, TEN).status == 200
        assert sample(server, refused) >= before + 2
        assert workers(server) == [worker]
