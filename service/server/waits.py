"""What a connection waits for, and how long."""

import math
from enum import Enum

HEAD_SECONDS = 15
BODY_SECONDS = 30  # without a single byte
# Of a body, once BODY_SECONDS are over.
LEAST_BYTES_PER_SECOND = 500
WRITE_SECONDS = 60
DISCARD_SECONDS = 5


class Wait(Enum):
    """The value: for how many seconds at most."""

    HEAD = HEAD_SECONDS
    BODY = BODY_SECONDS
    ANSWER = 0  # the application has its own limits
    CLIENT_READS = WRITE_SECONDS
    NEXT = math.inf  # a setting
    DISCARD = DISCARD_SECONDS
