import asyncio
import hashlib
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest

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
from tests.unit.service.clocks import FakeClock
from tests.unit.service.fakes import request

Headers = dict[str, str]
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

    def admit(self, path: str, headers: Headers | None = None, *, port: int = MAIN, body: bytes = b"body") -> Response:
        method = "GET" if TABLE.find("GET", path.encode()) else "POST"
        own = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}
        self.request = request(path.encode(), body, method=method, headers=own)
        self.request.has_body = bool(body)
        return self._app.admits[port](self.request) or ADMITTED

    def statuses(self, times: int, path: str, headers: Headers | None = None) -> list[int]:
        return [self.admit(path, headers).status for _ in range(times)]

    def rejected(self, reason: str) -> float:
        value: float | None = self._app.metrics.registry.get_sample_value("serving_rejected_total", {"reason": reason})
        return value or 0


Build = Callable[..., Ports]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    def make(keys: str = KEYS, **settings: Any) -> Ports:
        folder = tmp_path_factory.mktemp("models")
        if keys:
            (folder / "keys.toml").write_text(keys)
            settings["api_keys_file"] = str(folder / "keys.toml")
        return Ports(Settings(models=str(folder), **settings))

    return make


@pytest.fixture(scope="module")
def ports(build: Build) -> Ports:
    """Without limits: no request changes anything but counts."""
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
def test_key_is_admitted(ports: Ports, headers: Headers) -> None:
    assert ports.admit("/v1/models/m:predict", headers) is ADMITTED
    assert ports.request.key_name == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        *({"Authorization": value} for value in ("Bearer", "Bearer ", "of-alice", "Basic of-alice", "Bearerof-alice")),
        *({"Authorization": f"Bearer of-alice{rest}"} for rest in ("x", ",Bearer of-alice")),
        {"X-API-Key": "wrong", "Authorization": "Bearer of-alice"},
        {"X-API-Key": hashlib.sha256(b"of-alice").hexdigest()},
        {"X_API_Key": "of-alice"},
        {"Cookie": "key=of-alice"},
    ],
)
def test_no_valid_key_is_401(ports: Ports, headers: Headers) -> None:
    before = ports.rejected("unauthorized")
    for path in ("/v1/models/m:predict", "/v2", "/playground/models", "/nowhere", "/v2?key=of-alice"):
        rejection = ports.admit(path, headers)
        assert (rejection.status, rejection.headers) == (401, (("www-authenticate", 'Bearer realm="models"'),))
        assert orjson.loads(rejection.body) == {
            "error": "this needs an API key that counts, as Authorization: Bearer <key> or X-API-Key: <key>"
        }
    assert ports.rejected("unauthorized") == before + 5


@pytest.mark.parametrize("path", ["models/m/load", "models/m/unload?a=b", "%6dodels/m/load", "models%2Fm%2Fload"])
def test_load_and_unload_need_the_scope_admin(ports: Ports, path: str) -> None:
    before = ports.rejected("forbidden")
    rejection = ports.admit(f"/v2/repository/{path}", PREDICT)
    assert (rejection.status, ports.rejected("forbidden") - before, ports.request.key_name) == (403, 1, "alice")
    assert b"needs the scope admin" in rejection.body
    for allowed in (f"/v2/repository/{path}", "/v2/models/m/infer"):
        assert ports.admit(allowed, ADMIN) is ADMITTED


def test_feedback_needs_its_scope_or_admin(ports: Ports) -> None:
    path, before = "/v1/models/m:feedback", ports.rejected("forbidden")
    rejection = ports.admit(path, PREDICT)
    assert (rejection.status, ports.rejected("forbidden") - before) == (403, 1)
    assert b"needs the scope feedback" in rejection.body
    assert ports.admit(path).status == 401
    assert (ports.admit(path, FEEDBACK), ports.admit(path, ADMIN)) == (ADMITTED, ADMITTED)


def test_scope_feedback_may_predict_and_not_load(ports: Ports) -> None:
    assert ports.admit("/v1/models/m:predict", FEEDBACK) is ADMITTED
    assert ports.admit("/v2/repository/models/m/load", FEEDBACK).status == 403


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
def test_port_for_operations_has_health_and_metrics_alone(build: Build, keys: str) -> None:
    ports = build(keys, operations_port=1234)
    for path in (*HEALTH, *METRICS):
        assert ports.admit(path, port=OPERATIONS, body=b"") is ADMITTED
        assert ports.admit(path, port=OPERATIONS).status == 404
    for path in ("/v1/models/m:predict", "/v2", "/"):
        assert ports.admit(path, ADMIN, port=OPERATIONS).status == 404
    # The main port beside it has no metrics, and health for keys.
    without_key = 401 if keys else 200
    for path in (*METRICS, "/%6detrics"):
        assert ports.admit(path).status == (401 if keys else 404)
        rejection = ports.admit(path, ADMIN)
        assert (rejection.status, rejection.body) == (404, b'{"error":"no such route"}')
    for path in (*HEALTH, "/v1/models"):
        assert ports.admit(path, body=b"").status == without_key
        assert ports.admit(path, PREDICT) is ADMITTED


