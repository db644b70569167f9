"""Chooses a request's road: the event loop itself, a thread, or a thread and Flask."""

import asyncio
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from flask import Flask

from service.api import operations as ops
from service.errors import InvalidRequest, PayloadTooLarge, ServingError, UnsupportedMediaType, response_to_error
from service.http import Request, Response, error_response
from service.inference import deadline
from service.inference.deadline import Deadline, Deadlines
from service.lifecycle.registry import Registry
from service.metrics.definitions import Metrics
from service.server import response
from service.server.admission import Rejections
from service.server.executor import Executor
from service.server.fast_dispatch import Route, ShortRoad, find_route
from service.server.interface import HttpRequest, decoded_path
from service.server.wsgi import run_wsgi
from service.settings import Settings

MAX_CONTENT_TYPE_BYTES = 256
# By the service as a whole, as `OPTIONS *` asks.
ALLOWED = "GET, HEAD, OPTIONS, POST"

# Routes that may wait until a model is loaded.
OF_MODELS = (b"/v1/models/", b"/v2/models/", b"/playground/models/")
_HEALTH = {path.encode(): path for path in (ops.LIVE, ops.READY)}
_OF_MODEL = re.compile(r"/(?:v[12]|playground)/models/(?P<model>[^/:]+)")


class Roads:
    def __init__(self, app: Flask, settings: Settings, address: tuple[str, int]) -> None:
        self._app = app
        self._settings = settings
        self._address = address
        self._short_road: ShortRoad = app.extensions["short_road"]
        self._metrics: Metrics = app.extensions["metrics"]
        self._registry: Registry = app.extensions["registry"]
        self._deadlines = Deadlines(settings.request_timeout_ms)
        self._refusals = Rejections(self._metrics)
        self._threads = Executor(settings, self._metrics, self._deadlines, self._refusals, self._is_starting)

    def answer(self, request: HttpRequest) -> "Response | asyncio.Future[Response]":
        context = request.context
        if request.target in _HEALTH and request.method in ("GET", "HEAD"):
            # Whoever asks whether the process lives must not wait for a thread.
            return ops.health(self._registry, _HEALTH[request.target])
        if deadline.HEADER in request.headers:
            try:
                context.deadline = self._deadlines.asked(request.headers[deadline.HEADER], context.arrived)
            except InvalidRequest as error:
                self.refused("malformed")
                return error_response(error.status, str(error))
        if b"content-encoding" in request.headers:
            # A short body may unpack to a long one.
            return self._in_thread(request, self._answer_coded, request)
        route = self._route(request)
        if route is None:
            return self._answer_by_flask(request)
        asked = _asked(request)
        if self._short_road.is_quick(route, asked):
            if self._short_road.is_late(context):
                most = f"{self._settings.max_queue_ms} ms (SERVING_MAX_QUEUE_MS)"
                return self._refusals.answer(context, f"the requests before it take longer than {most}")
            return self._short_road.answer_in_turn(route, asked, context, self._threads.answer)
        return self._in_thread(request, self._by_short_road, route, request)

    def give(self, refusal: Response, request: HttpRequest) -> "Response | asyncio.Future[Response]":
        return self._refusals.give(request.context, refusal)

    def refused(self, reason: str) -> None:
        self._metrics.rejected.labels(reason).inc()

    def close(self) -> None:
        self._threads.close()

    def _answer_by_flask(self, request: HttpRequest) -> "Response | asyncio.Future[Response]":
        context, path = request.context, decoded_path(request.target)
        if path == b"*":
            return Response(200, b"", "text/plain", (("allow", ALLOWED),))
        # To load a model may take longer than any request, and has its own limit; and a limit that is too short must
        # not have the service taken for dead.
        if context.deadline is None and (request.is_operators or path.startswith(b"/v2/repository/models/")):
            context.deadline = Deadline.unlimited()
        # Health and metrics must not wait behind those.
        if request.method in ("GET", "HEAD") and not path.startswith(OF_MODELS):
            return self._threads.operators_answer(context, self._flask, request)
        return self._in_thread(request, self._flask, request)

    def _in_thread(
        self, request: HttpRequest, function: Callable[..., Response], *arguments: Any
    ) -> "Response | asyncio.Future[Response]":
        # Of a prediction, however it comes.
        route = find_route(_path(request)) if request.method == "POST" else None
        refusal = self._short_road.refusal(route, request.context) if route else None
        return refusal or self._threads.answer(request.context, self._model(request), function, *arguments)

    def _is_starting(self) -> bool:
        return not self._registry.first_scan_done.is_set()

    def _model(self, request: HttpRequest) -> str:
        """Whose route it is; empty where it is nobody's, or that of a model that is not known: strangers' names must
        not be kept."""
        match = _OF_MODEL.match(decoded_path(request.target).decode(errors="replace"))
        return match["model"] if match and match["model"] in self._registry.statuses() else ""

    # What threads do. Long answers are made shorter there; the connection sees to those of the event loop.

    def _answer_coded(self, request: HttpRequest) -> Response:
        coding = request.headers.pop(b"content-encoding")
        try:
            request.body = response.decode_body(request.body, coding, self._settings.max_body_bytes)
        except ServingError as error:
            if isinstance(error, PayloadTooLarge):
                self.refused("too_large")
            taken = [("accept-encoding", response.ACCEPTED_CODINGS)] if isinstance(error, UnsupportedMediaType) else []
            return error_response(error.status, str(error), *taken)
        route = self._route(request)
        return self._flask(request) if route is None else self._by_short_road(route, request)

    def _by_short_road(self, route: Route, request: HttpRequest) -> Response:
        return response.encode_body(
            self._short_road.answer(route, _asked(request), request.context), request.accept_encoding
        )

    def _flask(self, request: HttpRequest) -> Response:
        try:
            answer = run_wsgi(self._app, request, self._address)
        # Flask answers its own errors; this is for one in the answering.
        except Exception as error:
            answer = response_to_error(
                error, request.method, _path(request).decode("latin-1"), request.context.request_id
            )
        return response.encode_body(answer, request.accept_encoding)

    def _route(self, request: HttpRequest) -> Route | None:
        # Forms are Flask's: it has a parser for them.
        if request.method != "POST" or _mimetype(request) == "multipart/form-data":
            return None
        return find_route(_path(request))


def _path(request: HttpRequest) -> bytes:
    return request.target.partition(b"?")[0]


def _asked(request: HttpRequest) -> Request:
    query = request.target.partition(b"?")[2]
    # Of a name that comes twice the first counts, as it does in Flask.
    args = dict(reversed(parse_qsl(query.decode("latin-1"), keep_blank_values=True))) if query else {}
    return Request(_mimetype(request), args, request.headers, request.body)


def _mimetype(request: HttpRequest) -> str:
    return _mimetype_of(request.headers.get(b"content-type", b"")[:MAX_CONTENT_TYPE_BYTES])


@lru_cache(256)
def _mimetype_of(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")
