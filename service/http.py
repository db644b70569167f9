"""Requests and answers as views see them, by whichever road they come and go."""

from collections.abc import Mapping

import msgspec
import orjson


# Structs, for each request makes a few of them: a frozen dataclass takes ten times as long to make.
class Request(msgspec.Struct, frozen=True, gc=False):
    """`headers`: by their names in lower case. `files`: what a form brought, by what messages call it; None where
    the request is no form."""

    mimetype: str
    args: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    body: bytes = b""
    files: Mapping[str, bytes] | None = None


class Response(msgspec.Struct, frozen=True, gc=False):
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def error_response(status: int, message: str, *headers: tuple[str, str]) -> Response:
    return Response(status, orjson.dumps({"error": message}), headers=headers)
