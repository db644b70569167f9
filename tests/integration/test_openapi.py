"""Responses match the OpenAPI document, whatever the request."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api.openapi import document
from tests.integration.server import EAGER, PREDICT, SHIPPED, TEN, Server, running

PICTURE = (SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()
DOCUMENT = document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Clients may load and unload: those routes are tried too. It has answered the requests of feedback's examples."""
    with running(
        SHIPPED, tmp_path_factory.mktemp("log") / "service.log", admin=1, max_body_bytes=1_000_000, poll_seconds=EAGER
    ) as server:
        for request_id, rows in (("order-17", 1), ("order-18", 3)):
            body = {"instances": [[[0] * 28] * 28] * rows}
            server.request("/v1/models/clothing/versions/1:predict", body, headers={"X-Request-ID": request_id})
        yield server


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """The component that a $ref points to; anything else as it is."""
    if "$ref" not in part:
        return part
    kind, name = part["$ref"].split("/")[-2:]
    component: dict[str, Any] = DOCUMENT["components"][kind][name]
    return component


def content_of(operation: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = resolved(operation["responses"]["200"])["content"]
    return content


def examples() -> Iterator[Any]:
    """(path, path with the names filled in, body) of every example. Its summary names its model."""
    for path, item in DOCUMENT["paths"].items():
        content = resolved(item.get("post", {}).get("requestBody", {})).get("content", {})
        for name, example in content.get("application/json", {}).get("examples", {}).items():
            models = re.findall(r"\(model (\w+)\)", example["summary"])
            filled = path.replace("{model}", *models or [""]).replace("{version}", "1")
            if "{label}" not in filled:
                yield pytest.param(path, filled, example["value"], id=f"{filled} {name}")


def validator(path: str, method: str) -> Any:
    schema = content_of(DOCUMENT["paths"][path][method])["application/json"]["schema"]
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@pytest.mark.parametrize(("path", "filled", "body"), list(examples()))
def test_example_gets_the_documented_response(service: Server, path: str, filled: str, body: object) -> None:
    response = service.request(filled, body)
    assert response.status == 200, response.body
    validator(path, "post").validate(response.json())


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, item in DOCUMENT["paths"].items()
        if "get" in item and "application/json" in content_of(item["get"])
        if "{label}" not in path and "{file}" not in path
    ],
)
def test_get_returns_the_documented_form(service: Server, path: str) -> None:
    response = service.request(path.replace("{model}", "clothing").replace("{version}", "2"))
    assert response.status == 200
    validator(path, "get").validate(response.json())


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/models/{model}:classify", "?top_k=2"),
        ("/playground/models/{model}/versions/{version}/occlusion", ""),
    ],
)
def test_picture_gets_the_documented_response(service: Server, path: str, query: str) -> None:
    filled = path.replace("{model}", "clothing").replace("{version}", "2")
    validator(path, "post").validate(service.request(filled + query, PICTURE, "image/png").json())


@SCHEMA.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_request_gets_a_documented_response(case: Any, service: Server) -> None:
    # Generated names are all unknown: half of the requests get a model that exists.
    if case.path_parameters and len(case.path_parameters["model"]) % 2:
        case.path_parameters["model"] = "regression"
    # A deadline of a millisecond may end in a 504, at random.
    if case.headers:
        case.headers.pop("X-Request-Timeout-Ms", None)
    case.call_and_validate(base_url=f"http://127.0.0.1:{service.port}", checks=CHECKS, timeout=60)


def test_service_still_predicts(service: Server) -> None:
    service.request("/v2/repository/models/regression/load", b"")
    assert service.request(PREDICT, TEN).status == 200
    assert "Traceback" not in service.log.read_text()
