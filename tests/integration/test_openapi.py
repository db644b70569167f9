"""Answers are as the OpenAPI document says, whatever is asked."""

import re
from collections.abc import Iterator
from pathlib import Path
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

from service.api.openapi.document import document
from tests.integration.conftest import SHIPPED
from tests.integration.server import Server, running

PICTURE = (SHIPPED / "clothing/2/assets.extra/sample.png").read_bytes()
DOCUMENT = document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that clients may tell to load and unload, for those routes, too, are tried."""
    with running(SHIPPED, tmp_path_factory.mktemp("log") / "service.log", admin=1, max_body_bytes=1_000_000) as server:
        yield server


def examples() -> Iterator[Any]:
    """(path, the same with names filled in, body) of every example, whose summary says which model it is for."""
    for path, item in DOCUMENT["paths"].items():
        content = item.get("post", {}).get("requestBody", {}).get("content", {})
        for name, example in content.get("application/json", {}).get("examples", {}).items():
            models = re.findall(r"\(model (\w+)\)", example["summary"])
            filled = path.replace("{model}", *models or [""]).replace("{version}", "1")
            if "{label}" not in filled:
                yield pytest.param(path, filled, example["value"], id=f"{filled} {name}")


def validator(path: str, method: str) -> Any:
    answer = DOCUMENT["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    return jsonschema_rs.Draft202012Validator({**answer, "components": DOCUMENT["components"]})


@pytest.mark.parametrize(("path", "filled", "body"), list(examples()))
def test_every_example_works_and_is_answered_as_documented(
    service: Server, path: str, filled: str, body: object
) -> None:
    answer = service.request(filled, body)
    assert answer.status == 200, answer.body
    validator(path, "post").validate(answer.json())


@pytest.mark.parametrize(
    ("path", "filled"),
    [
        (path, path.replace("{model}", "clothing").replace("{version}", "2"))
        for path, item in DOCUMENT["paths"].items()
        if "get" in item and "application/json" in item["get"]["responses"]["200"]["content"] and "{label}" not in path
        if "{file}" not in path
    ],
)
def test_every_description_has_the_documented_form(service: Server, path: str, filled: str) -> None:
    answer = service.request(filled)
    assert answer.status == 200
    validator(path, "get").validate(answer.json())


def test_a_picture_is_answered_as_documented(service: Server) -> None:
    path = "/v1/models/{model}:classify"
    answer = service.request("/v1/models/clothing:classify?top_k=2", PICTURE, "image/png")
    validator(path, "post").validate(answer.json())
    assert "Outlier-Score" in {name.title() for name in answer.headers}
    path = "/playground/models/{model}/versions/{version}/occlusion"
    answer = service.request("/playground/models/clothing/versions/2/occlusion", PICTURE, "image/png")
    validator(path, "post").validate(answer.json())


@SCHEMA.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_is_answered_as_documented(case: Any, service: Server) -> None:
    # Names made up are all unknown; of most routes the answer is of interest where there is such a model.
    if case.path_parameters and len(case.path_parameters["model"]) % 2:
        case.path_parameters["model"] = "regression"
    # Who asks for an answer within a millisecond may well get a 504.
    if case.headers:
        case.headers.pop("X-Request-Timeout-Ms", None)
    case.call_and_validate(base_url=f"http://127.0.0.1:{service.port}", checks=CHECKS, timeout=60)


def test_the_service_is_whole_after_all_that(service: Server) -> None:
    service.request("/v2/repository/models/regression/load", b"")
    assert service.request("/v1/models/regression:predict", {"instances": [10.0]}).status == 200
    assert "Traceback" not in service.log.read_text()
    assert Path(service.log).stat().st_size > 0
