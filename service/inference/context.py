"""A call: what one request asks for and how long its stages took, noted on the way for metrics and the log.

From its arrival to its answer a request is decoded, waits (for a thread, for a busy model, for the others of its turn),
is run, and encoded; what is none of the others is waiting.
"""

import re
from collections.abc import Callable, Mapping
from random import getrandbits
from time import perf_counter
from types import MappingProxyType
from typing import NamedTuple, cast

import msgspec
from flask import Flask, g, request
from flask import Response as FlaskResponse

from service.http import Response
from service.inference.deadline import Deadline, DeadlineExceeded, Stage
from service.inference.scores import Inferred
from service.inference.version import LoadedVersion
from service.metrics.definitions import Metrics
from service.tensors.dtypes import Array

# What a request is called, in its answer and in the log.

REQUEST_ID_HEADER = b"x-request-id"
MAX_REQUEST_ID_BYTES = 128

_REQUEST_ID = re.compile(rb"[!-~]{1,%d}" % MAX_REQUEST_ID_BYTES)


def request_id(header: bytes | None) -> str:
    """The client's, or a new one where it gave none, or one that is too long or not of visible ASCII characters."""
    if header and _REQUEST_ID.fullmatch(header):
        return header.decode()
    # 0.2 µs. uuid4 takes ten times as long, and nobody gains by guessing it.
    return hex(getrandbits(96))[2:]


# W3C Trace Context: which trace a request belongs to. (https://www.w3.org/TR/trace-context/)

TRACE_CONTEXT_HEADER = b"traceparent"

_TRACE_CONTEXT = re.compile(
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
    if not header or not (match := _TRACE_CONTEXT.fullmatch(header)):
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # What a later version has behind the flags is passed over; this one has nothing there.
    if version == b"00" and more is not None:
        return None
    return TraceContext(trace_id.decode(), span_id.decode(), int(flags, 16))


# Where a WSGI environment keeps it.
ENVIRON_KEY = "service.call"

# The operator's own routes (health, metrics) would drown what clients do.
COUNTED = ("v1", "v2")

_NO_HEADERS: Mapping[bytes, bytes] = MappingProxyType({})


class RequestContext:
    """`model` and `version` stay empty until a version is found, so that no client can make up new metrics. Times are
    perf_counter's, and 0 for what did not happen; how long decoding, waiting and encoding took is known at the end.
    `batch_size`: rows that were run together, with these."""

    __slots__ = (
        "answered",
        "arrived",
        "batch_size",
        "began",
        "body_bytes",
        "deadline",
        "decode_seconds",
        "decoded_at",
        "encode_seconds",
        "ended",
        "inferred_at",
        "model",
        "protocol",
        "queue_seconds",
        "request_id",
        "run_began",
        "run_seconds",
        "trace",
        "verb",
        "version",
    )

    def __init__(self, headers: Mapping[bytes, bytes] = _NO_HEADERS, body_bytes: int = 0) -> None:
        self.arrived = perf_counter()
        self.request_id = request_id(headers.get(REQUEST_ID_HEADER))
        self.trace = trace_context(headers.get(TRACE_CONTEXT_HEADER))
        self.body_bytes = body_bytes
        self.protocol = self.verb = self.model = self.version = ""
        self.began = self.decoded_at = self.run_began = self.run_seconds = self.inferred_at = self.ended = 0.0
        self.answered = 0.0
        self.decode_seconds = self.queue_seconds = self.encode_seconds = 0.0
        self.batch_size = 0
        # Of requests that threads answer, and of those that ask for one.
        self.deadline: Deadline | None = None

    def begin(self) -> None:
        """Somebody works at it; up to now it waited."""
        if not self.began:
            self.began = perf_counter()

    def found(self, loaded: LoadedVersion) -> None:
        self.model, self.version = loaded.model, loaded.version_text

    def decoded(self) -> None:
        """The request's tensors are there."""
        self.decoded_at = perf_counter()

    def ran(self, began: float, seconds: float, batch_size: int) -> None:
        self.run_began, self.run_seconds, self.batch_size = began, seconds, batch_size

    def inferred(self) -> None:
        """The model's outputs are there, and it is this request's turn: what is left is to write the answer."""
        self.inferred_at = perf_counter()

    def check_deadline(self) -> None:
        """Between runs that are made for it alone. Raises DeadlineExceeded once nobody waits for it any more."""
        if self.deadline is not None:
            self.deadline.check()
            self.deadline.stage = Stage.RUN

    def end(self, metrics: Metrics, status: int) -> None:
        # Else its answer comes too late, and whoever answered instead has counted it.
        if self.deadline is None or self.deadline.claim():
            self._count(metrics, status)

    def record_expired(self, metrics: Metrics) -> None:
        """It was answered so; for who has claimed the deadline."""
        metrics.rejected.labels("deadline").inc()
        if self.deadline is not None and (began := self.deadline.run_began):
            # The run goes on: this is its time so far, with that of the parts before it.
            self.ran(self.run_began or began, self.run_seconds + perf_counter() - began, self.deadline.batch_size)
        if self.protocol in COUNTED:
            self._count(metrics, DeadlineExceeded.status)

    def _count(self, metrics: Metrics, status: int) -> None:
        self.ended = perf_counter()
        if self.began:
            self.queue_seconds = self.began - self.arrived
        if self.decoded_at:
            self.decode_seconds = self.decoded_at - self.began
            # Between decoding and encoding, whatever was not its own run.
            self.queue_seconds += (self.inferred_at or self.ended) - self.decoded_at - self.run_seconds
        if self.inferred_at:
            self.encode_seconds = self.ended - self.inferred_at
        metrics.of_request(self.model, self.version, self.protocol, self.verb, status).record(
            self.ended - self.arrived, self.decode_seconds, self.encode_seconds
        )
        if status == 413:
            metrics.rejected.labels("too_large").inc()


def current_context() -> RequestContext:
    return cast(RequestContext, g.context)


def register(app: Flask, metrics: Metrics) -> None:
    """Counts what comes by Flask."""

    @app.before_request
    def begin() -> None:
        context = g.context = request.environ.get(ENVIRON_KEY) or RequestContext()
        context.begin()
        context.protocol = request.blueprint or ""
        context.verb = (request.view_args or {}).get("verb") or (request.endpoint or "").partition(".")[2]

    @app.after_request
    def end(response: FlaskResponse) -> FlaskResponse:
        if request.blueprint in COUNTED:
            current_context().end(metrics, response.status_code)
        return response


# A prediction between its request and its answer: what a protocol has decoded, and how it will encode.


class Prediction(msgspec.Struct, frozen=True):
    """`encode` writes the answer from what came of it; it raises ServingError where the outputs do not fit."""

    loaded: LoadedVersion
    signature_name: str
    inputs: Mapping[str, Array]
    encode: Callable[[Inferred], Response]
    context: RequestContext
