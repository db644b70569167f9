"""SERVING_OTEL=1 for compose: the image is built with OpenTelemetry, and spans reach a collector."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.stack import Ask, Docker, Stack, up

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


@pytest.fixture
def stack(docker: Docker, ask: Ask) -> Iterator[Stack]:
    image = f"fitting-room-e2e:otel-{uuid.uuid4().hex[:8]}"
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    try:
        with up(docker, image, ask, "service", SERVING_OTEL="1", **settings) as stack:
            yield stack
    finally:
        docker("image", "rm", "--force", image, check=False)


@pytest.fixture
def collector(stack: Stack) -> Iterator[str]:
    """A container that shares the service's network, so that 127.0.0.1 is the same for both."""
    name = f"fitting-room-e2e-{uuid.uuid4().hex[:8]}"
    (replica,) = stack.replicas()
    options = ("--network", f"container:{replica}", "--entrypoint", "python")
    stack.docker("run", "--detach", "--name", name, *options, stack.image, "-c", COLLECTOR)
    yield name
    stack.docker("rm", "--force", name, check=False)


def test_a_collector_gets_the_spans_of_requests(
    stack: Stack, collector: str, docker: Docker, wait_until: Callable[..., object]
) -> None:
    (replica,) = stack.replicas()

    def spans_after_a_request() -> set[str]:
        assert docker("exec", replica, "python", "-c", PREDICT) == "200"
        return {line.partition(": ")[2] for line in docker("logs", collector).splitlines()}

    expected = {"POST /v1/models/{model}:predict", "decode", "inference", "encode"}
    wait_until(spans_after_a_request, lambda spans: expected <= spans, "the spans")
