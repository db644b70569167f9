"""The service as a process: start, what the terminal says, several workers, missing TensorFlow, the end."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.server.worker import LINGER_SECONDS
from tests.integration.conftest import SHIPPED
from tests.integration.saved_models import save_linear
from tests.integration.server import DEADLINE_SECONDS, at_start_of_python, running, wait_for, workers
from tests.integration.test_lifecycle import failure

TEN = {"instances": [10.0]}
REGRESSION = "/v1/models/regression:predict"


def test_the_terminal_says_what_is_served_and_its_curl_lines_work(tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "log") as server:
        server.wait_until_logged("Try:")
        text = server.log.read_text()
        assert f"Fitting Room serves http://127.0.0.1:{server.port}" in text
        assert re.search(r"regression +version 1 +AVAILABLE +engine litert", text)
        lines = [line.strip() for line in text.splitlines() if line.startswith("  curl ")]
        assert len(lines) == 3
        answers = [subprocess.run(shlex.split(line), capture_output=True, check=True).stdout for line in lines]
        assert {next(iter(json.loads(answer))) for answer in answers} == {"predictions", "results"}


def test_a_model_that_needs_a_missing_tensorflow_says_so_and_the_others_serve_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    shutil.copytree(SHIPPED / "regression", models / "regression")
    save_linear(models / "plain" / "1")
    # Python's own way to say that a module is not to be found.
    at_start_of_python("import sys; sys.modules['tensorflow'] = None", tmp_path, monkeypatch)
    with running(models, tmp_path / "log") as server:
        status = failure(server, "plain", 1, "TensorFlow is not installed")
        assert status["error_code"] == "FAILED_PRECONDITION"
        assert "pip install tensorflow-cpu" in status["error_message"]

        def is_told() -> bool:
            # Not while it is tried again.
            answer = server.request("/v1/models/plain:predict", TEN)
            assert answer.status == 404
            return "TensorFlow is not installed" in answer.json()["error"]

        server.wait_for(is_told, "who asks for it is not told why")
        assert server.request(REGRESSION, TEN).status == 200


def test_model_name_and_model_base_path_work_as_in_tensorflow_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_BASE_PATH", str(SHIPPED))
    monkeypatch.setenv("MODEL_NAME", "regression")
    with running("", tmp_path / "log") as server:
        assert server.request("/v1/models").json() == {"models": ["regression"]}


def test_a_request_in_flight_at_sigterm_is_answered(tmp_path: Path) -> None:
    body = json.dumps(TEN).encode()
    head = f"POST {REGRESSION} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with running(SHIPPED, tmp_path / "log") as server:
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as client:
            client.sendall(head.encode())
            # The service has the head, and waits for the body when the signal comes.
            assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not listens(server.port), lambda: "new connections are still taken")
            client.sendall(body)
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert server.process.wait(DEADLINE_SECONDS) == 0


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_no_request_is_lost_when_the_service_is_stopped_under_load(tmp_path: Path) -> None:
    def ask_until_closed(port: int) -> int:
        """Requests over one connection until the service says that an answer is the last; how many were answered."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
        answered = time.monotonic()
        for count in range(1_000_000):
            try:
                connection.request("POST", REGRESSION, json.dumps(TEN))
                response = connection.getresponse()
            except ConnectionError:
                # Where the machine stood still for so long, the connection was idle, and closed.
                assert time.monotonic() - answered > LINGER_SECONDS
                return count
            assert response.status == 200
            response.read()
            answered = time.monotonic()
            if response.will_close:
                return count + 1
            if count == 20:
                warm.release()
        raise AssertionError("the service never stopped")

    warm = threading.Semaphore(0)
    with running(SHIPPED, tmp_path / "log", workers=2) as server, ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask_until_closed, server.port) for _ in range(8)]
        for _ in clients:
            assert warm.acquire(timeout=DEADLINE_SECONDS)
        server.process.send_signal(signal.SIGTERM)
        assert all(client.result() > 20 for client in clients)
        assert server.process.wait(DEADLINE_SECONDS) == 0


