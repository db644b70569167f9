"""Spans on their way to a collector: an HTTP server that reads OTLP."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry", reason="OpenTelemetry is not installed (the extra `otel`)")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.integration.conftest import SHIPPED
from tests.integration.server import free_port, running

REGRESSION = "/v1/models/regression:predict"
TEN = {"instances": [10.0]}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    def __init__(self) -> None:
        self.received: list[tuple[str, ExportTraceServiceRequest]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def spans(self) -> list[Span]:
        return [
            span
            for _, request in list(self.received)
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_a_collector_gets_the_spans_of_a_request(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with running(SHIPPED, tmp_path / "log", otel=1) as server:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "X-Request-ID": "mine"}
        assert server.request(REGRESSION, TEN, headers=headers).status == 200
        server.wait_for(lambda: len(collector.spans()) >= 4, "no spans came")
        spans = {span.name: span for span in collector.spans()}
    assert {path for path, _ in collector.received} == {"/v1/traces"}
    whole = spans.pop("POST /v1/models/{model}:predict")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, SPAN)
    attributes = {each.key: each.value.string_value or each.value.int_value for each in whole.attributes}
    assert attributes["serving.model"] == "regression"
    assert attributes["serving.request_id"] == "mine"
    assert attributes["http.response.status_code"] == 200
    assert {"decode", "inference", "encode"} <= spans.keys()
    for stage in spans.values():
        assert stage.parent_span_id == whole.span_id
        begin, end = stage.start_time_unix_nano, stage.end_time_unix_nano
        assert whole.start_time_unix_nano <= begin <= end <= whole.end_time_unix_nano
    assert f"trace={TRACE} span={SPAN}" in server.log.read_text()


def test_the_last_spans_are_sent_at_the_end(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with running(SHIPPED, tmp_path / "log", otel=1) as server:
        assert server.request(REGRESSION, TEN).status == 200
        assert not collector.spans()
    assert "POST /v1/models/{model}:predict" in {span.name for span in collector.spans()}


def test_a_collector_that_is_not_there_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with running(SHIPPED, tmp_path / "log", otel=1) as server:
        assert {server.request(REGRESSION, TEN).status for _ in range(200)} == {200}
    assert server.process.returncode == 0
