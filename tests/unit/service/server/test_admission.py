"""Who gets in by which port, over a connection of the server."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from service import App, create_app
from service.api import routes
from service.http import Request, Response
from service.server.connection import Connections, HttpConnection
from service.settings import Settings
from tests.unit.service.fakes import FakeTransport

PREDICT, ADMIN = "of-alice", "of-bob"
KEYS = "\n".join(
    f'[keys.{name}]\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\nscope = "{scope}"'
    for name, key, scope in (("alice", PREDICT, "predict"), ("bob", ADMIN, "admin"))
)
MAIN, OPERATIONS = 0, 1
HEALTH = ("/v2/health/live", "/v2/health/ready")
METRICS = ("/metrics", "/monitoring/prometheus/metrics")


@dataclass
class Inside:
    """Responds to what is admitted."""

    requests: list[Request] = field(default_factory=list)

    def dispatch(self, request: Request) -> Response:
        self.requests.append(request)
        return Response(200, b"inside")

    def reject(self, rejection: Response, request: Request) -> Response:
        return rejection

    def count_rejected(self, reason: str) -> None: ...


@dataclass
class House:
    app: App
    inside: Inside = field(default_factory=Inside)

    def connect(self, port: int = MAIN) -> tuple[HttpConnection, FakeTransport]:
        connection = HttpConnection(self.inside, Connections(), 1000, self.app.admits[port])
        transport = FakeTransport()
        connection.connection_made(transport)
        return connection, transport

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, port: int = MAIN, body: bytes = b"body"
    ) -> "Got":
        connection, transport = self.connect(port)
        method = "GET" if routes.find("GET", path.encode()) else "POST"
        lines = [f"Content-Length: {len(body)}", *map(": ".join, (headers or {}).items())]
        connection.data_received(
            "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines]).encode() + b"\r\n\r\n" + body
        )
        head, _, body = transport.written.partition(b"\r\n\r\n")
        return Got(int(head.split()[1]), head.decode(), body)

    def rejected(self, reason: str) -> float | None:
        value: float | None = self.app.metrics.registry.get_sample_value("serving_rejected_total", {"reason": reason})
        return value


@dataclass
class Got:
    status: int
    head: str
    body: bytes


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., House]:
    def make(*, keys: bool = True, **settings: Any) -> House:
        if keys:
            (tmp_path / "keys.toml").write_text(KEYS)
            settings["api_keys_file"] = str(tmp_path / "keys.toml")
        return House(create_app(Settings(models=tmp_path, **settings)))

    return make


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {PREDICT}"},
        {"authorization": f"bearer  {PREDICT}"},
        {"X-API-Key": PREDICT},
        {"x-api-key": PREDICT, "Authorization": "Basic eDp5"},
    ],
)
def test_who_has_a_key_gets_in(house: House, headers: dict[str, str]) -> None:
    assert house.ask("/v1/models/m:predict", headers).status == 200
    assert house.inside.requests[0].body == b"body"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": PREDICT},
        {"Authorization": f"Basic {PREDICT}"},
        {"Authorization": f"Bearer{PREDICT}"},
        {"Authorization": f"Bearer {PREDICT}x"},
        {"Authorization": f"Bearer {PREDICT},Bearer {PREDICT}"},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {PREDICT}"},
        {"X-API-Key": hashlib.sha256(PREDICT.encode()).hexdigest()},
        {"X_API_Key": PREDICT},
        {"Cookie": f"key={PREDICT}"},
    ],
)
def test_who_has_none_is_told_the_same_whatever_came_and_nothing_gets_in(house: House, headers: dict[str, str]) -> None:
    for path in ("/v1/models/m:predict", "/v2", "/playground/models", "/nowhere", f"/v2?key={PREDICT}"):
        got = house.ask(path, headers)
        assert got.status == 401
        assert '\r\nwww-authenticate: Bearer realm="models"' in got.head
        assert orjson.loads(got.body) == {
            "error": "this needs an API key that counts, as Authorization: Bearer <key> or X-API-Key: <key>"
        }
    assert house.inside.requests == []
    assert house.rejected("unauthorized") == 5


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/models/m/load",
        "/v2/repository/models/m/unload?a=b",
        "/v2/repository/%6dodels/m/load",
        "/v2/repository%2Fmodels%2Fm%2Fload",
        "http://x/v2/repository/models/m/load",
    ],
)
def test_to_load_and_unload_takes_a_key_for_that_however_the_path_is_written(house: House, path: str) -> None:
    got = house.ask(path, {"X-API-Key": PREDICT})
    assert (got.status, house.rejected("forbidden")) == (403, 1)
    assert b"needs the scope admin" in got.body
    assert house.ask(path, {"X-API-Key": ADMIN}).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v2/repository/index", "/v2/models/m/infer"])
def test_who_may_load_may_do_all_else(house: House, path: str) -> None:
    assert house.ask(path, {"X-API-Key": ADMIN}).status == 200


@pytest.mark.parametrize("path", [*HEALTH, *METRICS, "/metrics?a=b", "/", "/static/main.js", "/docs", "/openapi.json"])
def test_health_metrics_and_pages_need_no_key_unless_a_body_comes_with_it(house: House, path: str) -> None:
    assert house.ask(path, body=b"").status == 200
    assert house.ask(path).status == 401
    assert house.ask(path, {"X-API-Key": PREDICT}).status == 200


@pytest.mark.parametrize(
    "path", ["/metrics/", "//metrics", "/v2/health", "/v2/health/ready/x", "/METRICS", "//", "/static", "/%2fstatic/"]
)
def test_what_only_looks_like_them_needs_a_key(house: House, path: str) -> None:
    assert house.ask(path, body=b"").status == 401


@pytest.mark.parametrize("keys", [True, False])
def test_health_and_metrics_on_a_port_of_their_own_are_answered_there_and_nothing_else_is(
    build: Callable[..., House], keys: bool
) -> None:
    house = build(keys=keys, operations_port=1234)
    for path in (*HEALTH, *METRICS):
        assert house.ask(path, port=OPERATIONS, body=b"").status == 200
        assert house.ask(path, port=OPERATIONS).status == 404
    for path in ("/v1/models/m:predict", "/v2", "/"):
        assert house.ask(path, {"X-API-Key": ADMIN}, port=OPERATIONS).status == 404


def test_then_the_main_port_has_no_metrics_and_health_for_who_has_a_key(build: Callable[..., House]) -> None:
    house = build(operations_port=1234)
    for path in (*METRICS, "/%6detrics"):
        assert house.ask(path).status == 401
        got = house.ask(path, {"X-API-Key": ADMIN})
        assert (got.status, got.body) == (404, b'{"error":"no such route"}')
    for path in HEALTH:
        assert house.ask(path, body=b"").status == 401
        assert house.ask(path, {"X-API-Key": PREDICT}).status == 200


def test_then_and_without_keys_the_main_port_has_health_for_everybody(build: Callable[..., House]) -> None:
    house = build(keys=False, operations_port=1234)
    assert [house.ask(path).status for path in ("/v2/health/live", "/v1/models", "/metrics")] == [200, 200, 404]


def test_a_key_gets_in_as_often_as_its_limit_says_and_others_have_their_own(build: Callable[..., House]) -> None:
    house = build(rate_limit="2/hour")
    assert [house.ask("/v2", {"X-API-Key": PREDICT}).status for _ in range(3)] == [200, 200, 429]
    got = house.ask("/v1/models", {"X-API-Key": PREDICT})
    assert (got.status, len(house.inside.requests)) == (429, 2)
    assert re.search(r"\r\nretry-after: 3(600|59\d)$", got.head)
    assert b"no more than 2 requests in 3600 s are taken; come again in 3" in got.body
    assert house.rejected("rate_limited") == 2
    assert house.ask("/v2", {"X-API-Key": ADMIN}).status == 200


def test_what_is_refused_or_needs_no_key_does_not_count(build: Callable[..., House]) -> None:
    house = build(rate_limit="1/hour")
    for headers in ({"X-API-Key": "wrong"}, {}):
        assert house.ask("/v2", headers).status == 401
    assert house.ask("/v2/repository/models/m/load", {"X-API-Key": PREDICT}).status == 403
    for _ in range(3):
        assert house.ask("/metrics", {"X-API-Key": PREDICT}, body=b"").status == 200
    assert house.ask("/v2", {"X-API-Key": PREDICT}).status == 200


@pytest.mark.parametrize(("limit", "statuses"), [("1/hour", [200, 429, 429]), ("", [200, 200, 200])])
def test_a_key_may_have_a_limit_of_its_own(
    build: Callable[..., House], tmp_path: Path, limit: str, statuses: list[int]
) -> None:
    (tmp_path / "own.toml").write_text(f'{KEYS}\nrate_limit = "{limit}"')
    house = build(keys=False, rate_limit="2/hour", api_keys_file=str(tmp_path / "own.toml"))
    assert [house.ask("/v2", {"X-API-Key": ADMIN}).status for _ in range(3)] == statuses
    assert [house.ask("/v2", {"X-API-Key": PREDICT}).status for _ in range(3)] == [200, 200, 429]


def test_without_keys_the_limit_is_for_all_clients_together(build: Callable[..., House]) -> None:
    house = build(keys=False, rate_limit="2/hour")
    assert [house.ask("/v2").status for _ in range(3)] == [200, 200, 429]
    assert house.ask("/v2/health/ready", body=b"").status == 200


def test_it_is_known_whose_key_a_request_came_with_also_where_it_is_refused(house: House) -> None:
    logged: list[tuple[str, int]] = []

    def log(request: Request, status: int, _body_bytes: int) -> None:
        logged.append((request.key_name, status))

    connection = HttpConnection(house.inside, Connections(), 10, house.app.admits[MAIN], log)
    connection.connection_made(FakeTransport())
    for path, length in (("/v2", 0), ("/v2/repository/models/m/load", 0), ("/v2", 11)):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nX-API-Key: {PREDICT}\r\n\r\n"
        connection.data_received(head.encode())
    assert logged == [("alice", 200), ("alice", 403), ("", 413)]


@pytest.mark.parametrize("framing", ["Content-Length: 400", "Transfer-Encoding: chunked"])
def test_the_body_of_who_does_not_get_in_is_not_kept_and_the_connection_is(house: House, framing: str) -> None:
    connection, transport = house.connect()
    connection.data_received(f"POST /v2 HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
    assert transport.written == b""
    if "chunked" in framing:
        connection.data_received(b"190\r\n")
    connection.data_received(b"x" * 400)
    assert connection._parser._body == b""
    if "chunked" in framing:
        connection.data_received(b"\r\n0\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 401 ")
    assert not transport.is_closing()
    connection.data_received(f"GET /v2 HTTP/1.1\r\nHost: x\r\nX-API-Key: {PREDICT}\r\n\r\n".encode())
    assert transport.written.endswith(b"inside")


def test_who_waits_to_be_told_is_told_at_once(house: House) -> None:
    connection, transport = house.connect()
    connection.data_received(b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\nExpect: 100-continue\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in transport.written
    connection.data_received(b"x" * 400)
    assert transport.is_closing()
    assert house.inside.requests == []


def test_pipelined_refusals_are_answered_in_their_order(house: House) -> None:
    async def scenario() -> None:
        connection, transport = house.connect()
        keyed = f"GET /v2 HTTP/1.1\r\nHost: x\r\nX-API-Key: {PREDICT}\r\n\r\n".encode()
        connection.data_received(keyed + b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" + keyed)
        statuses = [part[:3] for part in transport.written.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200", b"401", b"200"]

    asyncio.run(scenario())
