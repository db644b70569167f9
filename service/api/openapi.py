"""The OpenAPI document: openapi.json, with the errors that every route shares written out for each."""

from pathlib import Path
from typing import Any

import orjson

FILE = Path(__file__).with_name("openapi.json")


def document() -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads(FILE.read_bytes())
    errors = content.pop("x-common-responses")
    for path_item in content["paths"].values():
        for method, operation in path_item.items():
            if method != "parameters":
                operation["responses"] = dict(sorted({**errors, **operation["responses"]}.items()))
    return content
