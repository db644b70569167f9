"""The short road: predictions from the server's event loop to the model and back, without Flask.

The same functions decode and encode as behind Flask's routes (api/v1/, api/v2/); only finding the route, errors
and metrics are done here.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import msgspec

from service.api.v1 import views as v1
from service.api.v2 import views as v2
from service.api.v2.decode import HEAD_LENGTH_HEADER
from service.errors import InvalidRequest, response_to_error
from service.http import Request, Response, error_response
from service.inference.batching import row_count
from service.inference.context import Prediction, RequestContext
from service.inference.deadline import DeadlineExceeded, Stage
from service.inference.infer import Inference
from service.inference.scores import Inferred
from service.lifecycle.registry import Find, WouldWait
from service.metrics.definitions import Metrics
from service.server import response
from service.settings import Settings
from service.tensors.dtypes import size_of
from service.tensors.image_file import may_take_long, picture_pixels

_V1 = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/]+)|/labels/(?P<label>[^/]+))?"
    r":(?P<verb>predict|classify|regress)"
)
_V2 = re.compile(r"/v2/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/]+))?/infer")

# What the event loop itself may do while all other connections wait: about a millisecond each, for one request.
QUICK_JSON_BYTES = 160 * 1024
QUICK_BINARY_BYTES = 1024 * 1024
QUICK_STRING_BYTES = 16 * 1024
QUICK_PICTURE_BYTES = 16 * 1024
QUICK_PIXELS = 64 * 1024
QUICK_RUN_SECONDS = 0.001
# Of outputs: as JSON, and as JSON that is packed.
QUICK_OUTPUT_BYTES = 64 * 1024
QUICK_PACKED_BYTES = 8 * 1024

# Requests. The first of a turn must not wait for however many came with it.
MAX_TICK_REQUESTS = 32
# Requests in a round of the event loop; where fewer take long, the machine stood still.
MIN_LONG_ROUND_REQUESTS = 4 * MAX_TICK_REQUESTS

MAX_CACHED_TARGET_BYTES = 256

InThread = Callable[..., "Response | asyncio.Future[Response]"]


class Route(msgspec.Struct, frozen=True):
    """`asked`: what the path names, as the protocol's `decode` takes it."""

    path: str
    protocol: str
    verb: str
    model: str
    decode: Callable[..., Prediction]
    asked: dict[str, Any]


def find_route(target: bytes) -> Route | None:
    """The route of a POST to this path, as it stands in the request's first line; None for what Flask answers."""
    # What is kept must not grow with what strangers ask for.
    return _find_route(target) if len(target) <= MAX_CACHED_TARGET_BYTES else _find_route.__wrapped__(target)


@lru_cache(1024)
def _find_route(target: bytes) -> Route | None:
    path = unquote(target.decode("latin-1"))
    if match := _V1.fullmatch(path):
        return Route(path, "v1", match["verb"], match["model"], v1.decode, match.groupdict())
    if match := _V2.fullmatch(path):
        return Route(path, "v2", "infer", match["model"], v2.decode, match.groupdict())
    return None


