"""Chooses a request's road: the event loop itself, a thread, or a thread and Flask."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from flask import Flask

from service import content_coding
from service.calls import Call
from service.errors import PayloadTooLarge, ServingError, UnsupportedMediaType, status_and_message
from service.messages import Answer, Request, error_answer
from service.metrics import Metrics
from service.server.interface import HttpRequest
from service.server.wsgi import run_wsgi
from service.settings import Settings
from service.short_road import Route, ShortRoad, find_route

LONGEST_CONTENT_TYPE = 256


class Roads:
    def __init__(self, app: Flask, settings: Settings, address: tuple[str, int]) -> None:
        self._app = app
        self._settings = settings
        self._address = address
        self._short_road: ShortRoad = app.extensions["short_road"]
        self._metrics: Metrics = app.extensions["metrics"]
        self._threads = ThreadPoolExecutor(settings.threads, "request")
        self._under_way = 0
        # Health and metrics answer however long predictions wait.
        self._operators_threads = ThreadPoolExecutor(2, "operator")

    def answer(self, request: HttpRequest) -> "Answer | asyncio.Future[Answer]":
        if b"content-encoding" in request.headers:
            # A short body may unpack to a long one.
            return self._in_thread(request.call, self._answer_coded, request)
        route = self._route(request)
        if route is None:
            # A model's own routes may wait until it is loaded; health and metrics must not wait behind them.
            may_wait = request.target.startswith((b"/v1/models/", b"/v2/models/"))
            if request.method in ("GET", "HEAD") and not may_wait:
                return self._by_thread(self._operators_threads, request.call, self._flask, request)
            return self._in_thread(request.call, self._flask, request)
        asked = _asked(request)
        if self._short_road.is_quick(route, asked):
            return self._short_road.answer_in_turn(route, asked, request.call, self._in_thread)
        return self._in_thread(request.call, self._by_short_road, route, request)

    def refused(self, reason: str) -> None:
        self._metrics.rejected.labels(reason).inc()

    def close(self) -> None:
        for pool in (self._threads, self._operators_threads):
            pool.shutdown(wait=False, cancel_futures=True)

    def _in_thread(
        self, call: Call, function: Callable[..., Answer], *arguments: Any
    ) -> "Answer | asyncio.Future[Answer]":
        waiting = self._under_way - self._settings.threads
        if waiting >= self._settings.max_queue_size:
            self.refused("queue_full")
            message = f"{waiting} requests wait already; at most {self._settings.max_queue_size} may"
            return error_answer(429, f"{message} (SERVING_MAX_QUEUE_SIZE)", ("retry-after", "1"))
        self._under_way += 1
        answer = self._by_thread(self._threads, call, function, *arguments)
        answer.add_done_callback(self._ended)
        return answer

    def _ended(self, _answer: "asyncio.Future[Answer]") -> None:
        self._under_way -= 1

    def _by_thread(
        self, pool: ThreadPoolExecutor, call: Call, function: Callable[..., Answer], *arguments: Any
    ) -> "asyncio.Future[Answer]":
        """Not by run_in_executor: its two futures refer to each other, and keep the answer until the collector
        comes."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def run() -> None:
            call.begin()
            try:
                ended = function(*arguments)
            # A bug; whoever waits must hear of it, and the place in the queue become free.
            except Exception as error:
                what = function.__qualname__
                ended = error_answer(*status_and_message(error, "running", what, call.request_id))
            # Else the service was stopped meanwhile, and nobody waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(answer.set_result, ended)

        pool.submit(run)
        return answer

    # What threads do. Long answers are made shorter there; the connection sees to those of the event loop.

    def _answer_coded(self, request: HttpRequest) -> Answer:
        coding = request.headers.pop(b"content-encoding")
        try:
            request.body = content_coding.decode(request.body, coding, self._settings.max_body_bytes)
        except ServingError as error:
            if isinstance(error, PayloadTooLarge):
                self.refused("too_large")
            taken = [("accept-encoding", content_coding.TAKEN)] if isinstance(error, UnsupportedMediaType) else []
            return error_answer(error.status, str(error), *taken)
        route = self._route(request)
        return self._flask(request) if route is None else self._by_short_road(route, request)

    def _by_short_road(self, route: Route, request: HttpRequest) -> Answer:
        return content_coding.encode(
            self._short_road.answer(route, _asked(request), request.call), request.accept_encoding
        )

    def _flask(self, request: HttpRequest) -> Answer:
        try:
            answer = run_wsgi(self._app, request, self._address)
        # Flask answers its own errors; this is for one in the answering.
        except Exception as error:
            path = request.target.partition(b"?")[0].decode("latin-1")
            answer = error_answer(*status_and_message(error, request.method, path, request.call.request_id))
        return content_coding.encode(answer, request.accept_encoding)

    def _route(self, request: HttpRequest) -> Route | None:
        # Forms are Flask's: it has a parser for them.
        if request.method != "POST" or _mimetype(request) == "multipart/form-data":
            return None
        return find_route(request.target.partition(b"?")[0])


def _asked(request: HttpRequest) -> Request:
    query = request.target.partition(b"?")[2]
    # Of a name that comes twice the first counts, as it does in Flask.
    args = dict(reversed(parse_qsl(query.decode("latin-1"), keep_blank_values=True))) if query else {}
    return Request(_mimetype(request), args, request.headers, request.body)


def _mimetype(request: HttpRequest) -> str:
    return _mimetype_of(request.headers.get(b"content-type", b"")[:LONGEST_CONTENT_TYPE])


@lru_cache(256)
def _mimetype_of(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")
