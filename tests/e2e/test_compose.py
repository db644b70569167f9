"""docker-compose.yml for real: the service behind its balancer, Prometheus, Alertmanager; keys; spans."""

import http.client
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.engine import ABOUT_31, ask_inside, docker, predicted, wait_until
from tests.e2e.stack import Stack, up
from tests.integration.server import PREDICT, TEN, ask

BODY_LIMIT = 100_000


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[Stack]:
    settings = {
        "SERVING_MAX_BODY_BYTES": str(BODY_LIMIT),
        "SERVING_MAX_BATCH_SIZE": "",
        "SERVING_SHUTDOWN_SECONDS": "45",
    }
    with up(image, "balancer", "prometheus", "alertmanager", **settings) as stack:
        yield stack


@pytest.mark.parametrize(("service", "folders"), [("service", ["/etc", "/models"]), ("balancer", ["/etc"])])
def test_containers_run_without_any_right_that_they_do_not_need(stack: Stack, service: str, folders: list[str]) -> None:
    status = stack.compose("exec", "-T", service, "cat", "/proc/1/status")
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    for folder in folders:
        assert "Read-only" in stack.compose("exec", "-T", service, "touch", f"{folder}/file", check=False)


def test_calls_of_grpc_go_through_the_balancer(stack: Stack) -> None:
    assert predicted(stack.grpc_port, "regression") == pytest.approx(31, abs=0.01)
    with grpc.insecure_channel(f"127.0.0.1:{stack.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(bytes(BODY_LIMIT + 1), timeout=60)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
        assert next(iter(watch)) == b"\x08\x01"  # SERVING
        watch.cancel()


def test_balancer_takes_no_longer_bodies_than_the_service(stack: Stack) -> None:
    port, png = stack.balancer_port, {"Content-Type": "image/png"}
    refused = ask(port, "/v1/models/clothing:classify", bytes(BODY_LIMIT + 1), png)
    assert (refused.status, refused.json()) == (413, {"error": "the body is longer than is taken"})
    assert ask(port, "/v1/models/clothing:classify", bytes(BODY_LIMIT), png).status == 400


def test_prometheus_has_the_alerts_and_tells_the_alertmanager(stack: Stack) -> None:
    def prometheus_says(path: str) -> Any:
        return ask(stack.prometheus.port, f"/api/v1/{path}").json()["data"]

    names = {rule["name"] for group in prometheus_says("rules?type=alert")["groups"] for rule in group["rules"]}
    assert "ServingDown" in names
    wait_until(
        lambda: prometheus_says("alertmanagers")["activeAlertmanagers"], what="an Alertmanager that Prometheus sends to"
    )
    port = stack.port("alertmanager", 9093)
    wait_until(lambda: ask(port, "/api/v2/status").json()["config"], what="the Alertmanager")


def test_prometheus_counts_every_request(stack: Stack) -> None:
    for _ in range(7):
        assert ask(stack.balancer_port, PREDICT, {"instances": ["ten"]}).status == 400
    counted = 'sum(serving_requests_total{model="regression", verb="predict", status="400"})'
    wait_until(lambda: stack.prometheus.query(counted), lambda found: found == [({}, 7)], "7 requests in Prometheus")


def test_version_that_is_dropped_into_the_models_folder_is_picked_up(stack: Stack) -> None:
    folder, port = stack.models / "regression", stack.balancer_port
    shutil.copytree(folder / "1", folder / ".2")
    (folder / ".2").rename(folder / "2")
    predict = "/v1/models/regression/versions/2:predict"
    answer = wait_until(lambda: ask(port, predict, TEN), lambda answer: answer.status == 200, "version 2")
    assert answer.json() == ABOUT_31


def test_client_needs_a_key_and_prometheus_and_the_health_check_need_none(image: str, tmp_path: Path) -> None:
    printed = docker("run", "--rm", image, "key", "--name", "alice", "--scope", "predict")
    (key,) = (line for line in printed.splitlines() if line.startswith("fr_"))
    (tmp_path / "api-keys.toml").write_text(printed.partition("For the file:")[2])
    # The container's user is another.
    tmp_path.chmod(0o755)
    (tmp_path / "api-keys.toml").chmod(0o644)
    files = {"COMPOSE_FILE": "docker-compose.yml:deploy/compose.keys.yml", "API_KEYS_DIR": str(tmp_path)}
    with up(image, "balancer", "prometheus", **files) as stack:
        port, authorization = stack.balancer_port, {"Authorization": f"Bearer {key}"}
        assert ask(port, "/v1/models/regression").status == 401
        assert ask(port, "/v1/models/regression", headers=authorization).status == 200
        wait_until_scraped(stack, 8501)
        # The health check, for which this waits, and Prometheus follow to a port of their own.
        stack.environment["SERVING_OPERATIONS_PORT"] = "8502"
        stack.compose("up", "--detach", "--wait", "service", "prometheus")
        wait_until_scraped(stack, 8502)


def test_published_ports_speak_tls(image: str, tmp_path: Path) -> None:
    """One certificate is the balancer's, the client's and its own issuer's."""
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "own.key")
    names = ("-subj", "/CN=own", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ["openssl", "req", "-x509", *new, "-out", "own.pem", *names]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    # The container's user is another.
    tmp_path.chmod(0o755)
    (tmp_path / "own.key").chmod(0o644)
    files = {"COMPOSE_FILE": "docker-compose.yml:deploy/compose.tls.yml", "TLS_DIR": str(tmp_path)}
    files |= {"SERVING_TLS_CERT": "/tls/own.pem", "SERVING_TLS_KEY": "/tls/own.key"}
    with up(image, "balancer", **files, SERVING_TLS_CLIENT_CA="/tls/own.pem") as stack:
        certificate, key = ((tmp_path / name).read_bytes() for name in ("own.pem", "own.key"))
        own = grpc.ssl_channel_credentials(certificate, key, certificate)
        assert predicted(stack.grpc_port, "regression", own) == pytest.approx(31, abs=0.01)
        with pytest.raises(grpc.RpcError) as raised:
            predicted(stack.grpc_port, "regression", grpc.ssl_channel_credentials(certificate))
        assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
        context = ssl.create_default_context(cafile=tmp_path / "own.pem")
        assert https_status(stack.balancer_port, context) == 401
        context.load_cert_chain(tmp_path / "own.pem", tmp_path / "own.key")
        assert https_status(stack.balancer_port, context) == 200
        assert ask(stack.balancer_port, "/v1/models").status == 400


def https_status(port: int, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    connection.request("GET", "/v1/models")
    status = connection.getresponse().status
    connection.close()
    return status


def wait_until_scraped(stack: Stack, port: int) -> None:
    series = f'up{{job="fitting-room", instance=~".*:{port}"}} == 1'
    wait_until(lambda: stack.prometheus.query(series), what=series)


# Prints the names of the spans that it gets. Runs in the service's image, which has what reads them.
COLLECTOR = """
from http.server import BaseHTTPRequestHandler, HTTPServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    print("span:", span.name, flush=True)
        self.send_response(200)
        self.end_headers()

HTTPServer(("127.0.0.1", 4318), Handler).serve_forever()
"""


def test_collector_gets_the_spans_of_an_image_that_compose_builds(otel_image: str) -> None:
    settings = {
        "SERVING_OTEL": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with up(otel_image, "service", **settings) as stack:
        (replica,) = stack.replicas()
        collector = f"{stack.project}-collector"
        # It shares the service's network, so that 127.0.0.1 is the same for both.
        options = ("--network", f"container:{replica}", "--entrypoint", "python")
        docker("run", "--detach", "--name", collector, *options, otel_image, "-c", COLLECTOR)

        def spans_after_a_request() -> set[str]:
            ask_inside(replica, PREDICT, '{"instances": [10.0]}')
            return {line.partition(": ")[2] for line in docker("logs", collector).splitlines()}

        try:
            expected = {"POST /v1/models/{model}:predict", "decode", "inference", "encode"}
            wait_until(spans_after_a_request, lambda spans: expected <= spans, "the spans")
        finally:
            docker("rm", "--force", collector)