class ShortRoad:
    def __init__(self, inference: Inference, settings: Settings, metrics: Metrics) -> None:
        self._inference = inference
        self._settings = settings
        self._metrics = metrics
        self._turn: list[_Waiting] = []
        # The event loop reads in a round all that had come when it began.
        self._round_began = 0.0
        self._read_in_round = 0

    def is_quick(self, route: Route, request: Request) -> bool:
        """Whether decoding takes no longer than the event loop may be held up, and the model's rows neither."""
        registry = self._inference.registry
        if not registry.first_scan_done.is_set():
            return False
        size = len(request.body)
        if request.mimetype.startswith("image/"):
            # By its bytes where they say enough: to look into a picture takes a while, too.
            if size > QUICK_PICTURE_BYTES or may_take_long(request.body):
                return False
            if picture_pixels(request.body) > QUICK_PIXELS:
                return False
        else:
            longest = QUICK_BINARY_BYTES if HEAD_LENGTH_HEADER in request.headers else QUICK_JSON_BYTES
            if size > (QUICK_STRING_BYTES if registry.takes_strings(route.model) else longest):
                return False
            # A picture within JSON, whose key may be written with escapes: how long it takes cannot be told from here.
            if (
                route.protocol == "v1"
                and registry.takes_pictures(route.model)
                and (b"b64" in request.body or b"\\" in request.body)
            ):
                return False
        return registry.is_quick(route.model)

    def is_late(self, context: RequestContext) -> bool:
        """Whether those read before it in this round of the event loop took so long that it is to be refused."""
        if not self._read_in_round:
            self._round_began = context.arrived
            asyncio.get_running_loop().call_soon(self._end_round)
        self._read_in_round += 1
        return (
            self._read_in_round > MIN_LONG_ROUND_REQUESTS
            and context.arrived - self._round_began > self._settings.max_queue_ms / 1000
        )

    def _end_round(self) -> None:
        self._read_in_round = 0
        if self._turn:
            self._run_turn()

    def refusal(self, route: Route, context: RequestContext) -> Response | None:
        """What is answered at once, without a thread, where every version that may answer hangs."""
        version, label = route.asked.get("version"), route.asked.get("label")
        try:
            loaded = self._inference.registry.unhealthy(route.model, v1.version_of(version), label)
        except InvalidRequest:
            return None
        if loaded is None:
            return None
        self._begin(route, context)
        context.found(loaded)
        return self._ended(context, _error(route, context, loaded.health.error()))

    def answer(self, route: Route, request: Request, context: RequestContext) -> Response:
        try:
            prediction = self._decode(self._inference.registry.get, route, request, context)
        except Exception as error:
            return self._ended(context, _error(route, context, error))
        return self._answer_decoded(route, prediction)

    def _answer_decoded(self, route: Route, prediction: Prediction) -> Response:
        try:
            answer = self._inference.answer(prediction)
        except Exception as error:
            answer = _error(route, prediction.context, error)
        return self._ended(prediction.context, answer)

    def answer_in_turn(
        self, route: Route, request: Request, context: RequestContext, in_thread: InThread
    ) -> "Response | asyncio.Future[Response]":
        """The same on the event loop, where what comes in one turn of it is run at the turn's end.

        Nothing waits for more to come, and yet under load much comes at once: models that gain by batches get them,
        and to decode all, run all and encode all takes half the time of one request after the other.
        """
        try:
            prediction = self._decode(self._inference.registry.get_at_once, route, request, context)
        except WouldWait:
            # It was unloaded since it was quick.
            return in_thread(context, route.model, self.answer, route, request, context)
        except Exception as error:
            return self._ended(context, _error(route, context, error))
        if (row_count(prediction.inputs) or 1) * prediction.loaded.pace.row_seconds > QUICK_RUN_SECONDS:
            return in_thread(context, route.model, self._answer_decoded, route, prediction)
        waiting = _Waiting(route, prediction, request.headers, asyncio.get_running_loop().create_future(), in_thread)
        self._turn.append(waiting)
        if len(self._turn) >= MAX_TICK_REQUESTS:
            self._run_turn()
        return waiting.answer

    def _decode(self, find: Find, route: Route, request: Request, context: RequestContext) -> Prediction:
        self._begin(route, context)
        return route.decode(find, self._settings, context, request, **route.asked)

    def _begin(self, route: Route, context: RequestContext) -> None:
        context.begin()
        context.protocol, context.verb = route.protocol, route.verb

    def _ended(self, context: RequestContext, answer: Response) -> Response:
        context.end(self._metrics, answer.status)
        return answer

    def _run_turn(self) -> None:
        turn = [waiting for waiting in self._turn if self._is_waited_for(waiting)]
        self._turn = []
        outcomes: Sequence[Inferred | Exception]
        try:
            outcomes = self._inference.infer_together([waiting.prediction for waiting in turn])
        # A bug; whoever waits must hear of it all the same.
        except Exception as error:
            outcomes = [error] * len(turn)
        for waiting, outcome in zip(turn, outcomes, strict=True):
            context = waiting.prediction.context
            context.inferred()
            if not isinstance(outcome, Exception) and size_of(outcome.outputs) > waiting.quick_output_bytes:
                self._encode_in_thread(waiting, outcome)
            else:
                waiting.answer.set_result(self._encoded(waiting, outcome))

    def _encoded(self, waiting: "_Waiting", outcome: Inferred | Exception) -> Response:
        context = waiting.prediction.context
        try:
            if isinstance(outcome, Exception):
                raise outcome
            answer = waiting.prediction.encode(outcome)
        except Exception as error:
            answer = _error(waiting.route, context, error)
        return self._ended(context, answer)

    def _encode_in_thread(self, waiting: "_Waiting", inferred: Inferred) -> None:
        """To write, and to pack, what is long would hold up all other connections."""

        def encode() -> Response:
            return response.encode_body(self._encoded(waiting, inferred), waiting.accept_encoding)

        answer = waiting.in_thread(waiting.prediction.context, waiting.route.model, encode)
        if isinstance(answer, Response):
            waiting.answer.set_result(answer)
            return
        waiting.answer.add_done_callback(lambda ended: answer.cancel() if ended.cancelled() else None)
        answer.add_done_callback(lambda ended: _hand_on(ended, waiting.answer))

    def _is_waited_for(self, waiting: "_Waiting") -> bool:
        if waiting.answer.cancelled():
            self._metrics.rejected.labels("client_left").inc()
            return False
        context = waiting.prediction.context
        if context.deadline is None or not context.deadline.has_expired():
            return True
        context.deadline.stage = Stage.TURN
        context.record_expired(self._metrics)
        waiting.answer.set_result(error_response(DeadlineExceeded.status, context.deadline.sentence))
        return False


class _Waiting:
    """A prediction that waits for the end of the turn."""

    __slots__ = ("accept_encoding", "answer", "in_thread", "is_binary", "prediction", "route")

    def __init__(
        self,
        route: Route,
        prediction: Prediction,
        headers: Mapping[bytes, bytes],
        answer: "asyncio.Future[Response]",
        in_thread: InThread,
    ) -> None:
        self.route = route
        self.prediction = prediction
        self.answer = answer
        self.in_thread = in_thread
        self.accept_encoding = headers.get(b"accept-encoding", b"")
        # Who sends tensors as they are gets them so.
        self.is_binary = HEAD_LENGTH_HEADER in headers

    @property
    def quick_output_bytes(self) -> int:
        if self.accept_encoding:
            return QUICK_PACKED_BYTES
        return QUICK_BINARY_BYTES if self.is_binary else QUICK_OUTPUT_BYTES


def _hand_on(ended: "asyncio.Future[Response]", answer: "asyncio.Future[Response]") -> None:
    if not ended.cancelled() and not answer.done():
        answer.set_result(ended.result())


def _error(route: Route, context: RequestContext, error: Exception) -> Response:
    return response_to_error(error, "POST", route.path, context.request_id)
