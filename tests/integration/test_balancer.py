"""deploy/nginx.conf, run by this machine's nginx before replicas that do as they are told."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from tests.integration.server import DEADLINE_SECONDS, PREDICT, ROOT, TEN, Answer, ask, free_port, in_a_thread, wait_for

BODY_BYTES = 2_000_000

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="no `nginx` command on this machine")


class Replica(ThreadingHTTPServer):
    """Answers every request with the same status; or closes the connection once it has read one (status 0)."""

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = status
        self.body = b'{"replica":%d}' % self.server_port
        self.requests: list[tuple[str, bytes, Message]] = []


class Handler(BaseHTTPRequestHandler):
    server: Replica
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, body, self.headers))
        if not self.server.status:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.send_response(self.server.status)
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


class GrpcReplica(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Answers every message of every call with itself."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str | bytes]]] = []
        self.server = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        self.server_port = self.server.add_insecure_port("127.0.0.1:0")

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self.calls.append((details.method, dict(details.invocation_metadata)))
        return grpc.stream_stream_rpc_method_handler(lambda messages, _context: messages)


@dataclass
class Balancer:
    port: int
    grpc_port: int
    log: Path

    def predict(self, headers: Mapping[str, str] | None = None) -> Answer:
        return ask(self.port, PREDICT, TEN, headers)

    def call(self, method: str = "tensorflow.serving.PredictionService/Predict", message: bytes = b"ten") -> bytes:
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            return bytes(channel.unary_unary(f"/{method}")(message, timeout=DEADLINE_SECONDS))

    def raw(self, data: bytes) -> Answer:
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE_SECONDS) as connection:
            connection.sendall(data)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return Answer(response.status, response.read(), dict(response.headers))

    def logged(self) -> Any:
        """The first line: it is written once the client has been answered."""
        wait_for(lambda: "\n" in self.log.read_text(), lambda: "no line of log came")
        return json.loads(self.log.read_text().splitlines()[0])


Balance = Callable[..., Balancer]


@pytest.fixture
def balance(tmp_path: Path) -> Iterator[Balance]:
    """Starts the balancer before these replicas; a port stands for a replica that is gone."""
    with ExitStack() as running:

        def start(*replicas: Replica | GrpcReplica | int) -> Balancer:
            for replica in replicas:
                if isinstance(replica, Replica):
                    running.enter_context(in_a_thread(replica))
                elif isinstance(replica, GrpcReplica):
                    replica.server.start()
                    running.callback(replica.server.stop, None)
            ports = [replica if isinstance(replica, int) else replica.server_port for replica in replicas]
            return running.enter_context(nginx(tmp_path, ports))

        yield start


@contextmanager
def nginx(folder: Path, replicas: list[int]) -> Iterator[Balancer]:
    balancer = Balancer(free_port(), free_port(), folder / "access.log")
    text = (ROOT / "deploy/nginx.conf").read_text().replace("/tmp/", f"{folder}/")
    servers = "\n".join(f"server 127.0.0.1:{port} max_fails=0;" for port in replicas)
    for there, here in (
        ("server service:8501 resolve max_fails=0;", servers),
        ("server service:8500 resolve max_fails=0;", servers),
        ("listen 8501 ", f"listen 127.0.0.1:{balancer.port} "),
        # As nginx before 1.25.1 has it.
        ("listen 8500 ", f"listen 127.0.0.1:{balancer.grpc_port} http2 "),
        ("http2 on;", ""),
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
        "proxy_next_upstream_timeout 30000ms; proxy_read_timeout 40000ms; grpc_read_timeout 40000ms;"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    with (folder / "error.log").open("w") as errors:
        process = subprocess.Popen(command, stderr=errors)

    def is_listening() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", balancer.grpc_port)) == 0

    try:
        wait_for(is_listening, lambda: "nginx does not listen")
        yield balancer
    finally:
        process.terminate()
        process.wait()


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
    ask(balancer.port, path, b"\x00\xff" * 50, sent)
    balancer.predict()
    (target, body, headers), (*_, of_second) = replica.requests
    assert (target, body) == (path, b"\x00\xff" * 50)
    assert {name: headers[name] for name in sent} == sent
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert re.fullmatch("[0-9a-f]{32}", of_second["X-Request-ID"])


@pytest.mark.parametrize("failing", [0, 503], ids=["closes the connection", "answers 503"])
def test_prediction_that_one_replica_fails_goes_to_another(balance: Balance, failing: int) -> None:
    broken, sound = Replica(failing), Replica()
    balancer = balance(broken, free_port(), sound)
    for _ in range(6):
        answer = balancer.predict()
        assert (answer.status, answer.body) == (200, sound.body)
    assert {body for _, body, _ in broken.requests + sound.requests} == {json.dumps(TEN).encode()}
    assert broken.requests, "never tried: the test shows nothing"
    tries = balancer.logged()
    assert tries["status"] == "200"
    assert re.fullmatch("(50[23], )+200", tries["replica_statuses"])


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (404, 1), (429, 1), (500, 1), (504, 1), (503, 2)])
def test_only_503_is_tried_on_every_replica_before_it_is_answered(balance: Balance, status: int, tries: int) -> None:
    replicas = [Replica(status), Replica(status)]
    balancer = balance(*replicas)
    for _ in range(3):
        answer = balancer.predict()
        assert (answer.status, answer.headers["Retry-After"]) == (status, "7")
        assert answer.body in [replica.body for replica in replicas]
    assert sum(len(replica.requests) for replica in replicas) == 3 * tries


def test_without_any_replica_the_answer_is_503_in_json(balance: Balance) -> None:
    balancer = balance(free_port(), free_port())
    answer = balancer.predict({"X-Request-ID": "mine"})
    assert (answer.status, answer.json()) == (503, {"error": "no replica of the service could be reached"})
    expected = {"Content-Type": "application/json", "Retry-After": "1", "X-Request-ID": "mine"}
    assert expected.items() <= answer.headers.items()
    tries = balancer.logged()
    assert tries["request_id"] == "mine"
    assert tries["replica_statuses"] == "502, 502 : 502, 502", "after the first round comes another"


def test_what_the_balancer_refuses_is_answered_in_json_and_reaches_no_replica(balance: Balance) -> None:
    replica = Replica()
    balancer = balance(replica)
    for status, answer in (
        # On one replica of several.
        (403, ask(balancer.port, "/v2/repository/models/regression/load", {})),
        (403, ask(balancer.port, "/v2/repository/models/regression/unload", {})),
        (413, ask(balancer.port, PREDICT, bytes(BODY_BYTES + 1))),
        (400, balancer.raw(b"GET / HTTP/1.1\r\n\r\n")),
        (431, balancer.raw(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n")),
        (431, balancer.raw(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")),
    ):
        assert (answer.status, list(answer.json())) == (status, ["error"])
        assert answer.headers["Content-Type"] == "application/json"
    assert replica.requests == []
    assert ask(balancer.port, "/v2/repository/index", {}).status == 200
    assert ask(balancer.port, PREDICT, bytes(BODY_BYTES)).status == 200
    assert len(replica.requests[-1][1]) == BODY_BYTES


def test_calls_are_spread_over_the_replicas_with_an_id_of_each(balance: Balance) -> None:
    replicas = [GrpcReplica(), GrpcReplica()]
    balancer = balance(*replicas)
    large = bytes(BODY_BYTES + 1)  # the limit is for each message, and the service's own
    assert [balancer.call() for _ in range(3)] == [b"ten"] * 3
    assert balancer.call(message=large) == large
    assert [len(replica.calls) for replica in replicas] == [2, 2]
    methods, metadata = zip(*[call for replica in replicas for call in replica.calls], strict=True)
    assert set(methods) == {"/tensorflow.serving.PredictionService/Predict"}
    assert len({one["x-request-id"] for one in metadata}) == 4
    assert balancer.log.read_text() == ""


def test_call_that_no_replica_has_got_goes_to_another_and_streams_flow(balance: Balance) -> None:
    balancer = balance(free_port(), GrpcReplica(), free_port())
    assert [balancer.call() for _ in range(4)] == [b"ten"] * 4
    messages = SimpleQueue[bytes | None]()
    with grpc.insecure_channel(f"127.0.0.1:{balancer.grpc_port}") as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        answers = stream(iter(messages.get, None), timeout=DEADLINE_SECONDS)
        for message in (b"first", b"second"):
            messages.put(message)
            assert next(answers) == message
        messages.put(None)
        assert list(answers) == []


def refusal(balancer: Balancer, method: str) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        balancer.call(method)
    return raised.value.code(), raised.value.details()


def test_call_that_loads_or_unloads_reaches_no_replica(balance: Balance) -> None:
    balancer = balance(replica := GrpcReplica())
    for method in (
        "inference.GRPCInferenceService/RepositoryModelLoad",
        "inference.GRPCInferenceService/RepositoryModelUnload",
        "tensorflow.serving.ModelService/HandleReloadConfigRequest",
    ):
        assert refusal(balancer, method)[0] == grpc.StatusCode.PERMISSION_DENIED
    assert replica.calls == []


def test_without_any_replica_calls_are_unavailable(balance: Balance) -> None:
    said = refusal(balance(free_port()), "tensorflow.serving.PredictionService/Predict")
    assert said == (grpc.StatusCode.UNAVAILABLE, "no replica of the service could be reached")
