"""The service as a process: what the terminal says, signals, a missing TensorFlow, the end."""

import http.client
import itertools
import json
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.server.worker import LINGER_SECONDS
from tests.integration.server import DEADLINE_SECONDS, PREDICT, TEN, Server, running, wait_for, workers

BODY = json.dumps(TEN).encode()
HEAD = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n"


def test_curl_lines_on_the_terminal_work(server: Server) -> None:
    server.wait_until_logged("Try:")
    text = server.log.read_text()
    assert f"Fitting Room serves http://127.0.0.1:{server.port}" in text
    assert re.search(r"regression +version 1 +AVAILABLE +engine litert", text)
    lines = [line.strip() for line in text.splitlines() if line.startswith("  curl ")]
    assert len(lines) == 3
    answers = [subprocess.run(shlex.split(line), capture_output=True, check=True).stdout for line in lines]
    assert {next(iter(json.loads(answer))) for answer in answers} == {"predictions", "results"}


@pytest.fixture
def service(models: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """With one worker, unless a test says otherwise."""
    settings = {"workers": getattr(request, "param", 1), "max_queue_ms": 60_000, "shutdown_seconds": 4}
    with running(models, tmp_path / "log", **settings) as server:
        yield server


@pytest.mark.parametrize(("service", "imports"), [(1, False), (2, True)], indirect=["service"])
def test_first_process_imports_for_several_workers(service: Server, imports: bool) -> None:
    assert ("numpy" in Path(f"/proc/{service.process.pid}/maps").read_text()) is imports


def test_request_in_flight_at_sigterm_is_answered_and_idle_clients_hold_nothing_up(service: Server) -> None:
    with ExitStack() as stack:

        def connect(sent: str) -> socket.socket:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), DEADLINE_SECONDS))
            client.sendall(sent.encode())
            return client

        for begun in ("", "GET / HT", HEAD, f"{HEAD}\r\n["):
            for _ in range(5):
                connect(begun)
        client = connect(f"{HEAD}Expect: 100-continue\r\n\r\n")
        # The service has the head, and waits for the body when the signal comes.
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not listens(service.port), lambda: "new connections are still taken")
        client.sendall(BODY)
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert service.process.wait(DEADLINE_SECONDS) == 0


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(4096), b""))


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("service", [2], indirect=True)
def test_no_request_and_no_connection_is_lost_at_reload_and_sigterm_under_load(service: Server) -> None:
    warm, is_ending = threading.Semaphore(0), threading.Event()
    before = set(workers(service))

    def ask_until_closed() -> int:
        """Requests over one connection, or the next once the service says that an answer is the last; how many were
        answered."""
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=DEADLINE_SECONDS)
        answered = time.monotonic()
        for count in itertools.count():
            try:
                connection.request("POST", PREDICT, BODY)
                response = connection.getresponse()
            except ConnectionError:
                # Where the machine stood still for so long, the connection was idle, and closed.
                assert time.monotonic() - answered > LINGER_SECONDS
                break
            assert response.status == 200
            response.read()
            answered = time.monotonic()
            if count == 20:
                warm.release()
            if response.will_close and is_ending.is_set():
                break
        return count

    def ask_until_refused() -> int:
        """Each request over a connection of its own; how many were answered."""
        for count in itertools.count():
            with socket.socket() as client:
                client.settimeout(DEADLINE_SECONDS)
                if client.connect_ex(("127.0.0.1", service.port)):
                    break
                client.sendall(f"{HEAD}Connection: close\r\n\r\n".encode() + BODY)
                answer = read_all(client)
                assert answer.startswith(b"HTTP/1.1 200"), answer
            if count == 20:
                warm.release()
        return count

    with ThreadPoolExecutor(12) as pool:
        clients = [pool.submit(ask) for ask in (ask_until_closed, ask_until_refused) for _ in range(6)]
        for _ in clients:
            assert warm.acquire(timeout=DEADLINE_SECONDS)
        service.process.send_signal(signal.SIGHUP)
        service.wait_for(lambda: before.isdisjoint(workers(service)), "the workers are not replaced")
        is_ending.set()
        service.process.send_signal(signal.SIGTERM)
        assert all(client.result() > 20 for client in clients)
        assert service.process.wait(DEADLINE_SECONDS) == 0


def test_connections_that_wait_to_be_accepted_when_a_worker_stops_are_answered(service: Server) -> None:
    with ExitStack() as stack:
        stopped = workers(service)
        for worker in stopped:
            worker.suspend()
        address = ("127.0.0.1", service.port)
        clients = [stack.enter_context(socket.create_connection(address, DEADLINE_SECONDS)) for _ in range(1500)]
        for client in clients:
            client.sendall(f"{HEAD}\r\n".encode() + BODY)
        for worker in stopped:
            worker.terminate()
            worker.resume()
        assert [client.recv(4096)[:12] for client in clients] == [b"HTTP/1.1 200"] * len(clients)
