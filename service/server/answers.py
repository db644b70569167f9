"""An answer as the bytes that go over the connection."""

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from service.http import Answer
from service.server.interface import HttpRequest

_REASONS = {status.value: status.phrase for status in HTTPStatus}


def answer_bytes(request: HttpRequest, answer: Answer, *, keep_alive: bool) -> bytes:
    shared = _shared_head(answer.status, answer.content_type, int(time.time()))
    head = shared % (len(answer.body), request.call.request_id.encode())
    for name, value in answer.headers:
        head += f"{name}: {value}\r\n".encode("latin-1", "replace")
    if not keep_alive:
        head += b"connection: close\r\n"
    elif request.http_version == "1.0":
        head += b"connection: keep-alive\r\n"
    return head + b"\r\n" + (b"" if request.method == "HEAD" else answer.body)


@lru_cache(64)
def _shared_head(status: int, content_type: str, second: int) -> bytes:
    """The lines that many answers share, with places for the body's length and the request's id."""
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n"
        f"content-type: {content_type.replace('%', '%%')}\r\n"
        f"date: {formatdate(second, usegmt=True)}\r\n"
        # A browser must not make a page of what is none.
        "x-content-type-options: nosniff\r\n"
        "content-length: %d\r\n"
        "x-request-id: %b\r\n"
    ).encode("latin-1", "replace")
