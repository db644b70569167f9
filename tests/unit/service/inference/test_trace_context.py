import pytest

from service.inference.context import TraceContext, trace_context

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"


def header(version: bytes = b"00", trace: bytes = TRACE, span: bytes = SPAN, flags: bytes = b"01") -> bytes:
    return b"-".join((version, trace, span, flags))


def test_the_trace_and_the_callers_span_are_read() -> None:
    assert trace_context(header()) == TraceContext(TRACE.decode(), SPAN.decode(), 1)


@pytest.mark.parametrize("flags", [0, 1, 2, 0xFF])
def test_flags_are_kept_also_those_that_nobody_knows_yet(flags: int) -> None:
    context = trace_context(header(flags=b"%02x" % flags))
    assert context is not None
    assert context.flags == flags


@pytest.mark.parametrize("later", [header(b"01"), header(b"cc") + b"-what comes later", header(b"fe") + b"-"])
def test_a_later_version_is_read_as_far_as_it_is_known(later: bytes) -> None:
    context = trace_context(later)
    assert context is not None
    assert context.trace_id == TRACE.decode()


@pytest.mark.parametrize(
    "invalid",
    [
        None,
        b"",
        header(b"ff"),
        header(b"0"),
        header(b"0g"),
        header(trace=b"0" * 32),
        header(trace=TRACE.upper()),
        header(trace=TRACE[:-1]),
        header(trace=TRACE + b"0"),
        header(span=b"0" * 16),
        header(span=SPAN.upper()),
        header(span=SPAN[1:]),
        header(flags=b"1"),
        header(flags=b"0G"),
        header() + b"-",
        header() + b"-more",
        header(b"01") + b"more",
        header(b"01") + b"-\xff",
        header() + b",00",
        header() + b"," + header(),
        b" " + header(),
        header() + b"\n",
        header().replace(b"-", b"_"),
    ],
)
def test_what_is_not_to_the_letter_is_none(invalid: bytes | None) -> None:
    assert trace_context(invalid) is None
