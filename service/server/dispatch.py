"""Dispatch: from a request to its response, on the event loop or in a thread.

A prediction is decoded, inferred and encoded by the same functions on either. The event loop takes those that are
quick, gathers them per tick, and runs them at its end; the executor takes the rest, and everything that is Flask's.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from flask import Flask

from service.api.operations import health
from service.api.routes import TABLE, Access, Match, Method, Table, parse_version
from service.api.v2.decode import HEAD_LENGTH_HEADER
from service.errors import InvalidRequest, ServingError, response_to_error
from service.http import GRPC, Request, Response, error_response
from service.inference.batching import row_count
from service.inference.context import COUNTED, Prediction, RequestContext
from service.inference.deadline import DEADLINE_HEADER, GRPC_TIMEOUT, Deadline, DeadlineExceeded, Deadlines, Stage
from service.inference.infer import Inference
from service.inference.scores import Inferred
from service.lifecycle.registry import Find, Registry, WouldWait
from service.metrics.definitions import Metrics
from service.server.admission import Rejections
from service.server.executor import Executor
from service.server.grpc import MAX_OPEN_BYTES
from service.server.response import decode_body, encode_body
from service.server.wsgi import run_wsgi
from service.settings import Settings
from service.tensors.dtypes import size_of
from service.tensors.image_file import UNCOUNTED_PIXELS, may_take_long, picture_pixels

# What the event loop itself may do while all other connections wait: about a millisecond each, for one request.
QUICK_JSON_BYTES = 160 * 1024
QUICK_BINARY_BYTES = 1024 * 1024
QUICK_STRING_BYTES = 16 * 1024
QUICK_PICTURE_BYTES = 16 * 1024
QUICK_PIXELS = UNCOUNTED_PIXELS  # decoding more may have to wait for memory
QUICK_RUN_SECONDS = 0.001
# Of outputs: as JSON, and as JSON that is packed.
QUICK_OUTPUT_BYTES = 64 * 1024
QUICK_PACKED_BYTES = 8 * 1024

# The first request of a tick must not wait for however many came with it.
MAX_TICK_REQUESTS = 32
# A tick of fewer requests that takes long means that the machine stood still, not that there are too many.
MIN_LONG_TICK_REQUESTS = 4 * MAX_TICK_REQUESTS

# Looked up once: a member of an Enum takes as long as a call.
_HEALTH, _METRICS, _ADMIN = Access.HEALTH, Access.METRICS, Access.ADMIN

# Decodes a request for a model; `find` gives the version. Raises ServingError.
Decode = Callable[[Find, Match, Request], Prediction]
# The model that a message of gRPC names, or a request of SageMaker. Raises ServingError.
Address = Callable[[Match, Request], Match]


class Dispatcher:
    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        inference: Inference,
        metrics: Metrics,
        flask: Flask,
        decoders: Mapping[str, Decode],
        addresses: Mapping[str, Address],
        methods: Mapping[str, Method],
        table: Table = TABLE,
    ) -> None:
        """`decoders`: by protocol. `flask`: has the views. `addresses`: by protocol, for routes that are addressed.
        `methods`: by endpoint, what is neither a prediction nor a view."""
        self._settings = settings
        self._registry = registry
        self._inference = inference
        self._metrics = metrics
        self._flask = flask
        self._decoders = decoders
        self._addresses = addresses
        self._methods = methods
        self._table = table
        self._deadlines = Deadlines(settings.request_timeout_ms)
        self._unlimited = Deadlines(0)
        self._rejections = Rejections(metrics)
        self._executor = Executor(settings, metrics, self._deadlines, self._rejections, self._is_starting)
        self._tick = _Tick(self._run_tick, settings.max_queue_ms / 1000)

    def dispatch(self, request: Request) -> "Response | asyncio.Future[Response]":
        """The response, or a future of it, which is cancelled when the client leaves. Raises nothing; for the loop."""
        match, context = request.match, request.context
        if match is None:
            return self._table.no_route(request)
        route = match.route
        if route.access is _HEALTH:
            # Whether the process lives must not depend on a free thread.
            if route.method == GRPC:
                return self._finish(request, partial(self._handle, match, request))
            return health(self._registry, route.verb)
        if DEADLINE_HEADER in request.headers or GRPC_TIMEOUT in request.headers:
            try:
                deadlines = self._unlimited if route.access is _ADMIN else self._deadlines
                context.deadline = deadlines.from_headers(request.headers, context.arrived)
            except InvalidRequest as error:
                self.count_rejected("malformed")
                return error_response(error.status, str(error))
        elif route.access is _METRICS or route.access is _ADMIN:
            # To load a model may take longer than any request, and has a limit of its own; and a limit that is too
            # short must not make the service look dead.
            context.deadline = Deadline.unlimited()
        if not route.waits_for_models:
            return self._executor.respond_apart(context, self.respond, request)
        if route.is_addressed and b"content-encoding" not in request.headers:
            try:
                match = request.match = self._addressed(match, request)
            except ServingError as error:
                _begin(context, match)
                return self._ended(context, _error(request, error))
        if self._is_quick(match, request):
            return self._on_loop(match, request)
        return self._in_thread(match, request)

    def respond(self, request: Request) -> Response:
        """The response, made in this thread. Raises nothing."""
        match = request.match
        if match is None:
            return self._table.no_route(request)
        _begin(request.context, match)
        return self._finish(request, partial(self._handle, match, request))

    def reject(self, rejection: Response, request: Request) -> "Response | asyncio.Future[Response]":
        """The rejection, now or once there is time for it."""
        return self._rejections.respond(request.context, rejection)

    def count_rejected(self, reason: str) -> None:
        self._metrics.rejected.labels(reason).inc()

    def close(self) -> None:
        self._executor.close()

    def _addressed(self, match: Match, request: Request) -> Match:
        """With the model that the message names: most of HTTP has it in the path."""
        return self._addresses[match.route.protocol](match, request) if match.route.is_addressed else match

    def _is_starting(self) -> bool:
        return not self._registry.first_scan_done.is_set()

    def _is_quick(self, match: Match, request: Request) -> bool:
        """Whether decoding takes no longer than the event loop may be held up, and the model's rows neither."""
        route, registry, body = match.route, self._registry, request.body
        if route.protocol not in COUNTED or not route.is_prediction or not registry.first_scan_done.is_set():
            return False
        # A short body may unpack to a long one.
        if b"content-encoding" in request.headers:
            return False
        size, mimetype = len(body), request.mimetype
        if mimetype.startswith("image/"):
            # By its bytes where they say enough: to look into a picture takes a while, too.
            if size > QUICK_PICTURE_BYTES or may_take_long(body) or picture_pixels(body) > QUICK_PIXELS:
                return False
        elif mimetype == "multipart/form-data":
            return False
        else:
            max_bytes = QUICK_BINARY_BYTES if _is_binary(request) else QUICK_JSON_BYTES
            if size > (QUICK_STRING_BYTES if registry.takes_strings(match.model) else max_bytes):
                return False
            # A picture within JSON, whose key may be written with escapes: how long it takes cannot be told from here.
            if route.speaks_v1 and registry.takes_pictures(match.model) and _may_hold_base64(body):
                return False
        return registry.is_quick(match.model, match.parameters.get("version"))

    # In threads, but for health

    def _handle(self, match: Match, request: Request) -> Response:
        """The response of the protocol, or of Flask's view. Raises what goes wrong."""
        if coding := request.headers.pop(b"content-encoding", b""):
            max_bytes = MAX_OPEN_BYTES if match.route.access is _HEALTH else self._settings.max_body_bytes
            request.body = decode_body(request.body, coding, max_bytes)
            match = request.match = self._addressed(match, request)
        if match.route.endpoint in self._methods:
            return self._methods[match.route.endpoint](match, request)
        if not match.route.is_prediction:
            return run_wsgi(self._flask, request, (self._settings.host, self._settings.port))
        prediction = self._decoders[match.route.protocol](self._registry.get, match, request)
        # The page's predictions are no traffic.
        is_traffic = match.route.protocol in COUNTED
        return (self._inference.predict if is_traffic else self._inference.try_out)(prediction)

    def _finish(self, request: Request, make: Callable[[], Response]) -> Response:
        """What `make` returns, or the response to what it raises; counted and packed."""
        try:
            response = make()
        except Exception as error:
            response = _error(request, error)
        return encode_body(self._ended(request.context, response), request.accept_encoding)

    def _in_thread(self, match: Match, request: Request) -> "Response | asyncio.Future[Response]":
        return self._reject_unhealthy(match, request) or self._submit(match, request, self.respond, request)

    def _submit(
        self, match: Match, request: Request, function: Callable[..., Response], *arguments: object
    ) -> "Response | asyncio.Future[Response]":
        # Names of models that are not known must not be kept: clients could make up any number.
        model = match.model if match.model in self._registry.statuses() else ""
        return self._executor.respond(request.context, model, function, *arguments)

    def _reject_unhealthy(self, match: Match, request: Request) -> Response | None:
        """503 at once, without a thread, where every version that could run the prediction hangs; else None."""
        if not match.route.is_prediction:
            return None
        version, label = match.parameters.get("version"), match.parameters.get("label")
        try:
            loaded = self._registry.unhealthy(match.model, parse_version(version), label)
        except InvalidRequest:
            return None
        if loaded is None:
            return None
        _begin(request.context, match)
        request.context.found(loaded)
        return self._ended(request.context, _error(request, loaded.health.error()))

    # On the event loop

    def _on_loop(self, match: Match, request: Request) -> "Response | asyncio.Future[Response]":
        """The response once the tick has run.

        Nothing waits for more to come, and yet under load much comes at once: models that gain by batches get them, and
        to decode all, run all and encode all takes half the time of one request after the other.
        """
        context = request.context
        if not self._tick.enter(context.arrived):
            limit = f"{self._settings.max_queue_ms} ms (SERVING_MAX_QUEUE_MS)"
            return self._rejections.queue_full(context, f"the requests before it take longer than {limit}")
        _begin(context, match)
        try:
            prediction = self._decoders[match.route.protocol](self._registry.get_at_once, match, request)
        except WouldWait:
            # It was unloaded since it was quick.
            return self._submit(match, request, self.respond, request)
        except Exception as error:
            return self._ended(context, _error(request, error))
        if (row_count(prediction.inputs) or 1) * prediction.loaded.pace.row_seconds > QUICK_RUN_SECONDS:
            # Its rows turned out to be many.
            return self._submit(match, request, self._finish, request, partial(self._inference.predict, prediction))
        pending = _Pending(request, match, prediction, asyncio.get_running_loop().create_future())
        self._tick.add(pending)
        return pending.response

    def _run_tick(self, tick: "Sequence[_Pending]") -> None:
        tick = self._settle_expired(tick)
        outcomes: Sequence[Inferred | Exception]
        try:
            outcomes = self._inference.infer([pending.prediction for pending in tick], self._inference.on_loop)
        # A bug. Every client gets a response all the same.
        except Exception as error:
            outcomes = [error] * len(tick)
        for pending, outcome in zip(tick, outcomes, strict=True):
            pending.prediction.context.inferred()
            if not isinstance(outcome, Exception) and size_of(outcome.outputs) > pending.max_quick_output_bytes:
                self._encode_in_thread(pending, outcome)
            else:
                pending.response.set_result(self._encoded(pending, outcome))

    def _settle_expired(self, tick: "Sequence[_Pending]") -> "list[_Pending]":
        """Those that clients still wait for. Expired ones get 504 now."""
        waiting = []
        for pending in tick:
            context = pending.prediction.context
            if pending.response.cancelled():
                self.count_rejected("client_left")
            elif context.deadline is not None and context.deadline.has_expired():
                context.deadline.stage = Stage.TICK
                context.record_expired(self._metrics)
                pending.response.set_result(error_response(DeadlineExceeded.status, context.deadline.message))
            else:
                waiting.append(pending)
        return waiting

    def _encoded(self, pending: "_Pending", outcome: Inferred | Exception) -> Response:
        try:
            if isinstance(outcome, Exception):
                raise outcome
            response = pending.prediction.encode(outcome)
        except Exception as error:
            response = _error(pending.request, error)
        return self._ended(pending.request.context, response)

    def _encode_in_thread(self, pending: "_Pending", inferred: Inferred) -> None:
        """To write, and to pack, long outputs would hold up all other connections."""
        encode = partial(pending.prediction.encode, inferred)
        encoded = self._submit(pending.match, pending.request, self._finish, pending.request, encode)
        if isinstance(encoded, Response):
            pending.response.set_result(encoded)
            return
        pending.response.add_done_callback(lambda ended: encoded.cancel() if ended.cancelled() else None)
        encoded.add_done_callback(lambda ended: _hand_on(ended, pending.response))

    def _ended(self, context: RequestContext, response: Response) -> Response:
        if context.protocol in COUNTED:
            context.end(self._metrics, response.status)
        return response


