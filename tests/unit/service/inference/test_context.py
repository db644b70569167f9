import re
from itertools import count

import pytest
from prometheus_client import CollectorRegistry

from service.inference.context import RequestContext, TraceContext, request_id, trace_context
from service.inference.deadline import Deadline
from service.metrics.definitions import Metrics

# Timings. The clock is a second later each time it is read.


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> RequestContext:
    """Decoded."""
    seconds = count(1000.0)
    monkeypatch.setattr("service.inference.context.perf_counter", lambda: next(seconds))
    context = RequestContext()  # 0
    context.begin()  # 1: it waited for a thread
    context.decoded()  # 2
    return context


def stages(context: RequestContext) -> tuple[float, float, float, float]:
    return context.queue_seconds, context.decode_seconds, context.run_seconds, context.encode_seconds


def end(context: RequestContext, page: CollectorRegistry) -> RequestContext:
    context.end(Metrics(page), 200)
    return context


def expire(context: RequestContext, page: CollectorRegistry, run_began: float) -> None:
    context.deadline = Deadline.unlimited()
    if run_began:
        context.deadline.begin_run(run_began, batch_size=3)
    context.record_expired(Metrics(page))


def test_other_time_than_decoding_running_and_encoding_is_queued(
    context: RequestContext, page: CollectorRegistry
) -> None:
    context.begin()  # only the first counts
    context.ran(began=context.decoded_at + 0.25, seconds=0.5, batch_size=3)
    context.inferred()  # 3
    context.protocol, context.verb = "v1", "predict"
    end(context, page)  # 4
    assert stages(context) == (1 + 0.5, 1, 0.5, 1)
    assert sum(stages(context)) == context.ended - context.arrived == 4
    labels = {"model": "", "version": "", "protocol": "v1", "verb": "predict"}
    assert page.get_sample_value("serving_request_duration_seconds_sum", labels) == 4


def test_failed_run_is_not_queued(context: RequestContext, page: CollectorRegistry) -> None:
    context.ran(began=context.decoded_at, seconds=0.75, batch_size=1)
    assert stages(end(context, page)) == (1 + 0.25, 1, 0.75, 0)


def test_run_that_goes_on_at_the_deadline_is_not_queued(context: RequestContext, page: CollectorRegistry) -> None:
    context.protocol = "v1"
    expire(context, page, run_began=context.decoded_at + 0.25)  # 3
    assert stages(context) == (1 + 0.25 + 1, 1, 0.75, 0)
    assert (context.run_began, context.batch_size) == (context.decoded_at + 0.25, 3)


def test_runs_before_the_one_at_the_deadline_are_added(context: RequestContext, page: CollectorRegistry) -> None:
    context.ran(began=context.decoded_at, seconds=0.25, batch_size=3)
    expire(context, page, run_began=context.decoded_at + 0.5)  # 3
    assert (context.run_began, context.run_seconds) == (context.decoded_at, 0.25 + 0.5)


def test_run_that_ended_before_the_deadline_keeps_its_time(context: RequestContext, page: CollectorRegistry) -> None:
    context.ran(began=context.decoded_at + 0.25, seconds=0.5, batch_size=2)
    context.protocol = "v1"
    expire(context, page, run_began=0.0)
    assert stages(context) == (1 + 0.5, 1, 0.5, 0)
    assert context.batch_size == 2


def test_request_that_was_not_decoded_has_no_stages(page: CollectorRegistry) -> None:
    assert stages(end(RequestContext(), page)) == (0, 0, 0, 0)


def test_late_response_is_not_counted(context: RequestContext, page: CollectorRegistry) -> None:
    context.deadline = Deadline.unlimited()
    assert context.deadline.claim()
    end(context, page)
    assert context.ended == 0


def test_413_counts_as_a_rejection(context: RequestContext, page: CollectorRegistry) -> None:
    context.end(Metrics(page), 413)
    assert page.get_sample_value("serving_rejected_total", {"reason": "too_large"}) == 1


# Request ids


@pytest.mark.parametrize("header", [b"a", b"8a7f-11", b"x" * 128, b"a,b", bytes(range(0x21, 0x7F))])
def test_request_id_of_the_client(header: bytes) -> None:
    assert request_id(header) == header.decode()


@pytest.mark.parametrize(
    "header",
    [None, b"", b"x" * 129, b"two words", b"a\tb", b"line\nline", b"line\n", b"f\xc3\xbcr", b"\x7f", b"\x1b[2J"],
)
def test_new_request_id(header: bytes | None) -> None:
    assert re.fullmatch("[0-9a-f]{16,24}", request_id(header))
    assert request_id(header) != request_id(header)


# Trace context

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"


def header(version: bytes = b"00", trace: bytes = TRACE, span: bytes = SPAN, flags: bytes = b"01") -> bytes:
    return b"-".join((version, trace, span, flags))


@pytest.mark.parametrize("flags", [0, 1, 2, 0xFF])
def test_trace_context(flags: int) -> None:
    assert trace_context(header(flags=b"%02x" % flags)) == TraceContext(TRACE.decode(), SPAN.decode(), flags)


@pytest.mark.parametrize("later", [header(b"01"), header(b"cc") + b"-what comes later", header(b"fe") + b"-"])
def test_trace_context_of_a_later_version(later: bytes) -> None:
    assert trace_context(later) == TraceContext(TRACE.decode(), SPAN.decode(), 1)


@pytest.mark.parametrize(
    "invalid",
    [
        *(None, b"", header(b"ff"), header(b"0"), header(b"0g")),
        *(header(trace=trace) for trace in (b"0" * 32, TRACE.upper(), TRACE[:-1], TRACE + b"0")),
        *(header(span=span) for span in (b"0" * 16, SPAN.upper(), SPAN[1:])),
        *(header(flags=b"1"), header(flags=b"0G")),
        *(header() + more for more in (b"-", b"-more", b",00", b"," + header(), b"\n")),
        *(header(b"01") + more for more in (b"more", b"-\xff")),
        *(b" " + header(), header().replace(b"-", b"_")),
    ],
)
def test_invalid_trace_context(invalid: bytes | None) -> None:
    assert trace_context(invalid) is None
