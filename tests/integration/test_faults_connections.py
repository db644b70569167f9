"""More connections than there may be, or than there are files for; and the end, which none of them holds up."""

import json
import resource
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.integration.server import DEADLINE_SECONDS, Server, clients_of, running, workers
from tests.integration.test_versions import sample

TEN = json.dumps({"instances": [10.0]}).encode()
PREDICT = "/v1/models/regression:predict"


def open_connections(server: Server, count: int, stack: ExitStack) -> list[socket.socket]:
    address = ("127.0.0.1", server.port)
    return [stack.enter_context(socket.create_connection(address, DEADLINE_SECONDS)) for _ in range(count)]


def wait_until_nobody_is_connected(server: Server) -> None:
    """Those who asked whether it is ready have left; it may not have noticed yet, and count them."""
    (worker,) = workers(server)
    server.wait_for(lambda: not clients_of(worker), "somebody is still connected")


def ask(client: socket.socket) -> bytes:
    """The answer's head and body; what came, where the connection ended."""
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(TEN)}\r\n\r\n".encode()
    try:
        client.sendall(head + TEN)
        return client.recv(65536)
    except ConnectionError:
        return b""


def test_a_process_that_may_open_no_more_files_goes_on_with_those_it_has(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log") as server, ExitStack() as stack:
        (worker,) = workers(server)
        (first,) = open_connections(server, 1, stack)
        assert ask(first).startswith(b"HTTP/1.1 200")
        most = max(int(file.name) for file in Path(f"/proc/{worker.pid}/fd").iterdir()) + 20
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (most, most))
        many = open_connections(server, 100, stack)
        answers = [ask(client)[:12] for client in many]
        assert set(answers) == {b"HTTP/1.1 200", b""}
        assert ask(first).startswith(b"HTTP/1.1 200")
        for client in many:
            client.close()
        server.wait_for(lambda: ask(*open_connections(server, 1, stack)).startswith(b"HTTP/1.1 200"), "no way back")
        assert workers(server) == [worker]
        assert "Traceback" not in server.log.read_text()


def test_a_process_that_may_open_few_files_takes_fewer_connections_and_says_so(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log") as server, ExitStack() as stack:
        (worker,) = workers(server)
        # Its successor has the limit from the beginning.
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (400, 400))
        worker.kill()
        server.wait_until_all_workers_answer(1)
        server.wait_until_logged("this process may open 400 files (ulimit -n): it takes at most 100 connections")
        wait_until_nobody_is_connected(server)
        idle = open_connections(server, 100, stack)
        (further,) = open_connections(server, 1, stack)
        assert ask(further).startswith(b"HTTP/1.1 503")
        assert all(ask(client).startswith(b"HTTP/1.1 200") for client in idle)


def test_connections_beyond_the_limit_are_told_so_and_counted(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", max_connections=10) as server, ExitStack() as stack:
        wait_until_nobody_is_connected(server)
        few = open_connections(server, 10, stack)
        assert all(ask(client).startswith(b"HTTP/1.1 200") for client in few)
        for client in open_connections(server, 5, stack):
            answer = ask(client)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"connections are open; at most 10 may be (SERVING_MAX_CONNECTIONS)" in answer
            assert b"retry-after: 1" in answer
            assert client.recv(1) == b""
        few.pop().close()
        server.wait_for(
            lambda: sample(server, 'serving_rejected_total{reason="too_many_connections"}') >= 5, "not told"
        )
        # With the one that asks.
        server.wait_for(lambda: sample(server, "serving_connections") == 10, "some are counted that are none any more")


def test_the_end_comes_in_time_whatever_clients_do(models: Path, tmp_path: Path) -> None:
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode()
    with running(models, tmp_path / "log", workers=2, shutdown_seconds=3) as server, ExitStack() as stack:
        for begun in (b"", b"GET / HT", head, head + b"[1"):
            for client in open_connections(server, 10, stack):
                client.sendall(begun)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE_SECONDS) == 0
