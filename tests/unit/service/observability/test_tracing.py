"""Spans of requests, kept in memory."""

import threading
import time
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.http import Request
from service.inference.context import RequestContext
from service.observability.tracing import Spans
from tests.unit.service.fakes import request

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BEGAN = 1_000.0


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> Spans:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    return Spans(SimpleSpanProcessor(exporter))


def predicted(**headers: str) -> Request:
    """A prediction that took eight seconds, and waited twice."""
    given = {name.encode(): value.encode() for name, value in headers.items()}
    context = RequestContext(given, 20)
    context.protocol, context.verb, context.model, context.version, context.batch_size = (
        "v1",
        "predict",
        "model",
        "3",
        5,
    )
    context.arrived, context.began, context.decoded_at, context.run_began, context.run_seconds = (
        BEGAN,
        BEGAN + 1,
        BEGAN + 2,
        BEGAN + 4,
        1,
    )
    context.inferred_at, context.ended, context.answered = BEGAN + 5, BEGAN + 7, BEGAN + 8
    made = request(b"/v1/models/model/versions/3:predict?secret", headers=given)
    made.context = context
    return made


def seconds(span: ReadableSpan, since: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    assert since.start_time is not None
    return round((span.start_time - since.start_time) / 1e9, 6), round((span.end_time - since.start_time) / 1e9, 6)


def test_a_request_is_a_span_and_its_stages_are_spans_within(spans: Spans, exporter: InMemorySpanExporter) -> None:
    before = time.time_ns() - int((time.perf_counter() - BEGAN) * 1e9)
    spans.answered(predicted(), 200, 17)
    *stages, whole = exporter.get_finished_spans()
    assert whole.name == "POST /v1/models/{model}/versions/{version}:predict"
    assert whole.kind is SpanKind.SERVER
    assert whole.parent is None
    assert whole.status.status_code is StatusCode.UNSET
    assert whole.start_time is not None
    assert abs(whole.start_time - before) < 10 * 1e9
    assert seconds(whole, whole) == (0, 8)
    assert [(stage.name, *seconds(stage, whole)) for stage in stages] == [
        ("queue", 0, 1),
        ("decode", 1, 2),
        ("queue", 2, 4),
        ("inference", 4, 5),
        ("encode", 5, 7),
    ]
    for stage in stages:
        assert stage.parent == whole.context
        assert stage.kind is SpanKind.INTERNAL


def test_a_span_says_what_the_conventions_ask_for_and_which_model_it_was(
    spans: Spans, exporter: InMemorySpanExporter
) -> None:
    spans.answered(predicted(**{"user-agent": "curl/8", "x-request-id": "mine"}), 200, 17)
    whole = exporter.get_finished_spans()[-1]
    assert whole.attributes == {
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


def test_a_request_joins_the_trace_of_who_sent_it(spans: Spans, exporter: InMemorySpanExporter) -> None:
    spans.answered(predicted(traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="vendor=1"), 200, 0)
    *stages, whole = exporter.get_finished_spans()
    assert whole.parent is not None
    assert whole.parent.is_remote
    assert f"{whole.parent.span_id:016x}" == SPAN
    assert whole.context is not None
    assert whole.context.trace_state == {"vendor": "1"}
    for span in (*stages, whole):
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE


def test_a_state_that_is_none_costs_no_span_and_moves_no_cursor_in_the_log(
    spans: Spans, exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    request = predicted(traceparent=f"00-{TRACE}-{SPAN}-01")
    request.headers[b"tracestate"] = b"\x9b2J\xff=1,,,"
    spans.answered(request, 200, 0)
    assert len(exporter.get_finished_spans()) == 6
    assert caplog.text.isascii()


def test_who_does_not_record_its_span_wants_none_of_ours(spans: Spans, exporter: InMemorySpanExporter) -> None:
    spans.answered(predicted(traceparent=f"00-{TRACE}-{SPAN}-00"), 200, 0)
    assert exporter.get_finished_spans() == ()


def test_the_log_can_name_a_trace_that_begins_here(spans: Spans, exporter: InMemorySpanExporter) -> None:
    request = predicted()
    spans.answered(request, 200, 0)
    whole = exporter.get_finished_spans()[-1]
    assert request.context.trace is not None
    assert whole.context is not None
    assert request.context.trace.trace_id == f"{whole.context.trace_id:032x}"
    assert request.context.trace.span_id == ""


@pytest.mark.parametrize(("status", "is_ours"), [(200, False), (404, False), (429, False), (500, True), (504, True)])
def test_only_what_is_our_fault_is_an_error(
    spans: Spans, exporter: InMemorySpanExporter, status: int, is_ours: bool
) -> None:
    spans.answered(predicted(), status, 0)
    whole = exporter.get_finished_spans()[-1]
    assert whole.status.status_code is (StatusCode.ERROR if is_ours else StatusCode.UNSET)
    assert whole.attributes is not None
    assert whole.attributes.get("error.type") == (str(status) if is_ours else None)


@pytest.mark.parametrize(
    ("request_", "name"),
    [(request(b"/v1/models", method="GET"), "GET /v1/models"), (request(b"", method=""), "HTTP")],
    ids=["another route", "no HTTP"],
)
def test_what_is_no_prediction_is_one_span(
    spans: Spans, exporter: InMemorySpanExporter, request_: Request, name: str
) -> None:
    spans.answered(request_, 400, 0)
    (whole,) = exporter.get_finished_spans()
    assert whole.name == name


@pytest.mark.parametrize("path", [b"/v2/health/live", b"/metrics"])
def test_what_tools_ask_every_few_seconds_is_no_span(spans: Spans, exporter: InMemorySpanExporter, path: bytes) -> None:
    spans.answered(request(path, method="GET"), 200, 0)
    assert exporter.get_finished_spans() == ()


def test_short_waits_are_left_out(spans: Spans, exporter: InMemorySpanExporter) -> None:
    request = predicted()
    request.context.began = request.context.arrived + 0.00005
    request.context.run_began = request.context.decoded_at + 0.00005
    spans.answered(request, 200, 0)
    assert [span.name for span in exporter.get_finished_spans()][:-1] == ["decode", "inference", "encode"]


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_SERVICE_NAME", "mine"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine")]
)
def test_the_service_may_be_given_another_name(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    Spans(SimpleSpanProcessor(exporter)).answered(predicted(), 200, 0)
    assert exporter.get_finished_spans()[-1].resource.attributes["service.name"] == "mine"


def test_the_end_sends_what_is_left_and_waits_for_no_collector_for_ever(spans: Spans) -> None:
    let_go = threading.Event()

    class Stuck(SpanExporter):
        def export(self, _spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            let_go.wait(60)

    Spans(SimpleSpanProcessor(Stuck())).close(0.01)
    assert not let_go.is_set()
    let_go.set()
