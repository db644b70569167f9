"""The OpenAPI document: what clients and their tools read. A test holds it to the routes, another to the answers."""

from typing import Any

from service.api.openapi import operations, playground, v1, v2
from service.api.openapi.parts import HEADERS, PARAMETERS, RESPONSES
from service.api.openapi.schemas import SCHEMAS
from service.api.v2.describe import VERSION

DESCRIPTION = """\
Serves Keras models: TensorFlow Serving's REST API (v1), the Open Inference Protocol (v2), and pictures as they come.

Every error, on every route, is `{"error": "what is wrong and what was expected"}`. Every answer has the request's id in
`X-Request-ID`. Bodies may come in `Content-Encoding: gzip` or `deflate`. Unknown query parameters are ignored.

Where the service asks for an API key it wants it on every route but health, metrics and these pages, as
`Authorization: Bearer <key>` or `X-API-Key: <key>`."""


def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fitting Room",
            "version": VERSION,
            "description": DESCRIPTION,
        },
        "servers": [{"url": "/", "description": "the service that gave you this"}],
        "tags": [
            {"name": "v1", "description": "TensorFlow Serving's REST API, and pictures as requests."},
            {"name": "v2", "description": "The Open Inference Protocol, as KServe and Triton speak it."},
            {"name": "operations", "description": "Health and metrics."},
            {"name": "page", "description": "What the page at `/` asks; may change with it."},
        ],
        # The first: no key, where the service asks for none.
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": {**v1.paths(), **v2.paths(), **operations.paths(), **playground.paths()},
        "components": {
            "schemas": SCHEMAS,
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "responses": RESPONSES,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }
