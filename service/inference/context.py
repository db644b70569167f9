"""A request on its way through the service: its context, and the prediction that it is decoded to."""

import re
from collections.abc import Callable, Mapping
from random import getrandbits
from time import perf_counter
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from service.http import Response
from service.inference.deadline import Deadline, DeadlineExceeded, Stage
from service.inference.scores import Inferred
from service.inference.version import LoadedVersion
from service.metrics.definitions import Metrics
from service.tensors.dtypes import Array

REQUEST_ID_HEADER = b"x-request-id"
TRACE_CONTEXT_HEADER = b"traceparent"
MAX_REQUEST_ID_BYTES = 128

# Requests of these protocols are counted; health, metrics and the page would drown what clients do.
COUNTED = ("v1", "v2", "grpc_v1", "grpc_v2", "sagemaker", "vertex_ai")

_REQUEST_ID = re.compile(rb"[!-~]{1,%d}" % MAX_REQUEST_ID_BYTES)
_TRACE_CONTEXT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?", re.ASCII
)
_NO_HEADERS: Mapping[bytes, bytes] = MappingProxyType({})


class TraceContext(NamedTuple):
    """W3C Trace Context: the trace that a request belongs to. (https://www.w3.org/TR/trace-context/)

    `span_id`: the caller's span. Both ids in lower-case hexadecimal digits. The first bit of the flags says that the
    caller's span is recorded.
    """

    trace_id: str
    span_id: str
    flags: int


class RequestContext:
    """Ids, deadline and timings of one request, for metrics, log and spans.

    `model` and `version` stay empty until a version is found, so that clients cannot create metrics. Times are
    perf_counter's, and 0 for what did not happen. From its arrival to its response a request is decoded, run, encoded;
    all other time counts as queued. These durations are known at the end. `batch_size`: rows of the run that it was
    part of.
    """

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
        # Set for requests that threads handle, and for those that name one.
        self.deadline: Deadline | None = None

    def arrive(self, body_bytes: int) -> None:
        """Its last byte is there."""
        self.arrived, self.body_bytes = perf_counter(), body_bytes

    def begin(self) -> None:
        """Work on it begins; until now it was queued."""
        if not self.began:
            self.began = perf_counter()

    def found(self, loaded: LoadedVersion) -> None:
        self.model, self.version = loaded.model, loaded.version_text

    def decoded(self) -> None:
        """Its tensors are decoded."""
        self.decoded_at = perf_counter()

    def ran(self, began: float, seconds: float, batch_size: int) -> None:
        self.run_began, self.run_seconds, self.batch_size = began, seconds, batch_size

    def inferred(self) -> None:
        """Its outputs are there; what is left is to encode them."""
        self.inferred_at = perf_counter()

    def check_deadline(self) -> None:
        """Raise DeadlineExceeded once nobody waits for it; for use between runs of one request."""
        if self.deadline is not None:
            self.deadline.check()
            self.deadline.stage = Stage.RUN

    def end(self, metrics: Metrics, status: int) -> None:
        """Count its response."""
        # A response that comes too late is not sent: the 504 that was is counted.
        if self.deadline is None or self.deadline.claim():
            self._count(metrics, status)

    def record_expired(self, metrics: Metrics) -> None:
        """Count its 504; for the one that has claimed the deadline."""
        metrics.rejected.labels("deadline").inc()
        if self.deadline is not None and (began := self.deadline.run_began):
            # The run goes on: this is its time so far, with that of the batches before it.
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


class Prediction(msgspec.Struct, frozen=True):
    """A decoded request. `encode` makes its response; it raises ServingError where the outputs do not fit."""

    loaded: LoadedVersion
    signature_name: str
    inputs: Mapping[str, Array]
    encode: Callable[[Inferred], Response]
    context: RequestContext


def request_id(header: bytes | None) -> str:
    """The client's id, or a new one where it has none, or one that is too long or not visible ASCII."""
    if header and _REQUEST_ID.fullmatch(header):
        return header.decode()
    # 0.2 µs. uuid4 takes ten times as long, and nobody gains by guessing it.
    return hex(getrandbits(96))[2:]


def trace_context(header: bytes | None) -> TraceContext | None:
    """None where there is no valid one: the request then begins a trace of its own."""
    if not header or not (match := _TRACE_CONTEXT.fullmatch(header)):
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Later versions may have more behind the flags, which is ignored; this one has nothing there.
    if version == b"00" and more is not None:
        return None
    return TraceContext(trace_id.decode(), span_id.decode(), int(flags, 16))
