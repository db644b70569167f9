import orjson
import pytest

from service.api.routes import ROUTES, find, no_route
from tests.unit.service.fakes import request


@pytest.mark.parametrize(
    ("method", "target", "endpoint", "parameters"),
    [
        ("POST", b"/v1/models/m:predict", "v1.predict", {"model": "m"}),
        ("POST", b"/v1/models/m/versions/2:classify?top_k=1", "v1.classify", {"model": "m", "version": "2"}),
        ("POST", b"/v1/models/m/labels/a:b:regress", "v1.regress", {"model": "m", "label": "a:b"}),
        ("POST", b"/v1/models/%C3%BC%20b:predict", "v1.predict", {"model": "ü b"}),
        ("POST", b"/v2/models/m/versions/2/infer", "v2.infer", {"model": "m", "version": "2"}),
        ("HEAD", b"/v1/models/m", "v1.status", {"model": "m"}),
        ("GET", b"/v2/models/stats", "v2.all_stats", {}),
        ("GET", b"/v2/models/stats/stats", "v2.stats", {"model": "stats"}),
        ("GET", b"/static/views/try.js", "pages.static", {"file": "views/try.js"}),
        ("GET", b"/%6detrics", "operations.metrics", {}),
    ],
)
def test_find(method: str, target: bytes, endpoint: str, parameters: dict[str, str]) -> None:
    match = find(method, target)
    assert match is not None
    assert (match.route.endpoint, match.parameters) == (endpoint, parameters)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", b"//metrics"),
        ("GET", b"/metrics/"),
        ("GET", b"/METRICS"),
        ("POST", b"/metrics"),
        ("POST", b"/v1/models/a/b:predict"),
        ("POST", b"/v1/models/a%2Fb:predict"),
        ("POST", b"/v1/models/a:b:predict"),
        ("POST", b"/v1/models/:predict"),
        ("POST", b"/v1/models/m:frobnicate"),
        ("GET", b"/static"),
        ("GET", b""),
    ],
)
def test_what_only_looks_like_a_route_is_none(method: str, target: bytes) -> None:
    assert find(method, target) is None


def test_long_paths_are_not_cached() -> None:
    find.__globals__["_find"].cache_clear()
    path = b"/v1/models/" + b"x" * 300 + b":predict"
    assert find("POST", path) == find("POST", path)
    assert find.__globals__["_find"].cache_info().currsize == 0


def test_no_two_routes_are_alike() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize(
    ("method", "target", "status", "message"),
    [
        ("GET", b"/nowhere?x=1", 404, "no such route: GET /nowhere"),
        ("GET", b"/v1/nowhere", 400, "Malformed request: GET /v1/nowhere"),
        ("POST", b"/v1/models/x:frobnicate", 400, "Malformed request: POST /v1/models/x:frobnicate"),
        ("GET", b"//metrics", 400, "Malformed request: the path begins with more than one slash"),
        ("POST", b"/docs", 405, "/docs does not take POST; it takes GET, HEAD, OPTIONS"),
        (
            "GET",
            b"/v1/models/m:predict",
            405,
            "Malformed request: GET /v1/models/m:predict: /v1/models/m:predict does not take GET; it takes "
            "OPTIONS, POST",
        ),
    ],
)
def test_no_route(method: str, target: bytes, status: int, message: str) -> None:
    response = no_route(request(target, method=method))
    assert (response.status, orjson.loads(response.body)) == (status, {"error": message})


@pytest.mark.parametrize(
    ("method", "target", "status", "allowed"),
    [
        ("OPTIONS", b"*", 200, "GET, HEAD, OPTIONS, POST"),
        ("OPTIONS", b"/v1/models/m:predict", 200, "OPTIONS, POST"),
        ("DELETE", b"/v1/models/m", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", b"/nowhere", 404, None),
    ],
)
def test_allow(method: str, target: bytes, status: int, allowed: str | None) -> None:
    response = no_route(request(target, method=method))
    assert (response.status, dict(response.headers).get("allow")) == (status, allowed)
