"""deploy/nginx.conf, run by this machine's nginx before replicas that do as they are told."""

import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.integration.server import PREDICT, ROOT, TEN, Answer, free_port, wait_for

BODY_BYTES = 2_000_000
REQUEST = json.dumps(TEN).encode()

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="no `nginx` command on this machine")


@dataclass
class Replica:
    """Answers every request with the same, or closes the connection once it has read one (status 0)."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes, Message]] = field(default_factory=list)
    port: int = 0

    @property
    def body(self) -> bytes:
        return b'{"replica":%d}' % self.port

    @contextmanager
    def listening(self) -> Iterator[None]:
        replica = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                replica.requests.append((self.command, self.path, body, self.headers))
                if not replica.status:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.send_response(replica.status)
                for name, value in {**replica.headers, "Content-Length": str(len(replica.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(replica.body)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@dataclass
class Balancer:
    port: int
    log: Path

    def request(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, body, dict(headers or {}))
        response = connection.getresponse()
        answer = Answer(response.status, response.read(), dict(response.headers))
        connection.close()
        return answer

    def predict(self, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request(PREDICT, REQUEST, headers)

    def raw(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def logged(self) -> Any:
        """The first line: it is written once the client has been answered."""
        wait_for(lambda: "\n" in self.log.read_text(), lambda: "no line of log came")
        return json.loads(self.log.read_text().splitlines()[0])


Balance = Callable[..., Balancer]


@pytest.fixture
def balance(tmp_path: Path) -> Iterator[Balance]:
    """Starts replicas, and the balancer before them; a port stands for a replica that is gone."""
    with ExitStack() as running:

        def start(*replicas: Replica | int) -> Balancer:
            for replica in replicas:
                if isinstance(replica, Replica):
                    running.enter_context(replica.listening())
            ports = [replica.port if isinstance(replica, Replica) else replica for replica in replicas]
            return running.enter_context(nginx(tmp_path, ports))

        yield start


@contextmanager
def nginx(folder: Path, replicas: list[int]) -> Iterator[Balancer]:
    balancer = Balancer(free_port(), folder / "access.log")
    text = (ROOT / "deploy/nginx.conf").read_text().replace("/tmp/", f"{folder}/")
    servers = "\n".join(f"server 127.0.0.1:{port} max_fails=0;" for port in replicas)
    for there, here in (
        ("server service:8501 resolve max_fails=0;", servers),
        ("listen 8501 ", f"listen 127.0.0.1:{balancer.port} "),
        ("listen 127.0.0.1:8502;", f"listen unix:{folder}/health;"),
        ("/dev/stdout", str(balancer.log)),
        ("worker_processes auto;", "worker_processes 1;" + ("user root;" if os.geteuid() == 0 else "")),
    ):
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    (folder / "nginx.conf").write_text(text)
    (folder / "replicas.conf").write_text("keepalive_timeout 60s;")
    (folder / "limits.conf").write_text(
        f"client_max_body_size {BODY_BYTES}; keepalive_timeout 75s; "
        "proxy_next_upstream_timeout 30000ms; proxy_read_timeout 40000ms;"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    with (folder / "error.log").open("w") as errors:
        process = subprocess.Popen(command, stderr=errors)
        try:
            wait_for(
                lambda: process.poll() is not None or is_listening(balancer.port),
                lambda: "nginx does not listen",
            )
            assert process.poll() is None, (folder / "error.log").read_text()
            yield balancer
        finally:
            process.terminate()
            process.wait()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_requests_are_spread_over_the_replicas_on_kept_connections(balance: Balance) -> None:
    replicas = [Replica(), Replica(), Replica()]
    balancer = balance(*replicas)
    assert {balancer.predict().status for _ in range(6)} == {200}
    assert [len(replica.requests) for replica in replicas] == [2, 2, 2]
    assert {headers["Connection"] for replica in replicas for *_, headers in replica.requests} == {None}
    assert balancer.log.read_text() == ""


def test_request_reaches_the_replica_as_it_was_sent_with_an_id(balance: Balance) -> None:
    replica = Replica()
    path = "/v1/models/a%2Fb//labels/x:predict?top_k=3&a=%20b"
    sent = {"Content-Type": "image/png", "X-Request-Timeout-Ms": "70", "X-Request-ID": "mine"}
    balancer = balance(replica)
    balancer.request(path, b"\x00\xff" * 50, sent)
    balancer.predict()
    (method, target, body, headers), (*_, of_second) = replica.requests
    assert (method, target, body) == ("POST", path, b"\x00\xff" * 50)
    assert sent.items() <= dict(headers).items()
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert re.fullmatch("[0-9a-f]{32}", of_second["X-Request-ID"])


@pytest.mark.parametrize("failing", [0, 503], ids=["closes the connection", "answers 503"])
def test_prediction_that_one_replica_fails_goes_to_another(balance: Balance, failing: int) -> None:
    broken, sound = Replica(failing), Replica()
    balancer = balance(broken, free_port(), sound)
    for _ in range(6):
        answer = balancer.predict()
        assert (answer.status, answer.body) == (200, sound.body)
    assert {body for _, _, body, _ in broken.requests + sound.requests} == {REQUEST}
    assert broken.requests, "never tried: the test shows nothing"
    tries = balancer.logged()
    assert tries["status"] == "200"
    assert re.fullmatch("(50[23], )+200", tries["replica_statuses"])


@pytest.mark.parametrize("status", [400, 404, 429, 500, 504])
def test_what_another_replica_would_do_no_better_is_answered_as_it_is(balance: Balance, status: int) -> None:
    replicas = [Replica(status, {"Retry-After": "2"}), Replica(status, {"Retry-After": "2"})]
    answer = balance(*replicas).predict()
    assert (answer.status, answer.headers["Retry-After"]) == (status, "2")
    assert answer.body in [replica.body for replica in replicas]
    assert sum(len(replica.requests) for replica in replicas) == 1


def test_where_all_answer_503_all_are_tried_each_time(balance: Balance) -> None:
    replicas = [Replica(503, {"Retry-After": "7"}), Replica(503, {"Retry-After": "7"})]
    balancer = balance(*replicas)
    for _ in range(3):
        answer = balancer.predict()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "7")
        assert answer.body in [replica.body for replica in replicas]
    assert [len(replica.requests) for replica in replicas] == [3, 3]


def test_without_any_replica_the_answer_is_503_in_json(balance: Balance) -> None:
    balancer = balance(free_port(), free_port())
    answer = balancer.predict({"X-Request-ID": "mine"})
    assert (answer.status, answer.json()) == (503, {"error": "no replica of the service could be reached"})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["X-Request-ID"] == "mine"
    tries = balancer.logged()
    assert tries["request_id"] == "mine"
    assert tries["replica_statuses"] == "502, 502 : 502, 502", "after the first round comes another"


def test_models_are_not_loaded_or_unloaded_on_one_replica_of_several(balance: Balance) -> None:
    replica = Replica()
    balancer = balance(replica)
    for verb in ("load", "unload"):
        answer = balancer.request(f"/v2/repository/models/regression/{verb}", b"{}")
        assert answer.status == 403
        assert "models.toml" in answer.json()["error"]
    assert replica.requests == []
    assert balancer.request("/v2/repository/index", b"{}").status == 200


def test_body_over_the_services_limit_reaches_no_replica(balance: Balance) -> None:
    replica = Replica()
    balancer = balance(replica)
    answer = balancer.request(PREDICT, bytes(BODY_BYTES + 1))
    assert (answer.status, answer.json()) == (413, {"error": "the body is longer than is taken"})
    assert replica.requests == []
    assert balancer.request(PREDICT, bytes(BODY_BYTES)).status == 200
    assert len(replica.requests[0][2]) == BODY_BYTES


def test_what_the_balancer_cannot_take_is_answered_in_json(balance: Balance) -> None:
    balancer = balance(Replica())
    for sent, status in (
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    ):
        head, _, body = balancer.raw(sent).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        assert b"application/json" in head
        assert list(json.loads(body)) == ["error"]
