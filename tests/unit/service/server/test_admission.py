import asyncio
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from service import create_app
from service.api.routes import TABLE
from service.http import Request, Response
from service.inference.context import RequestContext
from service.metrics.definitions import Metrics
from service.server.admission import (
    MAX_REJECTION_SHARE,
    MAX_SAVED_SECONDS,
    REJECTION_SECONDS,
    Rejections,
    with_metrics_at,
)
from service.settings import Settings
from tests.unit.service.fakes import request

PREDICT, ADMIN, FEEDBACK = ({"X-API-Key": f"of-{name}"} for name in ("alice", "bob", "carol"))
KEYS = "\n".join(
    f'[keys.{name}]\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\nscope = "{scope}"'
    for name, key, scope in (
        ("alice", "of-alice", "predict"),
        ("carol", "of-carol", "feedback"),
        ("bob", "of-bob", "admin"),
    )
)
MAIN, OPERATIONS = 0, 1
HEALTH = ("/v2/health/live", "/v2/health/ready")
METRICS = ("/metrics", "/monitoring/prometheus/metrics")
ADMITTED = Response(200, b"")


class Ports:
    """The main port of a service, and that for operations."""

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings)

    def admit(
        self, path: str, headers: dict[str, str] | None = None, *, port: int = MAIN, body: bytes = b"body"
    ) -> Response:
        method = "GET" if TABLE.find("GET", path.encode()) else "POST"
        own = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}
        self.request = request(path.encode(), body, method=method, headers=own)
        self.request.has_body = bool(body)
        return self._app.admits[port](self.request) or ADMITTED

    def statuses(self, times: int, path: str, headers: dict[str, str] | None = None) -> list[int]:
        return [self.admit(path, headers).status for _ in range(times)]

    def rejected(self, reason: str) -> float | None:
        value: float | None = self._app.metrics.registry.get_sample_value("serving_rejected_total", {"reason": reason})
        return value


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Ports]:
    def make(keys: str = KEYS, **settings: Any) -> Ports:
        if keys:
            (tmp_path / "keys.toml").write_text(keys)
            settings["api_keys_file"] = str(tmp_path / "keys.toml")
        return Ports(Settings(models=str(tmp_path), **settings))

    return make


@pytest.fixture
def ports(build: Callable[..., Ports]) -> Ports:
    return build()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer of-alice"},
        {"Authorization": "bearer  of-alice"},
        PREDICT,
        {**PREDICT, "Authorization": "Basic eDp5"},
    ],
)
def test_key_is_admitted(ports: Ports, headers: dict[str, str]) -> None:
    assert ports.admit("/v1/models/m:predict", headers) is ADMITTED
    assert ports.request.key_name == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "of-alice"},
        {"Authorization": "Basic of-alice"},
        {"Authorization": "Bearerof-alice"},
        {"Authorization": "Bearer of-alicex"},
        {"Authorization": "Bearer of-alice,Bearer of-alice"},
        {"X-API-Key": "wrong", "Authorization": "Bearer of-alice"},
        {"X-API-Key": hashlib.sha256(b"of-alice").hexdigest()},
        {"X_API_Key": "of-alice"},
        {"Cookie": "key=of-alice"},
    ],
)
def test_no_valid_key_is_401(ports: Ports, headers: dict[str, str]) -> None:
    for path in ("/v1/models/m:predict", "/v2", "/playground/models", "/nowhere", "/v2?key=of-alice"):
        rejection = ports.admit(path, headers)
        assert rejection.status == 401
        assert rejection.headers == (("www-authenticate", 'Bearer realm="models"'),)
        assert orjson.loads(rejection.body) == {
            "error": "this needs an API key that counts, as Authorization: Bearer <key> or X-API-Key: <key>"
        }
    assert ports.rejected("unauthorized") == 5


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/models/m/load",
        "/v2/repository/models/m/unload?a=b",
        "/v2/repository/%6dodels/m/load",
        "/v2/repository%2Fmodels%2Fm%2Fload",
    ],
)
def test_load_and_unload_need_the_scope_admin(ports: Ports, path: str) -> None:
    rejection = ports.admit(path, PREDICT)
    assert (rejection.status, ports.rejected("forbidden"), ports.request.key_name) == (403, 1, "alice")
    assert b"needs the scope admin" in rejection.body
    assert ports.admit(path, ADMIN) is ADMITTED


