"""What a connection and whoever answers its requests agree on."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from service.messages import Answer


@dataclass(slots=True)
class HttpRequest:
    """Header names in lower case; `target` as the client wrote it."""

    method: str = ""
    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    http_version: str = "1.1"
    keep_alive: bool = True

    def header(self, wanted: bytes) -> bytes:
        for name, value in self.headers:
            if name == wanted:
                return value
        return b""


class Answerer(Protocol):
    def answer(self, request: HttpRequest) -> "Answer | asyncio.Future[Answer]":
        """The answer at once, or a future of it. Raises nothing."""

    def refused(self, status: int) -> None:
        """Told of what the connection itself turned away."""
