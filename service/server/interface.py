"""What a connection and whoever answers its requests agree on."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import unquote_to_bytes

import msgspec

from service.http import Response
from service.inference.context import RequestContext

MAX_PATH_BYTES = 1024

_OPERATORS_PATHS = (b"/v2/health/", b"/metrics", b"/monitoring/prometheus/metrics")


class HttpRequest(msgspec.Struct):
    """`headers` by their names in lower case, of one that comes several times all values with commas between;
    `target` as the client wrote it. `refusal`: what is answered instead; then there is no body. `key_name`: whose
    API key it came with."""

    method: str = ""
    target: bytes = b""
    headers: dict[bytes, bytes] = {}
    body: bytes = b""
    http_version: str = "1.1"
    keep_alive: bool = True
    context: RequestContext = msgspec.field(default_factory=RequestContext)
    refusal: Response | None = None
    key_name: str = ""

    @property
    def path(self) -> str:
        """For people to read: without the query, which is the client's own business, and with nothing in it that could
        end a line or move a cursor."""
        path = self.target.partition(b"?")[0][:MAX_PATH_BYTES].decode("latin-1")
        return path if path.isascii() and path.isprintable() else path.encode("unicode_escape").decode()

    @property
    def is_operators(self) -> bool:
        """Whether it is one that tools send every few seconds, for health or metrics."""
        return self.target.startswith(_OPERATORS_PATHS)

    @property
    def accept_encoding(self) -> bytes:
        return self.headers.get(b"accept-encoding", b"")


def decoded_path(target: bytes) -> bytes:
    """As routes see it."""
    path = target.partition(b"?")[0]
    return unquote_to_bytes(path) if b"%" in path else path


# Asked once a request's head is there, with its target and headers: whose API key it came with (empty: nobody's), and
# what to answer instead; None: it may come in. The body of what may not is thrown away as it comes.
Admit = Callable[[bytes, Mapping[bytes, bytes]], tuple[str, Response | None]]
# Told of a request, the status of its answer and the bytes of the answer's body, once it is written.
Answered = Callable[[HttpRequest, int, int], None]


class Answerer(Protocol):
    def answer(self, request: HttpRequest) -> "Response | asyncio.Future[Response]":
        """The answer at once, or a future of it, which is cancelled when the client leaves. Raises nothing."""

    def give(self, refusal: Response, request: HttpRequest) -> "Response | asyncio.Future[Response]":
        """The refusal, now or when it is this request's turn."""

    def refused(self, reason: str) -> None:
        """Told of what the connection itself turned away, as serving_rejected_total calls it."""