def test_feedback_needs_its_scope_or_admin(ports: Ports) -> None:
    path = "/v1/models/m:feedback"
    rejection = ports.admit(path, PREDICT)
    assert (rejection.status, ports.rejected("forbidden")) == (403, 1)
    assert b"needs the scope feedback" in rejection.body
    assert ports.admit(path).status == 401
    assert (ports.admit(path, FEEDBACK), ports.admit(path, ADMIN)) == (ADMITTED, ADMITTED)


def test_scope_feedback_may_predict_and_not_load(ports: Ports) -> None:
    assert ports.admit("/v1/models/m:predict", FEEDBACK) is ADMITTED
    assert ports.admit("/v2/repository/models/m/load", FEEDBACK).status == 403


@pytest.mark.parametrize("path", ["/v1/models", "/v2/repository/index", "/v2/models/m/infer"])
def test_scope_admin_may_predict(ports: Ports, path: str) -> None:
    assert ports.admit(path, ADMIN) is ADMITTED


@pytest.mark.parametrize("path", [*HEALTH, *METRICS, "/metrics?a=b", "/", "/static/main.js", "/docs", "/openapi.json"])
def test_health_metrics_and_pages_need_no_key_unless_they_have_a_body(ports: Ports, path: str) -> None:
    assert ports.admit(path, body=b"") is ADMITTED
    assert ports.admit(path).status == 401
    assert ports.admit(path, PREDICT) is ADMITTED


@pytest.mark.parametrize(
    "path", ["/metrics/", "//metrics", "/v2/health", "/v2/health/ready/x", "/METRICS", "//", "/static", "/%2fstatic/"]
)
def test_similar_paths_need_a_key(ports: Ports, path: str) -> None:
    assert ports.admit(path, body=b"").status == 401


@pytest.mark.parametrize("keys", [KEYS, ""])
def test_port_for_operations_has_health_and_metrics_alone(build: Callable[..., Ports], keys: str) -> None:
    ports = build(keys, operations_port=1234)
    for path in (*HEALTH, *METRICS):
        assert ports.admit(path, port=OPERATIONS, body=b"") is ADMITTED
        assert ports.admit(path, port=OPERATIONS).status == 404
    for path in ("/v1/models/m:predict", "/v2", "/"):
        assert ports.admit(path, ADMIN, port=OPERATIONS).status == 404


def test_main_port_beside_it_has_no_metrics_and_health_for_keys(build: Callable[..., Ports]) -> None:
    ports = build(operations_port=1234)
    for path in (*METRICS, "/%6detrics"):
        assert ports.admit(path).status == 401
        rejection = ports.admit(path, ADMIN)
        assert (rejection.status, rejection.body) == (404, b'{"error":"no such route"}')
    for path in HEALTH:
        assert ports.admit(path, body=b"").status == 401
        assert ports.admit(path, PREDICT) is ADMITTED


def test_main_port_beside_it_without_keys(build: Callable[..., Ports]) -> None:
    ports = build("", operations_port=1234)
    assert [ports.admit(path).status for path in ("/v2/health/live", "/v1/models", "/metrics")] == [200, 200, 404]


def test_rate_limit_is_per_key(build: Callable[..., Ports]) -> None:
    ports = build(rate_limit="2/hour")
    assert ports.statuses(3, "/v2", PREDICT) == [200, 200, 429]
    rejection = ports.admit("/v1/models", PREDICT)
    assert rejection.status == 429
    ((name, seconds),) = rejection.headers
    assert name == "retry-after"
    assert re.fullmatch(r"3(600|59\d)", seconds)
    assert b"no more than 2 requests in 3600 s are taken; come again in 3" in rejection.body
    assert ports.rejected("rate_limited") == 2
    assert ports.admit("/v2", ADMIN) is ADMITTED


def test_rejected_and_open_requests_do_not_count(build: Callable[..., Ports]) -> None:
    ports = build(rate_limit="1/hour")
    for headers in ({"X-API-Key": "wrong"}, {}):
        assert ports.admit("/v2", headers).status == 401
    assert ports.admit("/v2/repository/models/m/load", PREDICT).status == 403
    for _ in range(3):
        assert ports.admit("/metrics", PREDICT, body=b"") is ADMITTED
    assert ports.admit("/v2", PREDICT) is ADMITTED


