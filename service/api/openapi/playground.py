"""What the page at `/` asks."""

from service.api.openapi.parts import Part, json_content, parameter, responses, schema
from service.api.openapi.v1 import FORM, PICTURE
from service.api.openapi.v1 import paths as v1_paths

_VERSION = "/playground/models/{model}/versions/{version}"
_PARAMETERS = [parameter("model"), parameter("version")]
_BINARY: Part = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_FILES: Part = dict.fromkeys(("text/plain", "text/csv", "application/json", "image/png", "image/jpeg"), _BINARY)


def paths() -> Part:
    text = {"type": "string", "minLength": 1}
    file = {"name": "file", "in": "path", "required": True, "description": "one of `files`", "schema": text}
    label = {
        "name": "label",
        "in": "query",
        "description": "another label than the first",
        "schema": {"type": "string"},
    }
    picture = {"requestBody": {"required": True, "content": PICTURE | FORM}}
    tried = {verb: _tried(verb) for verb in ("predict", "classify", "regress")}
    seen = responses("a picture", {"image/png": _BINARY})
    occlusion = responses("a map", json_content(schema("OcclusionMap")))
    return {
        "/playground/models": {
            "get": _operation("playgroundModels", "Every version and its state", "PlaygroundModels"),
        },
        _VERSION: {
            "parameters": _PARAMETERS,
            "get": _operation("playgroundVersion", "All that is known of a version", "PlaygroundVersion"),
        },
        f"{_VERSION}/files/{{file}}": {
            "parameters": [*_PARAMETERS, file],
            "get": _page("playgroundFile", "What lies beside a version", responses("the file", _FILES)),
        },
        **{f"{_VERSION}/{verb}": {"parameters": _PARAMETERS, "post": operation} for verb, operation in tried.items()},
        f"{_VERSION}/seen": {
            "parameters": _PARAMETERS,
            "post": _page("playgroundSeen", "A picture as the model gets it", seen) | picture,
        },
        f"{_VERSION}/occlusion": {
            "parameters": _PARAMETERS,
            "post": _page("playgroundOcclusion", "Which parts mattered", occlusion) | picture | {"parameters": [label]},
        },
    }


def _tried(verb: str) -> Part:
    """The v1 API's operation of this name, for the page."""
    operation: Part = v1_paths()["/v1/models/{model}/versions/{version}:" + verb]["post"]
    summary = f"{operation['summary']}, for the page: no traffic"
    return operation | {"tags": ["page"], "operationId": f"playground{verb.capitalize()}", "summary": summary}


def _operation(operation: str, summary: str, answered: str) -> Part:
    return _page(operation, summary, responses("JSON", json_content(schema(answered))))


def _page(operation: str, summary: str, answers: Part) -> Part:
    return {"tags": ["page"], "operationId": operation, "summary": summary, "responses": answers}