def test_no_connection_that_was_made_is_lost_when_the_service_is_stopped_under_load(tmp_path: Path) -> None:
    body = json.dumps(TEN).encode()
    request = (
        f"POST {REGRESSION} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )

    def ask_until_refused(port: int) -> int:
        """Each request over a connection of its own; how many were answered."""
        for count in range(1_000_000):
            with socket.socket() as client:
                client.settimeout(DEADLINE_SECONDS)
                if client.connect_ex(("127.0.0.1", port)):
                    return count
                client.sendall(request)
                answer = b"".join(iter(lambda: client.recv(4096), b""))
                assert answer.startswith(b"HTTP/1.1 200"), answer
            if count == 20:
                warm.release()
        raise AssertionError("the service never stopped")

    warm = threading.Semaphore(0)
    with running(SHIPPED, tmp_path / "log", workers=2) as server, ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask_until_refused, server.port) for _ in range(8)]
        for _ in clients:
            assert warm.acquire(timeout=DEADLINE_SECONDS)
        server.process.send_signal(signal.SIGTERM)
        assert all(client.result() > 20 for client in clients)
        assert server.process.wait(DEADLINE_SECONDS) == 0


def test_all_that_wait_to_be_accepted_when_a_worker_is_stopped_are_answered(tmp_path: Path) -> None:
    body = json.dumps(TEN).encode()
    request = f"POST {REGRESSION} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with running(SHIPPED, tmp_path / "log", max_queue_ms=60_000) as server, ExitStack() as connected:
        (worker,) = workers(server)
        worker.suspend()
        address = ("127.0.0.1", server.port)
        clients = [connected.enter_context(socket.create_connection(address, DEADLINE_SECONDS)) for _ in range(1500)]
        for client in clients:
            client.sendall(request)
        worker.terminate()
        worker.resume()
        assert [client.recv(4096)[:12] for client in clients] == [b"HTTP/1.1 200"] * len(clients)


def test_a_reload_replaces_all_workers_and_refuses_nobody(tmp_path: Path) -> None:
    """Each request on a connection of its own, as from a balancer."""
    with running(SHIPPED, tmp_path / "log", workers=2, model_name="regression") as server:
        before = set(workers(server))
        server.process.send_signal(signal.SIGHUP)

        def are_replaced() -> bool:
            assert server.request(REGRESSION, TEN).status == 200
            living = set(workers(server))
            return before.isdisjoint(living) and len(living) == 2

        server.wait_for(are_replaced, "the workers are not replaced")


def test_a_thousand_idle_connections_do_not_keep_others_out(tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "log") as server, ExitStack() as idle:
        for _ in range(1000):
            idle.enter_context(socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS))
        assert server.request(REGRESSION, TEN).status == 200


def test_clients_that_leave_in_the_middle_do_no_harm(tmp_path: Path) -> None:
    head = f"POST {REGRESSION} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode()
    with running(SHIPPED, tmp_path / "log") as server:
        for part in (b"", head[:10], head, head + b"[1", head + b"[" * 100):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as client:
                    client.sendall(part)
        assert server.request(REGRESSION, TEN).status == 200
        assert "Traceback" not in server.log.read_text()


def test_a_body_that_is_too_long_gets_its_answer_however_it_is_sent(tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "log", max_body_bytes=1000) as server:
        # The whole body is sent before the answer is looked for, as most clients do.
        for size in (1001, 8000):
            answer = server.request(REGRESSION, b"0" * size)
            assert answer.status == 413
            assert f"a body of {size} bytes is too long: at most 1000 bytes" in answer.json()["error"]
        assert server.request(REGRESSION, json.dumps(TEN).ljust(1000).encode()).status == 200
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as client:
            client.sendall(f"POST {REGRESSION} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            client.sendall(b"7d0\r\n" + b" " * 2000 + b"\r\n0\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 413")
        # A client that announces a body and never sends it holds nobody up for long.
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as client:
            client.sendall(f"POST {REGRESSION} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n".encode())
            assert client.recv(4096).startswith(b"HTTP/1.1 413")


def test_json_logs_are_json_from_the_first_line_to_the_last(tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "log", log_format="json", engine="tensorflow") as server:
        assert server.request(REGRESSION, TEN).status == 200
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert {"time", "level", "logger", "process", "message"} <= set(lines[0])
    assert any("regression version 1 is AVAILABLE" in line["message"] for line in lines)
    assert "Try:" not in server.log.read_text()


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SERVING_PORT", "eight", "expected a whole number"),
        ("SERVING_PORT", "70000", "expected at most 65535"),
        ("SERVING_ENGINE", "onnx", "expected one of auto, tensorflow, litert"),
        ("SERVING_MODELS", "/no/such/folder", "there is no such folder"),
    ],
)
def test_a_bad_setting_stops_the_start_and_is_named(variable: str, value: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service"],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 2
    assert f"{variable}={value!r}" in done.stderr
    assert expected in done.stderr


def test_a_port_that_is_taken_ends_the_start_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "service", "--models", str(SHIPPED), "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
    assert done.returncode == 2
    assert f"port {port} (SERVING_HOST, SERVING_PORT): Address already in use" in done.stderr
