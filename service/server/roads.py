"""Chooses a request's road: the event loop itself, a thread, or a thread and Flask."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from flask import Flask

from service.errors import status_and_message
from service.messages import Answer, Request, error_answer
from service.metrics import Metrics
from service.server.interface import HttpRequest
from service.server.wsgi import run_wsgi
from service.settings import Settings
from service.short_road import ShortRoad, find_route

# What the server turns away itself, as serving_rejected_total calls it.
REFUSALS = {400: "malformed", 408: "too_slow", 413: "too_large", 429: "queue_full", 431: "head_too_large"}

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
        target, _, query = request.target.partition(b"?")
        mimetype = _mimetype(request.headers.get(b"content-type", b"")[:LONGEST_CONTENT_TYPE])
        # Forms are Flask's: it has a parser for them.
        route = find_route(target) if request.method == "POST" and mimetype != "multipart/form-data" else None
        if route is None:
            if request.method in ("GET", "HEAD"):
                return asyncio.get_running_loop().run_in_executor(self._operators_threads, self._flask, request)
            return self._in_thread(self._flask, request)
        # Of a name that comes twice the first counts, as it does in Flask.
        args = dict(reversed(parse_qsl(query.decode("latin-1"), keep_blank_values=True))) if query else {}
        asked = Request(mimetype, args, request.headers, request.body)
        if self._short_road.is_quick(route, asked):
            return self._short_road.answer(route, asked)
        return self._in_thread(self._short_road.answer, route, asked)

    def refused(self, status: int) -> None:
        self._metrics.rejected.labels(REFUSALS[status]).inc()

    def close(self) -> None:
        for pool in (self._threads, self._operators_threads):
            pool.shutdown(wait=False, cancel_futures=True)

    def _in_thread(self, function: Callable[..., Answer], *arguments: Any) -> "Answer | asyncio.Future[Answer]":
        waiting = self._under_way - self._settings.threads
        if waiting >= self._settings.max_queue_size:
            self.refused(429)
            message = f"{waiting} requests wait already; at most {self._settings.max_queue_size} may"
            return error_answer(429, f"{message} (SERVING_MAX_QUEUE_SIZE)", ("retry-after", "1"))
        self._under_way += 1
        answer = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        answer.add_done_callback(self._ended)
        return answer

    def _ended(self, _answer: "asyncio.Future[Answer]") -> None:
        self._under_way -= 1

    def _flask(self, request: HttpRequest) -> Answer:
        try:
            return run_wsgi(self._app, request, self._address)
        # Flask answers its own errors; this is for one in the answering.
        except Exception as error:
            return error_answer(*status_and_message(error, request.method, request.target.decode("latin-1")))


@lru_cache(256)
def _mimetype(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")
