"""Listening sockets: beginning with them, accepting who comes, and ending them without losing who has come."""

import asyncio
import ctypes
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress

# How many the kernel keeps that are connected and not accepted yet; it takes fewer where net.core.somaxconn is less.
BACKLOG = 2048
# Where no more wait, uvloop's own way, which costs less for each, is fast enough.
FEW = 8
# At a time: nobody's answer waits for longer than these take.
AT_A_TIME = 256
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
    """Nobody can connect before it listens. Raises OSError where the address is none of this machine's."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # One for each worker process: with one for all, connections that are kept alive pile up on one worker.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


def connect_no_more(listener: socket.socket) -> None:
    """What is connected already is still accepted. Closing the listener at once would reset what the loop has not come
    to, with the requests that are on their way. Who tries to connect now tries again a second later, and is refused."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in NO_SYN))
    # Elsewhere than on Linux there is no such filter.
    with suppress(OSError):
        filter_ = struct.pack("HP", len(NO_SYN), ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)


def waiting(listener: socket.socket) -> int:
    """How many are connected to it and not accepted yet; 0 where that is not to be had: only Linux tells."""
    if sys.platform != "linux":
        return 0
    try:
        queue: int = TCP_INFO.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size))[-1]
    # What runs containers may be no Linux and only look like it.
    except (OSError, struct.error):
        return 0
    return queue


class Accepting:
    """What uvloop asks for a protocol each time it has accepted a connection. It does so once in a round of the event
    loop, however many wait, and under load a round is long: the kernel's queue would fill, and lose those that come
    then. So where many wait, all of them are accepted in that round."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener = listener
        self._protocol = protocol
        # The event loop itself does not hold its tasks.
        self._beginning: set[asyncio.Task[object]] = set()

    def __call__(self) -> asyncio.Protocol:
        if waiting(self._listener) > FEW:
            self._accept_waiting()
        return self._protocol()

    def _accept_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(AT_A_TIME):
            try:
                client, _address = self._listener.accept()
            except OSError:
                # Nobody waits any more; or it is not possible now, and uvloop sees to that.
                return
            task = loop.create_task(loop.connect_accepted_socket(self._protocol, client))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)
