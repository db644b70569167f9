"""gRPC's form of requests and responses over HTTP/2: messages with a prefix, statuses in trailers.

Specification: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, and statuscodes.md beside it.
"""

import struct
from collections.abc import Mapping
from io import BytesIO

import orjson

from service.http import Response

CONTENT_TYPE = b"application/grpc"
PREFIX = struct.Struct(">BI")
# Of a call that needs no key: anybody could fill the memory, or hold up the event loop.
MAX_OPEN_BYTES = 4096
# Clients refuse trailers beyond 8 KB, and then show no message at all.
MAX_MESSAGE_CHARACTERS = 2000

OK, UNKNOWN, UNAVAILABLE = 0, 2, 14
# For HTTP's statuses.
_STATUSES = {
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    405: 12,
    408: 4,
    409: 10,  # ABORTED
    413: 8,  # RESOURCE_EXHAUSTED
    415: 12,  # UNIMPLEMENTED
    429: 8,
    431: 8,
    499: 1,  # CANCELLED
    500: 13,  # INTERNAL
    501: 12,
    503: UNAVAILABLE,
    504: 4,  # DEADLINE_EXCEEDED
}

Headers = list[tuple[bytes, bytes]]


class InvalidFraming(ValueError):
    """A call's bytes are no messages; the text says why."""


def is_grpc(content_type: bytes) -> bool:
    """Whether a request is a call: application/grpc, application/grpc+proto, with parameters or without."""
    if not content_type.startswith(CONTENT_TYPE):
        return False
    kind = content_type[len(CONTENT_TYPE) :].partition(b";")[0].strip()
    return kind in (b"", b"+proto")


def is_one_message(data: bytes) -> bool:
    """Whether these bytes are one whole message that is not compressed."""
    return len(data) >= PREFIX.size and data[0] == 0 and int.from_bytes(data[1:5]) == len(data) - PREFIX.size


def status_of(response: Response) -> tuple[int, str]:
    """Status and message of an error."""
    status = response.grpc_status
    if status is None:
        status = _STATUSES.get(response.status, UNKNOWN)
    return status, orjson.loads(response.body)["error"]


def trailers(status: int, message: str = "") -> Headers:
    found = [(b"grpc-status", b"%d" % status)]
    if message:
        found.append((b"grpc-message", percent_encoded(message[:MAX_MESSAGE_CHARACTERS])))
    return found


def percent_encoded(message: str) -> bytes:
    return b"".join(
        [b"%c" % byte if 32 <= byte <= 126 and byte != 37 else b"%%%02X" % byte for byte in message.encode()]
    )


def coding(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The coding of a call's compressed messages: gzip, or empty. None for one that is not taken."""
    encoding = headers.get(b"grpc-encoding", b"identity")
    if encoding == b"identity":
        return b""
    return encoding if encoding in (b"gzip", b"deflate") else None


class MessageReader:
    """The messages in a call's body, as it comes in pieces."""

    __slots__ = ("_is_compressed", "_length", "_max_bytes", "_read")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # Of the message under way, or of its prefix. It gives its bytes away without a copy.
        self._read = BytesIO()
        # -1: the prefix is not whole.
        self._length = -1
        self._is_compressed = False

    @property
    def is_within_message(self) -> bool:
        return self._length >= 0 or self._read.tell() > 0

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """Whole messages that end in this piece, and whether each is compressed.

        Raises:
            InvalidFraming
            TooLong
        """
        found: list[tuple[bytes, bool]] = []
        rest = memoryview(data)
        while True:
            wanted = PREFIX.size if self._length < 0 else self._length
            missing = wanted - self._read.tell()
            if len(rest) < missing:
                self._read.write(rest)
                return found
            self._read.write(rest[:missing])
            rest = rest[missing:]
            whole, self._read = self._read.getvalue(), BytesIO()
            if self._length < 0:
                self._begin(whole)
            else:
                found.append((whole, self._is_compressed))
                self._length = -1

    def _begin(self, prefix: bytes) -> None:
        flag, length = PREFIX.unpack(prefix)
        if flag > 1:
            raise InvalidFraming(f"a message begins with {flag}; expected 0, or 1 for a compressed one")
        if length > self._max_bytes:
            raise TooLong(length, self._max_bytes)
        self._is_compressed, self._length = flag == 1, length


class TooLong(InvalidFraming):
    """Words that TensorFlow Serving's clients may look for."""

    def __init__(self, length: int, max_bytes: int) -> None:
        super().__init__(f"Received message larger than max ({length} vs. {max_bytes}, SERVING_MAX_BODY_BYTES)")