@pytest.mark.parametrize(("limit", "statuses"), [("1/hour", [200, 429, 429]), ("", [200, 200, 200])])
def test_key_may_have_its_own_rate_limit(build: Callable[..., Ports], limit: str, statuses: list[int]) -> None:
    ports = build(f'{KEYS}\nrate_limit = "{limit}"', rate_limit="2/hour")
    assert ports.statuses(3, "/v2", ADMIN) == statuses
    assert ports.statuses(3, "/v2", PREDICT) == [200, 200, 429]


def test_rate_limit_without_keys_is_for_all_clients(build: Callable[..., Ports]) -> None:
    ports = build("", rate_limit="2/hour")
    assert ports.statuses(3, "/v2") == [200, 200, 429]
    assert ports.admit("/v2/health/ready", body=b"") is ADMITTED


# The rate of rejections

AT_ONCE = int(MAX_SAVED_SECONDS / REJECTION_SECONDS)
# More than there is time for within ten seconds.
MANY = AT_ONCE + int(10 * MAX_REJECTION_SHARE / REJECTION_SECONDS)


def context(body_bytes: int = 0) -> RequestContext:
    return RequestContext({}, body_bytes)


def waiting(responses: "list[Response | asyncio.Future[Response]]") -> "list[asyncio.Future[Response]]":
    """Those that are futures; they come last."""
    futures = [response for response in responses if isinstance(response, asyncio.Future)]
    assert responses[-len(futures) :] == futures
    return futures


async def test_some_rejections_are_sent_at_once_and_the_others_later(page: CollectorRegistry) -> None:
    rejections = Rejections(Metrics(page))
    responses = [rejections.queue_full(context(), "no") for _ in range(MANY)]
    later = waiting(responses)
    assert AT_ONCE <= len(responses) - len(later) < MANY
    first = await later[0]
    assert (first.status, first.body, first.headers) == (429, b'{"error":"no"}', (("retry-after", "1"),))
    assert not later[-1].done()
    assert page.get_sample_value("serving_rejected_total", {"reason": "queue_full"}) == MANY


async def test_all_rejections_share_one_queue(page: CollectorRegistry) -> None:
    rejections = Rejections(Metrics(page))
    unauthorized = Response(401, b"no key")
    responses = [rejections.respond(context(), unauthorized) for _ in range(MANY)]
    assert responses[:AT_ONCE] == [unauthorized] * AT_ONCE
    behind = rejections.queue_full(context(), "no")
    assert isinstance(behind, asyncio.Future)
    assert await waiting(responses)[0] is unauthorized
    assert not behind.done()
    # Admission has counted the others.
    assert page.get_sample_value("serving_rejected_total", {"reason": "queue_full"}) == 1


async def test_rejections_of_clients_that_left_cost_nothing(page: CollectorRegistry) -> None:
    rejections = Rejections(Metrics(page))
    later = waiting([rejections.queue_full(context(), "no") for _ in range(MANY)])
    for response in later[:-1]:
        response.cancel()
    assert (await asyncio.wait_for(later[-1], 5)).status == 429


async def test_waiting_client_is_rejected_in_the_same_queue(page: CollectorRegistry) -> None:
    rejections = Rejections(Metrics(page))
    response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    rejections.settle_queue_full(response, context(), "not in time")
    behind = rejections.queue_full(context(), "no")
    assert isinstance(behind, asyncio.Future)
    assert (await response).body == b'{"error":"not in time"}'
    await behind
    assert page.get_sample_value("serving_rejected_total", {"reason": "queue_full"}) == 2


async def test_bodies_of_any_length_are_rejected(page: CollectorRegistry) -> None:
    rejections = Rejections(Metrics(page))
    first, second = (rejections.queue_full(context(10**9), "no") for _ in range(2))
    assert isinstance(first, Response)
    assert isinstance(second, asyncio.Future)
    assert (await second).status == 429


def test_metrics_may_have_another_path() -> None:
    seen: list[bytes] = []

    def admit(admitted: Request) -> None:
        seen.append(admitted.target)

    for target in (b"/my/metrics", b"/my/metrics?x=1", b"/my/metrics/more", b"/v2"):
        with_metrics_at(admit, "/my/metrics")(request(target))
    assert seen == [b"/metrics", b"/metrics", b"/my/metrics/more", b"/v2"]
