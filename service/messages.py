"""Requests and answers as views see them, by whichever road they come and go."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson


@dataclass(frozen=True, slots=True)
class Request:
    """`files`: what a form brought, by what messages call it; None where the request is no form."""

    mimetype: str
    args: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    files: Mapping[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def error_answer(status: int, message: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, orjson.dumps({"error": message}), headers=headers)
