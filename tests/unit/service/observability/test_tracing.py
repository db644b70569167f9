"""Spans of requests, kept in memory."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.http import Request
from service.inference.context import RequestContext
from service.observability.tracing import Spans
from tests.unit.service.fakes import request

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BEGAN = 1_000.0
NANO = 10**9


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def spans_of(answered: Request, status: int = 200, body_bytes: int = 0) -> Sequence[ReadableSpan]:
    """The span of the whole request is the last one."""
    exporter = InMemorySpanExporter()
    Spans(SimpleSpanProcessor(exporter)).answered(answered, status, body_bytes)
    return exporter.get_finished_spans()


def predicted(headers: Mapping[bytes, bytes] | None = None, flags: str = "") -> Request:
    """A prediction that took eight seconds, and waited twice. `flags`: of the trace that it belongs to."""
    traced = {b"traceparent": f"00-{TRACE}-{SPAN}-{flags}".encode()} if flags else {}
    headers = {**traced, **(headers or {})}
    made = request(b"/v1/models/model/versions/3:predict?secret", headers=headers)
    made.context = context = RequestContext(headers, 20)
    context.protocol, context.verb, context.model, context.version = "v1", "predict", "model", "3"
    context.batch_size, context.run_seconds = 5, 1
    context.arrived, context.began, context.decoded_at, context.run_began = BEGAN, BEGAN + 1, BEGAN + 2, BEGAN + 4
    context.inferred_at, context.ended, context.answered = BEGAN + 5, BEGAN + 7, BEGAN + 8
    return made


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def test_request_is_a_span_with_its_stages_within() -> None:
    arrived = time.time_ns() - int((time.perf_counter() - BEGAN) * NANO)
    *stages, whole = spans_of(predicted())
    assert whole.name == "POST /v1/models/{model}/versions/{version}:predict"
    assert (whole.kind, whole.parent) == (SpanKind.SERVER, None)
    start = whole.start_time or 0
    assert abs(start - arrived) < 10 * NANO
    found = [(span.name, (span.start_time or 0) - start, (span.end_time or 0) - start) for span in (*stages, whole)]
    seconds = [(name, round(began / NANO, 6), round(ended / NANO, 6)) for name, began, ended in found]
    assert seconds[:-1] == [("queue", 0, 1), ("decode", 1, 2), ("queue", 2, 4), ("inference", 4, 5), ("encode", 5, 7)]
    assert seconds[-1][1:] == (0, 8)
    assert all((stage.parent, stage.kind) == (whole.context, SpanKind.INTERNAL) for stage in stages)


def test_attributes_are_those_of_the_conventions_and_the_model() -> None:
    *_, whole = spans_of(predicted({b"user-agent": b"curl/8", b"x-request-id": b"mine"}), body_bytes=17)
    assert dict(whole.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/models/{model}/versions/{version}:predict",
        "url.path": "/v1/models/model/versions/3:predict",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "http.request.body.size": 20,
        "http.response.body.size": 17,
        "user_agent.original": "curl/8",
        "serving.request_id": "mine",
        "serving.model": "model",
        "serving.version": "3",
        "serving.batch_size": 5,
    }
    assert whole.resource.attributes["service.name"] == "fitting-room"


def test_request_joins_the_trace_of_its_client(caplog: pytest.LogCaptureFixture) -> None:
    spans = spans_of(predicted({b"tracestate": b"vendor=1"}, "01"))
    parent = spans[-1].parent
    assert parent is not None
    assert (parent.is_remote, f"{parent.span_id:016x}") == (True, SPAN)
    assert dict(parent.trace_state) == {"vendor": "1"}
    assert set(map(trace_id, spans)) == {TRACE}
    assert spans_of(predicted(flags="00")) == (), "the client records none"
    # An invalid state costs no span, and moves no cursor in the log.
    assert len(spans_of(predicted({b"tracestate": b"\x9b2J\xff=1,,,"}, "01"))) == 6
    assert caplog.text.isascii()


def test_log_can_name_a_trace_that_begins_here() -> None:
    request = predicted()
    *_, whole = spans_of(request)
    assert (request.context.trace or ())[:2] == (trace_id(whole), "")


@pytest.mark.parametrize(("status", "is_ours"), [(200, False), (404, False), (429, False), (500, True), (504, True)])
def test_only_what_is_our_fault_is_an_error(status: int, is_ours: bool) -> None:
    *_, whole = spans_of(predicted(), status)
    assert whole.status.status_code is (StatusCode.ERROR if is_ours else StatusCode.UNSET)
    assert (whole.attributes or {}).get("error.type") == (str(status) if is_ours else None)


@pytest.mark.parametrize(
    ("method", "path", "names"),
    [
        ("GET", b"/v1/models", ["GET /v1/models"]),
        ("", b"", ["HTTP"]),
        ("GET", b"/v2/health/live", []),
        ("GET", b"/metrics", []),
    ],
)
def test_what_is_no_prediction_is_one_span_or_none(method: str, path: bytes, names: list[str]) -> None:
    assert [span.name for span in spans_of(request(path, method=method))] == names


def test_short_waits_are_left_out() -> None:
    request = predicted()
    request.context.began = request.context.arrived + 0.00005
    request.context.run_began = request.context.decoded_at + 0.00005
    assert [span.name for span in spans_of(request)][:-1] == ["decode", "inference", "encode"]


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_SERVICE_NAME", "mine"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine")]
)
def test_service_may_have_another_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert spans_of(predicted())[-1].resource.attributes["service.name"] == "mine"


def test_end_waits_for_no_collector_for_ever() -> None:
    let_go, over = threading.Event(), threading.Event()

    class Stuck(SpanExporter):
        def export(self, spans: Any) -> Any:
            pass

        def shutdown(self) -> None:
            let_go.wait(10)
            over.set()

    Spans(SimpleSpanProcessor(Stuck())).close(0.01)
    assert not over.is_set()
    let_go.set()
