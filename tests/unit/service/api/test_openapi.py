"""The OpenAPI document matches the routes, the datatypes and the pictures of the service."""

import re
import tomllib
from pathlib import Path
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from service.api.openapi import document
from service.api.routes import ROUTES
from service.api.v2.decode import HEAD_LENGTH
from service.inference.version import State
from service.tensors.dtypes import DATATYPES
from service.tensors.image_file import FORMATS
from tests.unit.service.fakes import FakeService

# Scripts and styles are part of the pages.
UNDOCUMENTED = {("get", "/static/{file}")}


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, item in document()["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def test_document_is_valid_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_operations_are_the_routes() -> None:
    assert set(operations()) == {(route.method.lower(), route.path) for route in ROUTES} - UNDOCUMENTED


def test_every_operation_has_a_summary_a_known_tag_and_the_shared_errors() -> None:
    tags = {tag["name"] for tag in document()["tags"]}
    statuses = {"400", "401", "403", "404", "405", "408", "413", "415", "429", "431", "500", "503", "504"}
    for key, operation in operations().items():
        assert operation["summary"]
        assert set(operation["tags"]) <= tags
        assert set(operation["responses"]) == statuses | {"200"}, key


def test_own_response_replaces_the_shared_one() -> None:
    unready = operations()["get", "/v2/health/ready"]["responses"]["503"]
    assert unready["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Health"}


def test_references_are_the_components() -> None:
    parts = document()
    schemes = parts["components"].pop("securitySchemes")
    components = {f"#/components/{kind}/{name}" for kind, found in parts["components"].items() for name in found}
    assert set(re.findall(r"'\$ref': '([^']+)'", str(parts))) == components
    assert set().union(*parts["security"]) == set(schemes)


def test_names_are_those_of_the_code() -> None:
    components = document()["components"]
    for body in ("Predict", "Classify", "Picture"):
        types = {name for name in components["requestBodies"][body]["content"] if name.startswith("image/")}
        assert types == {f"image/{name.lower()}" for name in FORMATS}
    tensor = components["schemas"]["InferRequest"]["properties"]["inputs"]["items"]["properties"]
    assert sorted(tensor["datatype"]["enum"]) == sorted(DATATYPES.values())
    status = components["schemas"]["ModelStatus"]["properties"]["model_version_status"]["items"]["properties"]
    assert status["state"]["enum"] == list(State)
    assert components["parameters"]["json_length"]["name"] == HEAD_LENGTH
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert document()["info"]["version"] == project["version"]


def test_document_is_served_as_json(service: FakeService) -> None:
    response = service.get("/openapi.json")
    assert response.mimetype == "application/json"
    assert response.get_json() == document()