class _Pending:
    """A prediction that waits for the end of the tick."""

    __slots__ = ("match", "prediction", "request", "response")

    def __init__(
        self, request: Request, match: Match, prediction: Prediction, response: "asyncio.Future[Response]"
    ) -> None:
        self.request = request
        self.match = match
        self.prediction = prediction
        self.response = response

    @property
    def max_quick_output_bytes(self) -> int:
        if self.request.accept_encoding:
            return QUICK_PACKED_BYTES
        # Binary requests get binary responses.
        return QUICK_BINARY_BYTES if _is_binary(self.request) else QUICK_OUTPUT_BYTES


class _Tick:
    """What comes in one pass of the event loop, which first reads all connections and then makes callbacks."""

    def __init__(self, run: Callable[[Sequence[_Pending]], None], max_seconds: float) -> None:
        self._run = run
        self._max_seconds = max_seconds
        self._pending: list[_Pending] = []
        self._began = 0.0
        self._requests = 0

    def enter(self, arrived: float) -> bool:
        """Count a request that was read; the first of a tick schedules its end. False where the requests before it took
        so long that it is rejected."""
        if not self._requests:
            self._began = arrived
            asyncio.get_running_loop().call_soon(self._end)
        self._requests += 1
        return self._requests <= MIN_LONG_TICK_REQUESTS or arrived - self._began <= self._max_seconds

    def add(self, pending: _Pending) -> None:
        self._pending.append(pending)
        if len(self._pending) >= MAX_TICK_REQUESTS:
            self._run_pending()

    def _end(self) -> None:
        self._requests = 0
        if self._pending:
            self._run_pending()

    def _run_pending(self) -> None:
        pending, self._pending = self._pending, []
        self._run(pending)


def _may_hold_base64(body: bytes) -> bool:
    # A single byte is found ten times as fast as three, and rows of numbers have none.
    return (b"b" in body and b"b64" in body) or b"\\" in body


def _is_binary(request: Request) -> bool:
    return request.method == GRPC or HEAD_LENGTH_HEADER in request.headers


def _begin(context: RequestContext, match: Match) -> None:
    context.begin()
    context.protocol, context.verb = match.route.protocol, match.route.verb


def _error(request: Request, error: Exception) -> Response:
    return response_to_error(error, request.method, request.path, request.context.request_id)


def _hand_on(ended: "asyncio.Future[Response]", response: "asyncio.Future[Response]") -> None:
    if not ended.cancelled() and not response.done():
        response.set_result(ended.result())
