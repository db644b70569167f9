"""docker-compose.yml for real: the service behind its balancer, Prometheus, Alertmanager; keys; spans."""

import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.engine import ask, docker, new_key, wait_until
from tests.e2e.stack import Stack, up

BODY_LIMIT = 100_000


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[Stack]:
    limit = {"SERVING_MAX_BODY_BYTES": str(BODY_LIMIT)}
    with up(image, "balancer", "prometheus", "alertmanager", settings=limit) as stack:
        yield stack


def test_containers_are_healthy(stack: Stack) -> None:
    for service in ("service", "balancer", "prometheus"):
        assert stack.inspect(service, "{{.State.Health.Status}}") == "healthy"


@pytest.mark.parametrize("service", ["service", "balancer"])
def test_containers_run_without_any_right_that_they_do_not_need(stack: Stack, service: str) -> None:
    status = stack.compose("exec", "-T", service, "cat", "/proc/1/status")
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert "Read-only file system" in stack.compose("exec", "-T", service, "touch", "/etc/file", check=False)


def test_models_cannot_be_written(stack: Stack) -> None:
    assert "Read-only file system" in stack.compose("exec", "-T", "service", "touch", "/models/file", check=False)


def test_balancer_takes_no_longer_bodies_than_the_service(stack: Stack) -> None:
    url = stack.url("/v1/models/clothing:classify")
    assert ask(url, bytes(BODY_LIMIT + 1)) == (413, {"error": "the body is longer than is taken"})
    assert ask(url, bytes(BODY_LIMIT))[0] == 400


def test_prometheus_has_the_alerts_and_tells_the_alertmanager(stack: Stack) -> None:
    def prometheus_says(path: str) -> Any:
        return ask(f"http://{stack.prometheus_address}/api/v1/{path}")[1]["data"]

    names = {rule["name"] for group in prometheus_says("rules?type=alert")["groups"] for rule in group["rules"]}
    assert "ServingDown" in names
    wait_until(
        lambda: prometheus_says("alertmanagers")["activeAlertmanagers"], what="an Alertmanager that Prometheus sends to"
    )
    address = stack.compose("port", "alertmanager", "9093")
    wait_until(lambda: ask(f"http://{address}/api/v2/status")[1]["config"], what="the Alertmanager")


def test_prometheus_counts_every_prediction(stack: Stack) -> None:
    predictions = {"model": "regression", "verb": "predict", "status": "200"}
    already = 0.0
    for family in text_string_to_metric_families(ask(stack.url("/metrics"))[1]):
        for sample in family.samples:
            if sample.name == "serving_requests_total" and predictions.items() <= sample.labels.items():
                already += sample.value
    for _ in range(7):
        stack.check_prediction()
    selector = ", ".join(f'{name}="{value}"' for name, value in predictions.items())
    counted = wait_until(
        lambda: stack.prometheus(f"sum(serving_requests_total{{{selector}}})"),
        lambda series: series and series[0][1] >= already + 7,
        "the predictions in Prometheus",
    )
    assert counted[0][1] == already + 7


def test_version_that_is_dropped_into_the_models_folder_is_picked_up(stack: Stack) -> None:
    folder = stack.models / "regression"
    shutil.copytree(folder / "1", folder / ".2")
    (folder / ".2").rename(folder / "2")
    status = stack.url("/v1/models/regression/versions/2")
    wait_until(lambda: ask(status)[1], lambda answer: "AVAILABLE" in str(answer), "version 2")
    stack.check_prediction("/versions/2")


# API keys


@pytest.fixture(scope="module")
def keys(image: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A key, and the folder with the file that knows it."""
    folder = tmp_path_factory.mktemp("keys")
    return new_key(image, folder), folder


def test_client_needs_a_key_and_prometheus_and_the_health_check_need_none(image: str, keys: tuple[str, Path]) -> None:
    key, folder = keys
    files = {"COMPOSE_FILE": "docker-compose.yml:deploy/compose.keys.yml", "API_KEYS_DIR": str(folder)}
    with up(image, "balancer", "prometheus", settings=files) as stack:
        url = stack.url("/v1/models/regression")
        assert [ask(url)[0], ask(url, Authorization=f"Bearer {key}")[0]] == [401, 200]
        wait_until(lambda: stack.prometheus('up{job="fitting-room", instance=~".*:8501"} == 1'), what="up == 1")
        # Both follow to a port of their own.
        stack.environment["SERVING_OPERATIONS_PORT"] = "8502"
        stack.compose("up", "--detach", "--wait", "service", "prometheus")
        vars(stack).pop("prometheus_address", None)  # its port is another now
        assert stack.inspect("service", "{{.State.Health.Status}}") == "healthy"
        wait_until(lambda: stack.prometheus('up{job="fitting-room", instance=~".*:8502"} == 1'), what="up == 1")


# Spans

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

PREDICT = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 8501)
connection.request("POST", "/v1/models/regression:predict", '{"instances": [10.0]}')
print(connection.getresponse().status)
"""


@pytest.mark.usefixtures("image")
def test_collector_gets_the_spans_of_an_image_that_compose_builds() -> None:
    settings = {
        "SERVING_OTEL": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    image, collector = (f"fitting-room-e2e{sign}otel-{uuid.uuid4().hex[:8]}" for sign in ":-")
    try:
        with up(image, "service", build=True, settings=settings) as stack:
            (replica,) = stack.replicas()
            # It shares the service's network, so that 127.0.0.1 is the same for both.
            options = ("--network", f"container:{replica}", "--entrypoint", "python")
            docker("run", "--detach", "--name", collector, *options, image, "-c", COLLECTOR)

            def spans_after_a_request() -> set[str]:
                assert docker("exec", replica, "python", "-c", PREDICT) == "200"
                return {line.partition(": ")[2] for line in docker("logs", collector).splitlines()}

            expected = {"POST /v1/models/{model}:predict", "decode", "inference", "encode"}
            wait_until(spans_after_a_request, lambda spans: expected <= spans, "the spans")
    finally:
        docker("rm", "--force", collector, check=False)
        docker("image", "rm", "--force", image, check=False)
