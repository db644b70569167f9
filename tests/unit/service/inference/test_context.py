import re
from itertools import count

import pytest

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
    context.protocol, context.verb = "v1", "predict"
    return context


def stages(context: RequestContext) -> tuple[float, float, float, float]:
    return context.queue_seconds, context.decode_seconds, context.run_seconds, context.encode_seconds


def test_other_time_than_decoding_running_and_encoding_is_queued(context: RequestContext, metrics: Metrics) -> None:
    context.begin()  # only the first counts
    context.ran(began=context.decoded_at + 0.25, seconds=0.5, batch_size=3)
    context.inferred()  # 3
    context.end(metrics, 200)  # 4
    assert stages(context) == (1 + 0.5, 1, 0.5, 1)
    assert sum(stages(context)) == context.ended - context.arrived == 4
    labels = {"model": "", "version": "", "protocol": "v1", "verb": "predict"}
    assert metrics.registry.get_sample_value("serving_request_duration_seconds_sum", labels) == 4


def test_failed_run_is_not_queued(context: RequestContext, metrics: Metrics) -> None:
    context.ran(began=context.decoded_at, seconds=0.75, batch_size=1)
    context.end(metrics, 200)
    assert stages(context) == (1 + 0.25, 1, 0.75, 0)


@pytest.mark.parametrize(
    ("before", "began", "run", "queued"),
    [(None, 0.25, (0.25, 0.75, 3), 2.25), (0.5, 0.25, (0.5, 1.25, 3), 1.75), (0.5, None, (0.5, 0.5, 2), 1.5)],
    ids=["runs", "runs on", "has run"],
)
def test_run_up_to_the_deadline_is_not_queued(
    context: RequestContext,
    metrics: Metrics,
    before: float | None,
    began: float | None,
    run: tuple[float, float, int],
    queued: float,
) -> None:
    context.deadline = Deadline.unlimited()
    if before:
        context.ran(began=context.decoded_at + before, seconds=0.5, batch_size=2)
    if began:
        context.deadline.begin_run(context.decoded_at + began, batch_size=3)
    context.record_expired(metrics)  # 3
    assert (context.run_began - context.decoded_at, context.run_seconds, context.batch_size) == run
    assert stages(context) == (queued, 1, run[1], 0)


def test_request_that_was_not_decoded_has_no_stages_and_its_413_is_a_rejection(metrics: Metrics) -> None:
    context = RequestContext()
    context.end(metrics, 413)
    assert stages(context) == (0, 0, 0, 0)
    assert metrics.registry.get_sample_value("serving_rejected_total", {"reason": "too_large"}) == 1


def test_late_response_is_not_counted(context: RequestContext, metrics: Metrics) -> None:
    context.deadline = Deadline.unlimited()
    assert context.deadline.claim()
    context.end(metrics, 200)
    assert context.ended == 0


@pytest.mark.parametrize("header", [b"a", b"x" * 128, bytes(range(0x21, 0x7F))])
def test_request_id_of_the_client(header: bytes) -> None:
    assert request_id(header) == header.decode()


@pytest.mark.parametrize("header", [None, b"", b"x" * 129, b"two words", b"a\tb", b"line\n", b"f\xc3\xbcr", b"\x7f"])
def test_new_request_id(header: bytes | None) -> None:
    assert re.fullmatch("[0-9a-f]{16,24}", request_id(header))
    assert request_id(header) != request_id(header)


# Trace context

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"


def header(version: bytes = b"00", trace: bytes = TRACE, span: bytes = SPAN, flags: bytes = b"01") -> bytes:
    return b"-".join((version, trace, span, flags))


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        *((header(flags=b"00"), 0), (header(flags=b"ff"), 0xFF)),
        # Of later versions.
        *((header(b"01"), 1), (header(b"cc") + b"-what comes later", 1), (header(b"fe") + b"-", 1)),
    ],
)
def test_trace_context(text: bytes, flags: int) -> None:
    assert trace_context(text) == TraceContext(TRACE.decode(), SPAN.decode(), flags)


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
