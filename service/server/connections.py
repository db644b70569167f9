"""A worker process's connections: how many there may be, and how much they may hold together."""

import logging
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.server.connection import HttpConnection

# How many connections beyond the limit are told so at a time. Further ones are closed without a word.
TOLD = 128
# Files of a process besides its connections: models, metrics, what libraries open.
OTHER_FILES = 256

logger = logging.getLogger(__name__)


class BufferedBytes:
    """Of bodies that are coming or wait for their answers, and of answers that their clients do not read."""

    __slots__ = ("most", "now")

    def __init__(self, most: int = sys.maxsize) -> None:
        self.most = most
        self.now = 0

    def full_message(self) -> str:
        return (
            f"{self.now} bytes of requests and answers wait already; at most {self.most} may "
            "(SERVING_MAX_BUFFERED_BYTES)"
        )


class Connections:
    def __init__(
        self,
        most: int = sys.maxsize,
        most_buffered_bytes: int = sys.maxsize,
        *,
        keep_alive_seconds: float = 75,
        on_change: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """`on_change` is told how many are open."""
        self.most = most
        self.keep_alive_seconds = keep_alive_seconds
        self.buffered = BufferedBytes(most_buffered_bytes)
        self._on_change = on_change
        self._open: set[HttpConnection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: "HttpConnection") -> None:
        self._open.add(connection)
        self._on_change(len(self._open))

    def discard(self, connection: "HttpConnection") -> None:
        self._open.discard(connection)
        self._on_change(len(self._open))

    def sweep(self, now: float) -> None:
        for connection in list(self._open):
            connection.sweep(now)

    def drain(self, *, close_idle: bool) -> None:
        for connection in list(self._open):
            connection.drain(close_idle=close_idle)


def affordable_connections(wanted: int) -> int:
    """As many as are wanted, or as the process may open files for (RLIMIT_NOFILE), whose soft limit is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + TOLD + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        # Some systems have a limit besides the hard one.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    affordable = max(soft - TOLD - OTHER_FILES, soft // 4)
    logger.warning(
        "this process may open %d files (ulimit -n): it takes at most %d connections, not %d (SERVING_MAX_CONNECTIONS)",
        *(soft, affordable, wanted),
    )
    return affordable
