"""Admission: which requests may come in, and rejections that take little of the event loop's time.

Requests are admitted once their head is read, before any of their body is kept.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter

from service.api.routes import TABLE, Access, Table
from service.http import Request, Response, error_response
from service.inference.context import RequestContext
from service.metrics.definitions import Metrics
from service.security.api_keys import ApiKeys
from service.security.rate_limit import RateLimit

# Finds the route of a request, and returns its rejection, if any.
Admit = Callable[[Request], Response | None]

# Rejections may take this share of the event loop's time: clients that send again at once must not stop the rest.
MAX_REJECTION_SHARE = 0.03
# What a rejection takes, in seconds: reading and refusing a request, and each byte of its body.
REJECTION_SECONDS, REJECTION_SECONDS_PER_BYTE = 20e-6, 2.5e-9
# The time that may be saved up while few requests are rejected.
MAX_SAVED_SECONDS = 0.01
RETRY_SECONDS = 0.01

# The same for no key, an unknown one and an expired one: nobody can find out which keys exist.
UNAUTHORIZED = error_response(
    401,
    "this needs an API key that counts, as Authorization: Bearer <key> or X-API-Key: <key>",
    ("www-authenticate", 'Bearer realm="models"'),
)
FORBIDDEN = error_response(403, "to load or unload models, or take profiles, a key needs the scope admin")
NO_FEEDBACK = error_response(403, "to give feedback, a key needs the scope feedback or admin")
NO_SUCH_ROUTE = error_response(404, "no such route")
NO_OPERATION = error_response(404, "no such route: this port has health (/v2/health/...) and /metrics alone")

METRICS_PATH = b"/metrics"
_BEARER = b"bearer "


class Admission:
    """Admission at the main port."""

    def __init__(
        self,
        metrics: Metrics,
        api_keys: ApiKeys | None = None,
        limit_of_all: RateLimit | None = None,
        has_operations: bool = True,
        table: Table = TABLE,
    ) -> None:
        """`limit_of_all`: where there are no keys, the limit for all clients together. `has_operations`: whether health
        and metrics are open here; else they have a port of their own, and here health needs a key."""
        self._api_keys = api_keys
        self._limit_of_all = limit_of_all
        self._rejected = metrics.rejected
        self._has_operations = has_operations
        self._table = table
        self._open = {Access.PAGE, Access.HEALTH, Access.METRICS} if has_operations else {Access.PAGE}

    def admit(self, request: Request) -> Response | None:
        match = request.match = self._table.find(request.method, request.target)
        limit = self._limit_of_all
        if self._api_keys is None and limit is None and self._has_operations:
            return None
        access = Access.MODELS if match is None else match.route.access
        # What needs no key has no body: else anybody could fill the memory.
        if access in self._open and not request.has_body:
            return None
        if self._api_keys is not None:
            key = self._api_keys.find(_key(request.headers))
            if key is None:
                return self._reject("unauthorized", UNAUTHORIZED)
            request.key_name, limit = key.name, key.limit
            if key.scope != "admin" and access is Access.ADMIN:
                return self._reject("forbidden", FORBIDDEN)
            if key.scope == "predict" and access is Access.FEEDBACK:
                return self._reject("forbidden", NO_FEEDBACK)
        if access is Access.METRICS and not self._has_operations:
            return NO_SUCH_ROUTE
        if limit is not None and (seconds := limit.seconds_to_wait()):
            message = f"no more than {limit} are taken; come again in {seconds} s (SERVING_RATE_LIMIT)"
            return self._reject("rate_limited", error_response(429, message, ("retry-after", str(seconds))))
        return None

    def _reject(self, reason: str, response: Response) -> Response:
        self._rejected.labels(reason).inc()
        return response


def admit_operations(table: Table, request: Request) -> Response | None:
    """Admission at the port for operations."""
    match = request.match = table.find(request.method, request.target)
    return None if match is not None and match.route.is_operations and not request.has_body else NO_OPERATION


def with_metrics_at(admit: Admit, path: str) -> Admit:
    """Admit requests for this path as those for /metrics."""
    alias = path.encode()

    def admit_alias(request: Request) -> Response | None:
        if request.target.partition(b"?")[0] == alias:
            request.target = METRICS_PATH
        return admit(request)

    return admit_alias


class Rejections:
    """Sends rejections at a bounded rate: each client gets its own, but all of them together take a small share of the
    event loop's time, by a token bucket of seconds."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: deque[tuple[asyncio.Future[Response], RequestContext, Response]] = deque()
        self._saved_seconds = MAX_SAVED_SECONDS
        self._saved_at = perf_counter()

    def queue_full(self, context: RequestContext, message: str) -> "Response | asyncio.Future[Response]":
        """429 for want of time, now or once there is time for it."""
        self._metrics.rejected.labels("queue_full").inc()
        return self.respond(context, _too_many(message))

    def settle_queue_full(self, response: "asyncio.Future[Response]", context: RequestContext, message: str) -> None:
        """The same for a client that waits for this future."""
        self._metrics.rejected.labels("queue_full").inc()
        self._wait(response, context, _too_many(message))

    def respond(self, context: RequestContext, rejection: Response) -> "Response | asyncio.Future[Response]":
        """The rejection, now or once there is time for it."""
        if not self._waiting and self._spend(context):
            return rejection
        response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._wait(response, context, rejection)
        return response

    def _wait(self, response: "asyncio.Future[Response]", context: RequestContext, rejection: Response) -> None:
        self._waiting.append((response, context, rejection))
        if len(self._waiting) == 1:
            self._send_later()

    def _send_later(self) -> None:
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._send)

    def _send(self) -> None:
        while self._waiting:
            response, context, rejection = self._waiting[0]
            # A client that has left costs nothing.
            if not response.done():
                if not self._spend(context):
                    self._send_later()
                    return
                response.set_result(rejection)
            self._waiting.popleft()

    def _spend(self, context: RequestContext) -> bool:
        """Take the time for one rejection; False where there is not enough."""
        now = perf_counter()
        self._saved_seconds = min(MAX_SAVED_SECONDS, self._saved_seconds + MAX_REJECTION_SHARE * (now - self._saved_at))
        self._saved_at = now
        # However long a body is: once all is saved up, one more can be rejected.
        cost = min(REJECTION_SECONDS + REJECTION_SECONDS_PER_BYTE * context.body_bytes, MAX_SAVED_SECONDS)
        if self._saved_seconds < cost:
            return False
        self._saved_seconds -= cost
        return True


def _too_many(message: str) -> Response:
    return error_response(429, message, ("retry-after", "1"))


def _key(headers: Mapping[bytes, bytes]) -> bytes:
    """The API key. X-API-Key counts first: it is for nothing else."""
    if (key := headers.get(b"x-api-key")) is not None:
        return key
    authorization = headers.get(b"authorization", b"")
    return authorization[len(_BEARER) :].strip() if authorization[: len(_BEARER)].lower() == _BEARER else b""
