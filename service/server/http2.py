"""HTTP/2 (RFC 9113): frames ↔ events. The only module that knows the library, ngh2, which is libnghttp2.

Imported once a client speaks HTTP/2: until then it costs nothing. Another library can take its place if it has these
names, and gives windows back by itself: docs/adr/0035.
"""

from ngh2 import (
    Configuration,
    Connection,
    ConnectionClosed,
    DataReceived,
    ErrorCode,
    NGH2Error,
    RequestReceived,
    Role,
    Setting,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)
from ngh2.types import NeverIndexedHeader

__all__ = [
    "Connection",
    "ConnectionClosed",
    "DataReceived",
    "ErrorCode",
    "Http2Error",
    "NeverIndexedHeader",
    "RequestReceived",
    "StreamClosed",
    "StreamReset",
    "TrailersReceived",
    "server_connection",
]

Http2Error = NGH2Error

# Calls of one client at a time; it keeps further ones back.
MAX_STREAMS = 256
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 100
# What a client may send of one body, and of all, before it hears that more is taken.
STREAM_WINDOW_BYTES = 1024 * 1024
CONNECTION_WINDOW_BYTES = 8 * 1024 * 1024
MAX_FRAME_BYTES = 256 * 1024
# How many streams a client may reset, and how many more each second: a burst of deadlines is no attack
# (CVE-2023-44487), whose limit is 1,000 and 33.
MAX_RESETS = (10_000, 1_000)

# Beyond these limits the library ends the connection. MAX_HEADERS is ours, and answers the request.
_CONFIGURATION = Configuration(
    max_inbound_header_list_size=MAX_HEADER_BYTES,
    max_inbound_header_count=4 * MAX_HEADERS,
    stream_reset_rate_limit=MAX_RESETS,
)
_SETTINGS = {
    Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
    Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
    Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
    Setting.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
}


def server_connection() -> Connection:
    """A server's side, which has greeted its client."""
    connection = Connection(Role.SERVER, _CONFIGURATION)
    connection.initiate_connection(_SETTINGS)
    connection.set_local_window_size(CONNECTION_WINDOW_BYTES)
    return connection
