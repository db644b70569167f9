"""A body in chunks, read piece by piece. (RFC 9112, 7.1)

httptools has a reader of its own, which takes no blanks in chunk extensions and passes trailers on as if they were
headers.
"""

import re
from collections.abc import Callable

# Of one chunk's line, and of all trailers together.
MAX_LINE_BYTES = 64 * 1024
MAX_TRAILERS = 100
MAX_CHUNK_BYTES = 2**64 - 1

# What frames, routes, authenticates or describes a request stands in its head, where everybody on the way looked at it
# (RFC 9110, 6.5.1).
FORBIDDEN_TRAILERS = frozenset(
    (
        *(b"authorization", b"content-encoding", b"content-length", b"content-range", b"expect", b"host"),
        *(b"inference-header-content-length", b"te", b"trailer", b"transfer-encoding", b"x-api-key"),
    )
)

# Possessive throughout: no line takes longer than its length.
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_EXTENSION = rb"[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?+" % (_TOKEN, _TOKEN, _QUOTED)
_CHUNK = re.compile(rb"([0-9A-Fa-f]++)(?:%b)*+\r\n" % _EXTENSION)
_TRAILER = re.compile(rb"(%b):[\t -~\x80-\xff]*+" % _TOKEN)


class InvalidChunk(ValueError):
    """Others could read the body otherwise; the message says where."""


class TooLongFraming(ValueError):
    """What stands between and behind the chunks is more than is taken."""


class ChunkedBody:
    """Tells `on_data` of what is in the chunks."""

    __slots__ = ("_left", "_line", "_on_data", "_read", "_trailer_bytes", "_trailers", "is_complete")

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        self._on_data = on_data
        # Not bound: it would refer to this as this to it.
        self._read = ChunkedBody._read_size
        # A line as far as it came.
        self._line = b""
        # Of the chunk.
        self._left = 0
        self._trailers = self._trailer_bytes = 0
        self.is_complete = False

    def feed(self, data: bytes, position: int = 0) -> int:
        """Reads from that position on. Where what belongs to the body ends: with the data, until it is complete.

        Raises:
            InvalidChunk
            TooLongFraming
        """
        while position < len(data) and not self.is_complete:
            position = self._read(self, data, position)
        return position

    def _read_size(self, data: bytes, position: int) -> int:
        if not self._line:
            position = self._read_whole_chunks(data, position)
            if self.is_complete or position == len(data):
                return position
        line, position = self._take_line(data, position, MAX_LINE_BYTES)
        if line is None:
            return position
        match = _CHUNK.fullmatch(line + b"\r\n")
        if match is None or (size := int(match[1], 16)) > MAX_CHUNK_BYTES:
            raise InvalidChunk("a chunk begins with what is no size with extensions")
        self._left = size
        self._read = ChunkedBody._read_data if size else ChunkedBody._read_trailer
        return position

    def _read_whole_chunks(self, data: bytes, position: int) -> int:
        """Those that are all there, at once: a body may be in chunks of a byte."""
        parts = []
        while (line := _CHUNK.match(data, position)) is not None:
            begin = line.end()
            end = begin + int(line[1], 16)
            if begin - position > MAX_LINE_BYTES or not data.startswith(b"\r\n", end):
                break
            position = end + 2
            if end == begin:
                # The last one, without trailers.
                self.is_complete = True
                break
            parts.append(data[begin:end])
        if parts:
            self._on_data(b"".join(parts))
        return position

    def _read_data(self, data: bytes, position: int) -> int:
        end = min(position + self._left, len(data))
        self._left -= end - position
        if not self._left:
            self._read = ChunkedBody._read_end_of_data
        self._on_data(data[position:end])
        return end

    def _read_end_of_data(self, data: bytes, position: int) -> int:
        end = self._line + data[position : position + 2 - len(self._line)]
        position += len(end) - len(self._line)
        if not b"\r\n".startswith(end):
            raise InvalidChunk("a chunk is longer than it says")
        self._line = end
        if len(end) == 2:
            self._line = b""
            self._read = ChunkedBody._read_size
        return position

    def _read_trailer(self, data: bytes, position: int) -> int:
        line, position = self._take_line(data, position, MAX_LINE_BYTES - self._trailer_bytes)
        if line is None:
            return position
        if not line:
            self.is_complete = True
            return position
        self._trailers += 1
        self._trailer_bytes += len(line)
        if self._trailers > MAX_TRAILERS:
            raise TooLongFraming(f"the body has too many trailers: at most {MAX_TRAILERS} are taken")
        match = _TRAILER.fullmatch(line)
        if match is None:
            raise InvalidChunk("a trailer is no name with a value")
        if match[1].lower() in FORBIDDEN_TRAILERS:
            raise InvalidChunk(f"{match[1].decode()} is a trailer; expected it in the head")
        return position

    def _take_line(self, data: bytes, position: int, max_bytes: int) -> tuple[bytes | None, int]:
        """The line without its end; None where that has not come."""
        # The end may have come in two pieces.
        is_split = self._line.endswith(b"\r") and data.startswith(b"\n", position)
        end = position - 1 if is_split else data.find(b"\r\n", position)
        length = len(self._line) + (end if end >= 0 or is_split else len(data)) - position
        if length > max_bytes:
            raise TooLongFraming(
                f"the body's chunk extensions or trailers are too long: at most {MAX_LINE_BYTES} bytes are taken"
            )
        if is_split:
            line, self._line = self._line[:-1], b""
            return line, position + 1
        if end < 0:
            self._line += data[position:]
            return None, len(data)
        line, self._line = self._line + data[position:end], b""
        return line, end + 2
