"""The document says what the routes are, and nothing else."""

from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.api.openapi.document import document
from service.api.routes import ROUTES
from tests.unit.service.fakes import FakeService

METHODS = ("get", "post", "put", "delete", "patch")
# What pages are made of is nobody's interface.
UNDOCUMENTED = {("get", "/static/{file}")}


def routes() -> set[tuple[str, str]]:
    return {(route.method.lower(), route.path) for route in ROUTES}


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): item[method]
        for path, item in document()["paths"].items()
        for method in METHODS
        if method in item
    }


def test_it_is_a_valid_document_of_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_it_has_every_route_and_no_other() -> None:
    assert set(operations()) == routes() - UNDOCUMENTED


def test_every_operation_has_a_name_of_its_own_and_says_what_it_does() -> None:
    names = [operation["operationId"] for operation in operations().values()]
    assert len(names) == len(set(names))
    assert all(operation["summary"] and operation["tags"] for operation in operations().values())


def test_every_part_is_used() -> None:
    parts = document()["components"]
    text = str(document())
    for kind in ("schemas", "parameters", "headers", "responses"):
        for name in parts[kind]:
            assert f"#/components/{kind}/{name}'" in text, (kind, name)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_it_is_served(service: FakeService, path: str) -> None:
    answer = service.get(path)
    assert answer.status_code == 200
    assert answer.mimetype == ("text/html" if path == "/docs" else "application/json")


def test_what_is_served_is_the_document(service: FakeService) -> None:
    assert service.get("/openapi.json").get_json() == document()
