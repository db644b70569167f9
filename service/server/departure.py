"""Telling a client that has left from one that has only said all that it had to say: of both the last byte has come.

Most servers take both for gone (nginx, Go, uvicorn), which is wrong for who closes its half and waits (`nc -N`).
"""

import asyncio
import socket

# What every answer begins with. Where a whole connection was closed, a reset comes back.
BEGINNING = b"HTTP/1.1 "


def ask(transport: asyncio.Transport) -> None:
    """The answer goes on behind it."""
    transport.write(BEGINNING)


def has_left(transport: asyncio.Transport) -> bool:
    """Whether a reset has come. The event loop itself would only notice when it writes again."""
    connection = transport.get_extra_info("socket")
    return connection is not None and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
