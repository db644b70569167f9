"""What a request is called, in its answer and in the log."""

import re
from random import getrandbits

HEADER = b"x-request-id"
LONGEST = 128

_TAKEN = re.compile(rb"[!-~]{1,%d}" % LONGEST)


def request_id(header: bytes | None) -> str:
    """The client's, or a new one where it gave none, or one that is too long or not of visible ASCII characters."""
    if header and _TAKEN.fullmatch(header):
        return header.decode()
    # 0.2 µs. uuid4 takes ten times as long, and nobody gains by guessing it.
    return hex(getrandbits(96))[2:]
