from typing import Any

import orjson
import pytest

from service.api.routes import ROUTES, TABLE, Table, parse_version, table_of
from service.errors import InvalidRequest
from service.settings import Settings
from tests.unit.service.fakes import request


@pytest.mark.parametrize(
    ("method", "target", "endpoint", "parameters"),
    [
        ("POST", b"/v1/models/m:predict", "v1.predict", {"model": "m"}),
        ("POST", b"/v1/models/m/versions/2:classify?top_k=1", "v1.classify", {"model": "m", "version": "2"}),
        ("POST", b"/v1/models/m/labels/a:b:regress", "v1.regress", {"model": "m", "label": "a:b"}),
        ("POST", b"/v1/models/%C3%BC%20b:predict", "v1.predict", {"model": "ü b"}),
        ("POST", b"/v2/models/m/versions/2/infer", "v2.infer", {"model": "m", "version": "2"}),
        ("POST", b"/v1/models/m/versions/2:feedback", "v1.feedback", {"model": "m", "version": "2"}),
        ("HEAD", b"/v1/models/m", "v1.status", {"model": "m"}),
        ("GET", b"/v2/models/stats", "v2.all_stats", {}),
        ("GET", b"/v2/models/stats/stats", "v2.stats", {"model": "stats"}),
        ("GET", b"/static/views/try.js", "pages.static", {"file": "views/try.js"}),
        ("GET", b"/%6detrics", "operations.metrics", {}),
    ],
)
def test_find(method: str, target: bytes, endpoint: str, parameters: dict[str, str]) -> None:
    match = TABLE.find(method, target)
    assert match is not None
    assert (match.route.endpoint, match.parameters) == (endpoint, parameters)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", b""),
        ("GET", b"//metrics"),
        ("GET", b"/metrics/"),
        ("GET", b"/METRICS"),
        ("POST", b"/metrics"),
        ("GET", b"/static"),
        ("POST", b"/v1/models/a/b:predict"),
        ("POST", b"/v1/models/a%2Fb:predict"),
        ("POST", b"/v1/models/a:b:predict"),
        ("POST", b"/v2/repository/models/a/b/load"),
        # As TensorFlow Serving's http_rest_api_util_test.cc has it
        ("GET", b"/v1/foo"),
        ("GET", b"/v1/models/debug/model"),
        ("POST", b"/v1/models/:predict"),
        ("POST", b"/v1/models/m:explain"),
        ("POST", b"/v1/models/m:PREDICT"),
        ("POST", b"/v1/models/m/labels/stable:feedback"),
        ("POST", b"/v1/models/m:predict/"),
        ("POST", b"/v1/models/m/version/50:regress"),
        ("POST", b"/v1/models/m/label/some_label:regress"),
        ("POST", b"/v1/models/m/versions/50/labels/some_label:regress"),
        ("POST", b"/v1/models/m/labels/some_label/versions/50:regress"),
        ("GET", b"/v1/models/m/metadata/more"),
    ],
)
def test_unknown_path(method: str, target: bytes) -> None:
    assert TABLE.find(method, target) is None


@pytest.mark.parametrize(
    ("text", "version"), [(None, None), ("0", 0), ("0002", 2), ("0" * 5_000 + "2", 2), (str(2**63 - 1), 2**63 - 1)]
)
def test_parse_version(text: str | None, version: int | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["HELLO", "", "-1", "+1", "1.0", " 1", "٣", str(2**63), str(2**64 - 1), "9" * 5_000])
def test_parse_version_error(text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_version(text)
    assert str(raised.value).startswith(
        f"Malformed request: Failed to convert version: {text[:40]} to numeric; expected"
    )


def test_long_paths_are_not_cached() -> None:
    table = Table()
    path = b"/v1/models/" + b"x" * 300 + b":predict"
    assert table.find("POST", path) == table.find("POST", path)
    assert table.find("POST", path) is not table.find("POST", path)


def test_routes_are_unique() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize(
    ("method", "target", "status", "message"),
    [
        ("GET", b"/nowhere?x=1", 404, "no such route: GET /nowhere"),
        (
            "POST",
            b"/inference.GRPCInferenceService/ServerLive",
            415,
            "/inference.GRPCInferenceService/ServerLive is a method of gRPC: it takes HTTP/2 and the content type "
            "application/grpc",
        ),
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
    response = TABLE.no_route(request(target, method=method))
    assert (response.status, orjson.loads(response.body)) == (status, {"error": message})


@pytest.mark.parametrize(
    ("method", "target", "status", "allowed"),
    [
        ("OPTIONS", b"*", 200, "GET, HEAD, OPTIONS, POST"),
        ("OPTIONS", b"/v1/models/m:predict", 200, "OPTIONS, POST"),
        ("DELETE", b"/v1/models/m", 405, "GET, HEAD, OPTIONS"),
        ("POST", b"/v1/models/m", 405, "GET, HEAD, OPTIONS"),
        ("POST", b"/v1/models", 405, "GET, HEAD, OPTIONS"),
        ("POST", b"/v1/models/m/versions/1/metadata", 405, "GET, HEAD, OPTIONS"),
        ("GET", b"/v2/models/m/infer", 405, "OPTIONS, POST"),
        ("OPTIONS", b"/nowhere", 404, None),
    ],
)
def test_allow(method: str, target: bytes, status: int, allowed: str | None) -> None:
    response = TABLE.no_route(request(target, method=method))
    assert (response.status, dict(response.headers).get("allow")) == (status, allowed)


@pytest.mark.parametrize(
    ("settings", "method", "target", "endpoint"),
    [
        ({"sagemaker": "on"}, "GET", b"/ping", "operations.ready"),
        ({"sagemaker": "on"}, "POST", b"/invocations", "sagemaker.predict"),
        ({"sagemaker": "on"}, "GET", b"/models", None),
        # Healthy without a model.
        ({"sagemaker": "multi_model"}, "GET", b"/ping", "operations.live"),
        ({"sagemaker": "multi_model"}, "DELETE", b"/models/m", "sagemaker.unload"),
        ({"sagemaker": "multi_model"}, "POST", b"/models/m/invoke", "sagemaker.predict"),
        ({"predict_path": "/a:predict", "health_path": "/a"}, "POST", b"/a:predict", "vertex_ai.predict"),
        ({"predict_path": "/a:predict", "health_path": "/a"}, "GET", b"/a", "operations.ready"),
        # Its model is in its path.
        ({"predict_path": "/v1/models/m:predict"}, "POST", b"/v1/models/m:predict", "v1.predict"),
        ({"health_path": "/v1/models/m"}, "GET", b"/v1/models/m", "operations.ready"),
        ({}, "GET", b"/ping", None),
        ({}, "POST", b"/invocations", None),
    ],
)
def test_routes_of_clouds(settings: dict[str, Any], method: str, target: bytes, endpoint: str | None) -> None:
    match = table_of(Settings(**settings)).find(method, target)
    assert (match and match.route.endpoint) == endpoint


def test_methods_of_the_server_are_those_of_its_routes() -> None:
    response = table_of(Settings(sagemaker="multi_model")).no_route(request(b"*", method="OPTIONS"))
    assert dict(response.headers)["allow"] == "DELETE, GET, HEAD, OPTIONS, POST"
