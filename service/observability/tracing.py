"""OpenTelemetry spans of requests and their stages, sent to a collector by OTLP over HTTP.

A request's spans are made after its response, from the times in its context: until then they cost nothing.
OpenTelemetry's own variables say where spans are sent, how many and in what batches (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER, OTEL_BSP_SCHEDULE_DELAY ...). Imported only if the setting is on: the packages are optional.
"""

import threading
import time
from collections.abc import Iterator

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from service.http import Request
from service.inference.context import RequestContext, TraceContext

# Shorter waits are the service's own work between the stages.
MIN_QUEUE_SECONDS = 0.0001

_STATE_HEADER = b"tracestate"


def otlp_spans() -> "Spans":
    return Spans(BatchSpanProcessor(OTLPSpanExporter()))


class Spans:
    def __init__(self, processor: SpanProcessor) -> None:
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "fitting-room"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("fitting-room")

    def answered(self, request: Request, status: int, body_bytes: int) -> None:
        """Make the spans of a request. Its context gets the new trace, if it had none."""
        if request.is_operations:
            return
        context = request.context
        # The context's times are of another clock than the spans'.
        epoch = time.time_ns() - int(time.perf_counter() * 1e9)
        route = request.match.route.path if request.match else ""
        span = self._tracer.start_span(
            f"{request.method or 'HTTP'} {route}".rstrip(),
            _parent(request),
            SpanKind.SERVER,
            _attributes(request, route, status, body_bytes),
            start_time=epoch + int(context.arrived * 1e9),
        )
        if span.is_recording():
            within = set_span_in_context(span, Context())
            for name, began, stage_ended in _stages(context):
                start = epoch + int(began * 1e9)
                self._tracer.start_span(name, within, start_time=start).end(epoch + int(stage_ended * 1e9))
            if status >= 500:
                span.set_status(StatusCode.ERROR)
            span.end(epoch + int(context.answered * 1e9))
        if context.trace is None and (sampled := span.get_span_context()).is_valid:
            context.trace = TraceContext(f"{sampled.trace_id:032x}", "", sampled.trace_flags)

    def close(self, seconds: float) -> None:
        """Send the last spans. Wait for the collector no longer than this."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(seconds)


def _parent(request: Request) -> Context:
    trace = request.context.trace
    if trace is None:
        return Context()
    # ASCII only: OpenTelemetry repeats an invalid header in the log.
    state = TraceState.from_header([request.headers.get(_STATE_HEADER, b"").decode("ascii", "ignore")])
    remote = SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), True, TraceFlags(trace.flags), state)
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _attributes(request: Request, route: str, status: int, body_bytes: int) -> dict[str, AttributeValue]:
    """OpenTelemetry's semantic conventions for HTTP servers; names of our own begin with `serving`."""
    context = request.context
    attributes: dict[str, AttributeValue] = {
        "http.request.method": request.method or "_OTHER",
        "url.path": request.path,
        "url.scheme": "http",
        "network.protocol.version": request.http_version,
        "http.response.status_code": status,
        "http.request.body.size": context.body_bytes,
        "http.response.body.size": body_bytes,
        "serving.request_id": context.request_id,
    }
    if route:
        attributes["http.route"] = route
    if agent := request.headers.get(b"user-agent"):
        attributes["user_agent.original"] = agent.decode("latin-1")
    if status >= 500:
        attributes["error.type"] = str(status)
    if context.model:
        attributes["serving.model"] = context.model
        attributes["serving.version"] = context.version
    if context.batch_size:
        attributes["serving.batch_size"] = context.batch_size
    return attributes


def _stages(context: RequestContext) -> Iterator[tuple[str, float, float]]:
    """Each stage with its begin and end. A request may wait twice: for a thread, and for a busy model."""
    for name, began, ended in (
        ("queue", context.arrived, context.began),
        ("decode", context.began, context.decoded_at),
        ("queue", context.decoded_at, context.run_began),
        ("inference", context.run_began, context.run_began + context.run_seconds),
        ("encode", context.inferred_at, context.ended),
    ):
        if began and ended - began > (MIN_QUEUE_SECONDS if name == "queue" else 0.0):
            yield name, began, ended
