"""What a running service writes: its log, captured requests, spans; and what happens where nobody can take them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.observability.capture import decode_line, decode_tensors
from tests.integration.models import publish
from tests.integration.server import PREDICT, ROOT, SHIPPED, TEN, Server, running

SAMPLE = (SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()


def request_lines(server: Server) -> list[dict[str, Any]]:
    # The last one may still be being written; and LiteRT has a line of its own, which is no JSON.
    whole = server.log.read_text().rpartition("\n")[0].splitlines()
    lines = [json.loads(line) for line in whole if line.startswith("{")]
    return [line for line in lines if line["logger"] == "service.requests"]


def dropped(server: Server, kind: str) -> float:
    page = server.request("/metrics").body.decode()
    families = [family for family in text_string_to_metric_families(page) if family.name == f"serving_{kind}_dropped"]
    return sum(sample.value for family in families for sample in family.samples if sample.name.endswith("_total"))


def replay(*arguments: object) -> Any:
    command = [sys.executable, "-m", "training", "replay", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    lines = request_lines(server)
    assert {line["request_id"] for line in lines if line["model"] == "regression"} == {*ids, last}
    answered = [line for line in lines if line["request_id"] in ids]
    assert {(line["status"], line["batch_size"]) for line in answered} == {(200, 1)}
    for line in answered:
        stages = sum(line[f"{stage}_ms"] for stage in ("decode", "queue", "inference", "encode"))
        assert 0 < stages <= line["total_ms"]
    of_regression = [line for line in map(decode_line, captured.read_bytes().splitlines()) if line.model != "clothing"]
    assert sorted(decode_tensors(line.inputs)["x"].item() for line in of_regression) == list(range(50))
    for against, requests in (("regression/1", 50), ("clothing/1", 1)):
        found = replay(captured, "--against", against, "--engine", "litert")
        assert (found["requests"], found["rows"], found["agreeing"]) == (requests, requests, requests)
        assert found["not_run"] == found["damaged"] == []
    assert found["confusion"] == {"Sneaker": {"Sneaker": 1}}


def test_full_disk_costs_lines_and_captures_and_no_answers(models: Path, tmp_path: Path) -> None:
    capture = {"capture_file": "/dev/full", "capture_share": 1.0}
    with Path("/dev/full").open("w") as full, running(models, tmp_path / "log", full.fileno(), **capture) as server:
        assert server.statuses(times=50) == {200}
        server.wait_for(lambda: dropped(server, "log") >= 50, "no line is dropped")
        server.wait_for(lambda: dropped(server, "capture") == 50, "not all captures are dropped")


def test_reader_of_the_log_that_has_stopped_holds_no_request_up(models: Path, tmp_path: Path) -> None:
    """The log is a pipe, as under Docker, and full."""
    read_end, write_end = os.pipe()
    try:
        with running(models, tmp_path / "log", write_end) as server:
            fill(write_end)
            # Each waits at most a minute for its answer.
            assert server.statuses(times=200) == {200}
    finally:
        os.close(read_end)
        os.close(write_end)


def fill(pipe: int) -> None:
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")
    os.set_blocking(pipe, True)


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Reads OTLP."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.spans: list[Any] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.paths.add(self.path)
        self.server.spans += [
            span
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry", reason="OpenTelemetry is not installed (the extra `otel`)")
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


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
    spans = {span.name: span for span in collector.spans}
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
