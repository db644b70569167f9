"""What many operations share: parameters, headers, errors."""

from typing import Any

Part = dict[str, Any]

NAME = {"type": "string", "minLength": 1, "pattern": "^[^/:]+$"}
WHOLE_NUMBER = {"type": "string", "pattern": "^[0-9]+$", "maxLength": 19}


def ref(kind: str, name: str) -> Part:
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Part:
    return ref("schemas", name)


def parameter(name: str) -> Part:
    return ref("parameters", name)


def _path(name: str, description: str, of: Part) -> Part:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": of}


def _query(name: str, description: str, of: Part) -> Part:
    return {"name": name, "in": "query", "description": description, "schema": of}


PARAMETERS: dict[str, Part] = {
    "model": _path("model", "a model's name", NAME),
    "version": _path("version", "a version's number", WHOLE_NUMBER),
    "label": _path("label", "a label of models.toml, such as stable", {"type": "string", "minLength": 1}),
    "top_k": _query("top_k", "at most so many labels for each row", {"type": "integer", "minimum": 1}),
    "signature_name": _query("signature_name", "for pictures: the signature", {"type": "string", "minLength": 1}),
    "timeout": {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "description": "answer 504 after so many milliseconds; at most SERVING_REQUEST_TIMEOUT_MS",
        "schema": {"type": "integer", "minimum": 1},
    },
}

HEADERS: dict[str, Part] = {
    "X-Request-ID": {"description": "the request's id, or a new one", "schema": {"type": "string"}},
    "Outlier-Score": {
        "description": "a number for each row, above 1 where it looks like nothing the model was trained on; "
        "of models that can tell",
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "seconds", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "how to send a key", "schema": {"type": "string"}},
}

REQUEST_ID = {"X-Request-ID": ref("headers", "X-Request-ID")}

_ERRORS = {
    "400": ("BadRequest", "the request is wrong; the sentence says what, where, and what was expected"),
    "401": ("Unauthorized", "an API key is wanted"),
    "403": ("Forbidden", "the key may not do this, or the operator has not allowed it"),
    "404": ("NotFound", "no such model or version, or it is not AVAILABLE; no such route"),
    "405": ("MethodNotAllowed", "the route does not take this method"),
    "408": ("RequestTimeout", "the request came too slowly"),
    "413": ("ContentTooLarge", "the body, the picture or the number of rows is too large"),
    "415": ("UnsupportedMediaType", "a Content-Encoding that is not taken"),
    "429": ("TooManyRequests", "too many requests wait, or this key has asked too often"),
    "431": ("HeaderFieldsTooLarge", "the request's head is too long"),
    "500": ("InternalError", "the service's fault; its log has the traceback"),
    "503": ("Unavailable", "not ready, too busy, or the version is unhealthy"),
    "504": ("DeadlineExceeded", "the answer did not come in time"),
}

_HEADERS_OF = {"401": ("WWW-Authenticate",), "429": ("Retry-After",), "503": ("Retry-After",)}

RESPONSES: dict[str, Part] = {
    name: {
        "description": description,
        "headers": REQUEST_ID | {header: ref("headers", header) for header in _HEADERS_OF.get(status, ())},
        "content": {"application/json": {"schema": schema("Error")}},
    }
    for status, (name, description) in _ERRORS.items()
}

# Any route may answer these: they come before it is known what is asked for.
ERRORS = {status: ref("responses", name) for status, (name, _) in _ERRORS.items()}


def responses(description: str, content: Part, **headers: str) -> Part:
    """`headers`: beyond the request's id, those that may come, by anything."""
    named = REQUEST_ID | {header: ref("headers", header) for header in headers.values()}
    return {"200": {"description": description, "headers": named, "content": content}} | ERRORS


def json_content(of: Part, examples: Part | None = None) -> Part:
    return {"application/json": {"schema": of} | ({"examples": examples} if examples else {})}


def example(summary: str, value: object) -> Part:
    return {"summary": summary, "value": value}
