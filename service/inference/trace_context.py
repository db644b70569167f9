"""W3C Trace Context: which trace a request belongs to. (https://www.w3.org/TR/trace-context/)"""

import re
from typing import NamedTuple

HEADER = b"traceparent"

_FORM = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?", re.ASCII
)


class TraceContext(NamedTuple):
    """`span_id`: the caller's span, in whose name the request was sent. Both ids in lower-case hexadecimal digits. Of
    the flags the first bit says that the caller's span is recorded."""

    trace_id: str
    span_id: str
    flags: int


def trace_context(header: bytes | None) -> TraceContext | None:
    """None where there is no valid one: then the request begins a trace of its own."""
    if not header or not (match := _FORM.fullmatch(header)):
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # What a later version has behind the flags is passed over; this one has nothing there.
    if version == b"00" and more is not None:
        return None
    return TraceContext(trace_id.decode(), span_id.decode(), int(flags, 16))
