"""The service as a process: start, what the terminal says, several workers, missing TensorFlow, the end."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.conftest import SHIPPED
from tests.integration.saved_models import save_linear
from tests.integration.server import DEADLINE_SECONDS, Server, running

TEN = {"instances": [10.0]}
REGRESSION = "/v1/models/regression:predict"


def test_the_terminal_says_what_is_served_and_its_curl_lines_work(tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "log") as server:
        server.wait_for(lambda: "Try:" in server.log.read_text(), "no greeting")
        text = server.log.read_text()
        assert f"Fitting Room serves http://127.0.0.1:{server.port}" in text
        assert re.search(r"regression +version 1 +AVAILABLE +engine litert", text)
        lines = [line.strip() for line in text.splitlines() if line.startswith("  curl ")]
        assert len(lines) == 2
        answers = [subprocess.run(shlex.split(line), capture_output=True, check=True).stdout for line in lines]
        assert {next(iter(json.loads(answer))) for answer in answers} == {"predictions", "results"}


def test_metrics_of_several_workers_add_up(tmp_path: Path) -> None:
    def predict(server: Server) -> int:
        return server.request(REGRESSION, TEN).status

    def sample(server: Server, name: str) -> float:
        page = server.request("/metrics").body.decode()
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))

    with running(SHIPPED, tmp_path / "log", workers=3) as server:
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(predict, [server] * 200))
        assert statuses == [200] * 200
        labels = 'model="regression",protocol="v1"'
        assert sample(server, f'serving_requests_total{{{labels},status="200"') == 200
        assert sample(server, f"serving_request_duration_seconds_count{{{labels}") == 200
        assert sample(server, 'serving_inference_duration_seconds_count{engine="litert",model="regression"') == 200
        assert sample(server, 'serving_model_state{model="regression",state="AVAILABLE"') == 1


def test_a_model_that_needs_a_missing_tensorflow_says_so_and_the_others_serve_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    shutil.copytree(SHIPPED / "regression", models / "regression")
    save_linear(models / "plain" / "1")
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "tensorflow.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'tensorflow'\", name='tensorflow')"
    )
    monkeypatch.setenv("PYTHONPATH", str(missing))
    with running(models, tmp_path / "log") as server:
        (status,) = server.request("/v1/models/plain").json()["model_version_status"]
        assert status["state"] == "END"
        assert status["status"]["error_code"] == "FAILED_PRECONDITION"
        assert "TensorFlow is not installed" in status["status"]["error_message"]
        assert "pip install tensorflow-cpu" in status["status"]["error_message"]
        answer = server.request("/v1/models/plain:predict", TEN)
        assert (answer.status, "TensorFlow is not installed" in answer.json()["error"]) == (404, True)
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
    head = f"POST {REGRESSION} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    with running(SHIPPED, tmp_path / "log", log_level="debug") as server:
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as client:
            # The service has the request's head and waits for its body when the signal comes.
            client.sendall(head + body[:1])
            server.wait_for(lambda: "POST" in server.log.read_text(), "the request never came in")
            server.process.send_signal(signal.SIGTERM)
            server.wait_for(lambda: "Handling signal: term" in server.log.read_text(), "the signal never arrived")
            client.sendall(body[1:])
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert server.process.wait(DEADLINE_SECONDS) == 0


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
