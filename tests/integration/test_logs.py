"""What a running service writes: its log, captured requests, spans; and what happens where nobody can take them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.observability.capture import decode_line, decode_tensors
from tests.integration.models import publish
from tests.integration.server import PREDICT, ROOT, SHIPPED, TEN, Server, in_a_thread, running

SAMPLE = (SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()


def dropped(server: Server, kind: str) -> float:
    return server.sample(f"serving_{kind}_dropped_total")


def test_every_request_of_every_worker_is_logged_and_captured(models: Path, tmp_path: Path) -> None:
    publish(SHIPPED / "clothing" / "2", models / "clothing" / "2")
    captured = tmp_path / "requests.jsonl"
    settings = {"log_format": "json", "capture_file": captured, "capture_share": 1.0}
    with running(models, tmp_path / "log", workers=2, **settings) as server:
        ids = {server.request(PREDICT, {"instances": [float(n)]}).headers["x-request-id"] for n in range(50)}
        assert server.request("/v1/models/clothing:classify", SAMPLE, "image/png").status == 200
        assert dropped(server, "capture") == dropped(server, "log") == 0
        # The last line before the end.
        last = server.request(PREDICT, b"[]").headers["x-request-id"]
    # LiteRT has a line of its own, which is no JSON.
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    of_requests = [line for line in lines if line["logger"] == "service.requests"]
    assert {line["request_id"] for line in of_requests if line["model"] == "regression"} == {*ids, last}
    answered = [line for line in of_requests if line["request_id"] in ids]
    assert {(line["status"], line["batch_size"]) for line in answered} == {(200, 1)}
    for line in answered:
        stages = sum(line[f"{stage}_ms"] for stage in ("decode", "queue", "inference", "encode"))
        assert 0 < stages <= line["total_ms"]
    of_regression = [line for line in map(decode_line, captured.read_bytes().splitlines()) if line.model != "clothing"]
    assert sorted(decode_tensors(line.inputs)["x"].item() for line in of_regression) == list(range(50))
    options = ["--against", "clothing/1", "--engine", "litert", "--json"]
    command = [sys.executable, "-m", "training", "replay", str(captured), *options]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert (found["requests"], found["rows"], found["agreeing"]) == (1, 1, 1)
    assert found["not_run"] == found["damaged"] == []
    assert found["confusion"] == {"Sneaker": {"Sneaker": 1}}


def test_full_disk_and_stopped_reader_cost_captures_and_lines_and_no_answers(models: Path, tmp_path: Path) -> None:
    """The log is a pipe, as under Docker, and full."""
    read_end, write_end = os.pipe()
    capture = {"capture_file": "/dev/full", "capture_share": 1.0}
    try:
        with running(models, tmp_path / "log", write_end, **capture) as server:
            os.set_blocking(write_end, False)
            with suppress(BlockingIOError):
                while True:
                    os.write(write_end, b"x")
            os.set_blocking(write_end, True)
            # Each waits at most a minute for its answer.
            assert server.statuses(times=50) == {200}
            server.wait_for(lambda: dropped(server, "capture") == 50, "not all captures are dropped")
    finally:
        os.close(read_end)
        os.close(write_end)


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Reads OTLP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: set[str] = set()
        self.spans: dict[str, Any] = {}


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.paths.add(self.path)
        for of_resource in request.resource_spans:
            for of_scope in of_resource.scope_spans:
                self.server.spans |= {span.name: span for span in of_scope.spans}
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry", reason="OpenTelemetry is not installed (the extra `otel`)")
    collector = Collector()
    with in_a_thread(collector):
        yield collector


def test_collector_gets_the_spans_of_a_request(
    models: Path, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    # Not before the end.
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with running(models, tmp_path / "log", otel=1) as server:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "X-Request-ID": "mine"}
        assert server.request(PREDICT, TEN, headers=headers).status == 200
        assert not collector.spans
    assert collector.paths == {"/v1/traces"}
    whole = collector.spans.pop("POST /v1/models/{model}:predict")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, SPAN)
    attributes = {each.key: each.value.string_value or each.value.int_value for each in whole.attributes}
    expected = {"serving.model": "regression", "serving.request_id": "mine", "http.response.status_code": 200}
    assert expected.items() <= attributes.items()
    assert {"decode", "inference", "encode"} <= collector.spans.keys()
    for stage in collector.spans.values():
        assert stage.parent_span_id == whole.span_id
        begin, end = stage.start_time_unix_nano, stage.end_time_unix_nano
        assert whole.start_time_unix_nano <= begin <= end <= whole.end_time_unix_nano
    assert f"trace={TRACE} span={SPAN}" in server.log.read_text()