def test_rate_limit_is_per_key_and_for_what_is_admitted(build: Build) -> None:
    ports = build(rate_limit="2/hour")
    assert ports.statuses(2, "/v2", {"X-API-Key": "wrong"}) == [401, 401]
    assert ports.statuses(2, "/v2/repository/models/m/load", PREDICT) == [403, 403]
    assert [ports.admit("/metrics", PREDICT, body=b"") for _ in range(3)] == [ADMITTED] * 3
    assert ports.statuses(3, "/v2", PREDICT) == [200, 200, 429]
    rejection = ports.admit("/v1/models", PREDICT)
    ((name, seconds),) = rejection.headers
    assert (rejection.status, name) == (429, "retry-after")
    assert re.fullmatch(r"3(600|59\d)", seconds)
    assert b"no more than 2 requests in 3600 s are taken; come again in 3" in rejection.body
    assert ports.rejected("rate_limited") == 2
    assert ports.admit("/v2", ADMIN) is ADMITTED


@pytest.mark.parametrize(("limit", "statuses"), [("1/hour", [200, 429, 429]), ("", [200, 200, 200])])
def test_key_may_have_its_own_rate_limit(build: Build, limit: str, statuses: list[int]) -> None:
    ports = build(f'{KEYS}\nrate_limit = "{limit}"', rate_limit="2/hour")
    assert ports.statuses(3, "/v2", ADMIN) == statuses
    assert ports.statuses(3, "/v2", PREDICT) == [200, 200, 429]


def test_rate_limit_without_keys_is_for_all_clients(build: Build) -> None:
    ports = build("", rate_limit="2/hour")
    assert ports.statuses(3, "/v2") == [200, 200, 429]
    assert ports.admit("/v2/health/ready", body=b"") is ADMITTED


# The rate of rejections

AT_ONCE = round(MAX_SAVED_SECONDS / REJECTION_SECONDS)
# Until there is time for so many as at once.
SECONDS = MAX_SAVED_SECONDS / MAX_REJECTION_SHARE


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    monkeypatch.setattr("service.server.admission.perf_counter", clock := FakeClock())
    return clock


@pytest.fixture
def rejections(metrics: Metrics, clock: FakeClock) -> Rejections:
    return Rejections(metrics)


def waiting(responses: "list[Response | asyncio.Future[Response]]") -> "list[asyncio.Future[Response]]":
    """Those that are futures; they come last."""
    futures = [response for response in responses if isinstance(response, asyncio.Future)]
    assert responses[len(responses) - len(futures) :] == futures
    return futures


def queue_full(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("serving_rejected_total", {"reason": "queue_full"})


async def test_some_rejections_are_sent_at_once_and_the_others_in_their_order_later(
    metrics: Metrics, rejections: Rejections, clock: FakeClock
) -> None:
    unauthorized, context = Response(401, b"no key"), RequestContext()
    responses = [rejections.respond(context, unauthorized) for _ in range(2 * AT_ONCE)]
    later = waiting([*responses, rejections.queue_full(context, "no")])
    assert len(later) in (AT_ONCE + 1, AT_ONCE + 2)
    clock.now += SECONDS / 2
    assert await later[0] is unauthorized
    assert sum(response.done() for response in later) == pytest.approx(AT_ONCE / 2, abs=2)
    # A client that has left costs nothing.
    for response in later[:-1]:
        response.cancel()
    clock.now += SECONDS / 100
    last = await later[-1]
    assert (last.status, last.body, last.headers) == (429, b'{"error":"no"}', (("retry-after", "1"),))
    # Admission has counted the others.
    assert queue_full(metrics) == 1


async def test_waiting_client_is_rejected_in_the_same_queue(metrics: Metrics, rejections: Rejections) -> None:
    response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    rejections.settle_queue_full(response, RequestContext(), "not in time")
    (behind,) = waiting([rejections.queue_full(RequestContext(), "no")])
    assert (await response).body == b'{"error":"not in time"}'
    await behind
    assert queue_full(metrics) == 2


async def test_bodies_of_any_length_are_rejected(rejections: Rejections, clock: FakeClock) -> None:
    long = RequestContext({}, 10**9)
    (second,) = waiting([rejections.queue_full(long, "no") for _ in range(2)])
    clock.now += 2 * SECONDS
    assert (await second).status == 429


def test_metrics_may_have_another_path() -> None:
    seen: list[bytes] = []

    def admit(admitted: Request) -> None:
        seen.append(admitted.target)

    for target in (b"/my/metrics", b"/my/metrics?x=1", b"/my/metrics/more", b"/v2"):
        with_metrics_at(admit, "/my/metrics")(request(target))
    assert seen == [b"/metrics", b"/metrics", b"/my/metrics/more", b"/v2"]
