"""Requests and responses, as the transport hands them over and every protocol reads and writes them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
import orjson

if TYPE_CHECKING:
    from service.api.routes import Match
    from service.inference.context import RequestContext

# The key of a WSGI environment that holds the Request.
WSGI_REQUEST = "service.request"
# The method of a Request that is a call of gRPC; HTTP has none of that name.
GRPC = "GRPC"
GRPC_CONTENT_TYPE = "application/grpc"
MAX_PATH_BYTES = 1024
MAX_CONTENT_TYPE_BYTES = 256


# Structs, for each request makes a few of them: a frozen dataclass takes ten times as long to make.
class Response(msgspec.Struct, frozen=True, gc=False):
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    # Where HTTP's status does not tell gRPC's.
    grpc_status: int | None = None


def error_response(status: int, message: str, *headers: tuple[str, str]) -> Response:
    return Response(status, orjson.dumps({"error": message}), headers=headers)


class Request(msgspec.Struct):
    """One request. It exists once its head is read; the body follows.

    `target`: path and query as the client wrote them. `headers`: by their names in lower case; the values of a repeated
    header are joined by commas. `match`: its route, None where no route matches. `rejection`: the response that it gets
    whatever its body is. `key_name`: the name of its API key. `has_body`: whether
    a body follows the head. A call of gRPC is one, too: its method is GRPC, its target
    the call's path, its body the message.
    """

    method: str
    target: bytes
    headers: dict[bytes, bytes]
    context: "RequestContext"
    body: bytes = b""
    http_version: str = "1.1"
    keep_alive: bool = True
    match: "Match | None" = None
    rejection: Response | None = None
    key_name: str = ""
    has_body: bool = False

    @property
    def path(self) -> str:
        """The path for logs."""
        return shown_path(self.target)

    @property
    def query(self) -> Mapping[str, str]:
        """The query's parameters. The first of a name counts."""
        query = self.target.partition(b"?")[2]
        return dict(reversed(parse_qsl(query.decode("latin-1"), keep_blank_values=True))) if query else {}

    @property
    def mimetype(self) -> str:
        return _mimetype(self.headers.get(b"content-type", b"")[:MAX_CONTENT_TYPE_BYTES])

    @property
    def accept_encoding(self) -> bytes:
        return self.headers.get(b"accept-encoding", b"")

    @property
    def is_operations(self) -> bool:
        """Whether tools send it every few seconds, for health or metrics."""
        return self.match is not None and self.match.route.is_operations


def shown_path(target: bytes) -> str:
    """The path for logs: without the query, which may hold secrets, and without control characters."""
    return _shown(target.partition(b"?")[0][:MAX_PATH_BYTES])


@lru_cache(256)
def _shown(path: bytes) -> str:
    text = path.decode("latin-1")
    return text if text.isascii() and text.isprintable() else text.encode("unicode_escape").decode()


def decoded_path(target: bytes) -> bytes:
    """The path of a target, without its percent-escapes."""
    path = target.partition(b"?")[0]
    return unquote_to_bytes(path) if b"%" in path else path


@lru_cache(256)
def _mimetype(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")
