"""Listening sockets: bind, accept, drain."""

import asyncio
import ctypes
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from contextlib import suppress

# Connections that the kernel keeps until they are accepted; fewer where net.core.somaxconn is less.
BACKLOG = 2048
# Up to this many waiting connections, uvloop accepts fast enough, at less cost for each.
MAX_FEW = 8
# Connections accepted at a time: responses wait for as long as these take.
MAX_ACCEPTED = 256
# The beginning of tcp_info in linux/tcp.h; its last number, tcpi_unacked, is a listening socket's queue.
TCP_INFO = struct.Struct("8B5I")

# A packet filter over TCP's header, an instruction a line; socket(7) and linux/filter.h have the numbers.
SO_ATTACH_FILTER = 26
NO_SYN = (
    (0x30, 0, 0, 13),  # load the byte with the flags
    (0x45, 0, 1, 0x02),  # SYN?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else keep it
)


def bound_socket(host: str, port: int) -> socket.socket:
    """A bound socket; clients can connect once it listens. Raises OSError where the address is not this machine's."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # One for each worker process: with one for all, connections that are kept alive pile up on one worker.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


def connect_no_more(listener: socket.socket) -> None:
    """Stop new connections. Clients that are connected already are still accepted: closing the listener at once would
    reset them, with the requests that are on their way. A client that connects now tries again a second later, and is
    refused."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in NO_SYN))
    # Only Linux has this filter.
    with suppress(OSError):
        filter_ = struct.pack("HP", len(NO_SYN), ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)


def waiting(listener: socket.socket) -> int:
    """How many connections wait to be accepted; 0 where that is unknown (only Linux tells)."""
    if sys.platform != "linux":
        return 0
    try:
        queue: int = TCP_INFO.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size))[-1]
    # Some container runtimes only look like Linux.
    except (OSError, struct.error):
        return 0
    return queue


class Accepting:
    """The protocol factory of a listener, which also accepts the connections that wait.

    uvloop accepts one connection in a pass of the event loop, and under load a pass is long: the kernel's queue would
    fill, and drop connections. So where many wait, all of them are accepted in one pass.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], security: ssl.SSLContext | None = None
    ) -> None:
        """`security`: for TLS."""
        self._listener = listener
        self._protocol = protocol
        self._security = security
        # The event loop keeps no reference to its tasks.
        self._beginning: set[asyncio.Task[object]] = set()

    def __call__(self) -> asyncio.Protocol:
        if waiting(self._listener) > MAX_FEW:
            self._accept_waiting()
        return self._protocol()

    def _accept_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(MAX_ACCEPTED):
            try:
                client, _address = self._listener.accept()
            except OSError:
                # None waits any more; or accepting fails now, which uvloop handles.
                return
            task = loop.create_task(loop.connect_accepted_socket(self._protocol, client, ssl=self._security))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)
