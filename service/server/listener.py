"""Listening sockets: beginning with them, and ending them without losing who is connected already."""

import ctypes
import socket
import struct
from contextlib import suppress

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
