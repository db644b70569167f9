"""Who may come in, by which port: asked when a request's head is there, before any of its body is kept."""

import asyncio
from collections import deque
from collections.abc import Mapping
from time import perf_counter

from flask import Flask

from service.http import Response, error_response
from service.inference.context import RequestContext
from service.metrics.definitions import Metrics
from service.security.api_keys import ApiKeys
from service.security.rate_limit import RateLimit, RateLimits
from service.server.interface import Admit, decoded_path
from service.settings import Settings

# Refusals that come in numbers, for want of time, of a key or of its rate: each client is told, but to tell them all
# must not take the time of those who are let in.

# Of the event loop's time. Clients that ask again at once would else have a service that does nothing but refuse them.
MAX_REJECTION_SHARE = 0.03
# In seconds: what may be saved up, for whoever is refused while few are.
MAX_SAVED_SECONDS = 0.01
# What it takes to read a request and refuse it, in seconds: a quarter of the quickest prediction, and so much a byte.
REJECTION_SECONDS, REJECTION_SECONDS_PER_BYTE = 20e-6, 2.5e-9
RETRY_SECONDS = 0.01


class Rejections:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: deque[tuple[asyncio.Future[Response], RequestContext, Response]] = deque()
        self._saved = MAX_SAVED_SECONDS
        self._looked = perf_counter()

    def answer(self, context: RequestContext, message: str) -> "Response | asyncio.Future[Response]":
        """For want of time."""
        self._metrics.rejected.labels("queue_full").inc()
        return self.give(context, _rejection(message))

    def settle(self, answer: "asyncio.Future[Response]", context: RequestContext, message: str) -> None:
        """The same for one who waits for this future."""
        self._metrics.rejected.labels("queue_full").inc()
        self._wait(answer, context, _rejection(message))

    def give(self, context: RequestContext, refusal: Response) -> "Response | asyncio.Future[Response]":
        """At once, or when it is its turn."""
        if not self._waiting and self._affords(context):
            return refusal
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._wait(answer, context, refusal)
        return answer

    def _wait(self, answer: "asyncio.Future[Response]", context: RequestContext, refusal: Response) -> None:
        self._waiting.append((answer, context, refusal))
        if len(self._waiting) == 1:
            self._send_soon()

    def _send_soon(self) -> None:
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._send)

    def _send(self) -> None:
        while self._waiting:
            answer, context, refusal = self._waiting[0]
            # Who has left costs nothing.
            if not answer.done():
                if not self._affords(context):
                    self._send_soon()
                    return
                answer.set_result(refusal)
            self._waiting.popleft()

    def _affords(self, context: RequestContext) -> bool:
        now = perf_counter()
        self._saved = min(MAX_SAVED_SECONDS, self._saved + MAX_REJECTION_SHARE * (now - self._looked))
        self._looked = now
        # However long a body is: once all is saved up, one more can be refused.
        cost = min(REJECTION_SECONDS + REJECTION_SECONDS_PER_BYTE * context.body_bytes, MAX_SAVED_SECONDS)
        if self._saved < cost:
            return False
        self._saved -= cost
        return True


def _rejection(message: str) -> Response:
    return error_response(429, message, ("retry-after", "1"))


HEALTH = frozenset({b"/v2/health/live", b"/v2/health/ready"})
METRICS = frozenset({b"/metrics", b"/monitoring/prometheus/metrics"})
# The pages for people hold nothing but the program; what they ask for needs a key.
PAGES = frozenset({b"/", b"/docs", b"/openapi.json"})
PARTS_OF_PAGES = b"/static/"
# What loads and unloads.
ADMIN = b"/v2/repository/models/"

BEARER = b"bearer "

# The same for no key, an unknown one and one that has expired: none of them tells which keys there are.
UNAUTHORIZED = error_response(
    401,
    "this needs an API key that counts, as Authorization: Bearer <key> or X-API-Key: <key>",
    ("www-authenticate", 'Bearer realm="models"'),
)
FORBIDDEN = error_response(403, "this key may predict, but not load or unload models: that needs the scope admin")
NO_SUCH_ROUTE = error_response(404, "no such route")
NO_OPERATION = error_response(404, "no such route: this port has health (/v2/health/...) and /metrics alone")


class Admission:
    """At the main port. `has_operations`: whether health and metrics are for anybody there; else they have a port of
    their own, and here health is for who has a key, and metrics for nobody."""

    def __init__(
        self, api_keys: ApiKeys | None, limit_of_all: RateLimit | None, metrics: Metrics, has_operations: bool
    ) -> None:
        """`limit_of_all`: where there are no keys, of all clients together."""
        self._api_keys = api_keys
        self._limit_of_all = limit_of_all
        self._rejected = metrics.rejected
        self._open = PAGES | HEALTH | METRICS if has_operations else PAGES

    def admit(self, target: bytes, headers: Mapping[bytes, bytes]) -> tuple[str, Response | None]:
        path = decoded_path(target)
        if (path in self._open or path.startswith(PARTS_OF_PAGES)) and not _has_body(headers):
            return "", None
        name, limit = "", self._limit_of_all
        if self._api_keys is not None:
            key = self._api_keys.find(_given(headers))
            if key is None:
                return "", self._refuse("unauthorized", UNAUTHORIZED)
            if key.scope != "admin" and path.startswith(ADMIN):
                return key.name, self._refuse("forbidden", FORBIDDEN)
            name, limit = key.name, key.limit
        if path in METRICS and path not in self._open:
            return name, NO_SUCH_ROUTE
        if limit is not None and (seconds := limit.seconds_to_wait()):
            message = f"no more than {limit} are taken; come again in {seconds} s (SERVING_RATE_LIMIT)"
            return name, self._refuse("rate_limited", error_response(429, message, ("retry-after", str(seconds))))
        return name, None

    def _refuse(self, reason: str, answer: Response) -> Response:
        self._rejected.labels(reason).inc()
        return answer


def admit_operations(target: bytes, headers: Mapping[bytes, bytes]) -> tuple[str, Response | None]:
    """At the port of their own."""
    path = decoded_path(target)
    return "", None if (path in HEALTH or path in METRICS) and not _has_body(headers) else NO_OPERATION


def admissions(app: Flask) -> list[Admit | None]:
    """For each port, as gunicorn binds them; None where everybody may come in."""
    settings: Settings = app.extensions["settings"]
    api_keys: ApiKeys | None = app.extensions["api_keys"]
    rate_limits: RateLimits = app.extensions["rate_limits"]
    limit_of_all = rate_limits.of("", settings.rate_limit) if api_keys is None else None
    has_operations = not settings.operations_port
    if api_keys is None and limit_of_all is None and has_operations:
        return [None]
    main = Admission(api_keys, limit_of_all, app.extensions["metrics"], has_operations).admit
    return [main] if has_operations else [main, admit_operations]


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    """What nobody needs a key for has none: else anybody could fill the memory."""
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _given(headers: Mapping[bytes, bytes]) -> bytes:
    """The key; of both headers that which is for nothing else."""
    if (key := headers.get(b"x-api-key")) is not None:
        return key
    authorization = headers.get(b"authorization", b"")
    return authorization[len(BEARER) :].strip() if authorization[: len(BEARER)].lower() == BEARER else b""
