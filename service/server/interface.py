"""What a connection and whoever answers its requests agree on."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from service.calls import Call
from service.messages import Answer


class HttpRequest(msgspec.Struct):
    """`headers` by their names in lower case, of one that comes several times all values with commas between;
    `target` as the client wrote it. `refusal`: what is answered instead; then there is no body."""

    method: str = ""
    target: bytes = b""
    headers: dict[bytes, bytes] = {}
    body: bytes = b""
    http_version: str = "1.1"
    keep_alive: bool = True
    call: Call = msgspec.field(default_factory=Call)
    refusal: Answer | None = None

    @property
    def accept_encoding(self) -> bytes:
        return self.headers.get(b"accept-encoding", b"")


# Asked once a request's head is there, with its target and headers: what to answer instead; None: it may come in. The
# body of what may not is thrown away as it comes.
Admit = Callable[[bytes, Mapping[bytes, bytes]], Answer | None]
# Told of a request, the status of its answer and the bytes of the answer's body, once it is written.
Answered = Callable[[HttpRequest, int, int], None]


class Answerer(Protocol):
    def answer(self, request: HttpRequest) -> "Answer | asyncio.Future[Answer]":
        """The answer at once, or a future of it, which is cancelled when the client leaves. Raises nothing."""

    def refused(self, reason: str) -> None:
        """Told of what the connection itself turned away, as serving_rejected_total calls it."""
