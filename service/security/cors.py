"""Cross-origin resource sharing: pages of other origins that may read responses. (Fetch Standard, 3.3)

There are no cookies: a page that needs a key sends it in a header.
"""

import re
from collections.abc import Mapping

import msgspec

from service.http import Response, error_response
from service.settings import ANY_ORIGIN

METHODS = "GET, HEAD, POST"
# Besides those that every page may read.
EXPOSED_HEADERS = "Inference-Header-Content-Length, Outlier-Score, Retry-After, X-Request-ID"
# How long a browser keeps the answer to a preflight; Chromium no longer than this.
MAX_AGE_SECONDS = 7200
# Of the names of headers that a page wants to send.
MAX_HEADER_NAMES_BYTES = 4096

_REQUEST_METHOD = b"access-control-request-method"
_REQUEST_HEADERS = b"access-control-request-headers"

_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++(?:[ \t]*+,[ \t]*+[!#$%&'*+.^_`|~0-9A-Za-z-]++)*+")


def is_preflight(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the request is a browser's question if a page may send another one. It has neither body nor key."""
    return (
        method == "OPTIONS"
        and _REQUEST_METHOD in headers
        and b"origin" in headers
        and headers.get(b"content-length", b"0") == b"0"
        and b"transfer-encoding" not in headers
    )


class Cors:
    """Answers preflights and adds headers to responses, for these origins."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._takes_any = ANY_ORIGIN in origins

    def preflight(self, headers: Mapping[bytes, bytes]) -> Response:
        """The response to a preflight, without the headers of `with_headers`."""
        origin = headers[b"origin"]
        if not self._takes(origin):
            shown = origin[:200].decode("latin-1")
            return error_response(403, f"pages of the origin {shown!r} may not read answers (SERVING_CORS_ORIGINS)")
        allowed = [("access-control-allow-methods", METHODS), ("access-control-max-age", str(MAX_AGE_SECONDS))]
        names = headers.get(_REQUEST_HEADERS, b"")
        # Any headers: none does harm here that it could not do without a browser.
        if len(names) <= MAX_HEADER_NAMES_BYTES and _NAMES.fullmatch(names):
            allowed.append(("access-control-allow-headers", names.decode()))
        return Response(200, b"", "text/plain", tuple(allowed))

    def with_headers(self, response: Response, headers: Mapping[bytes, bytes]) -> Response:
        """The response with what lets a page of the request's origin read it."""
        added = []
        origin = headers.get(b"origin")
        if origin is not None and self._takes(origin):
            taken = ANY_ORIGIN if self._takes_any else origin.decode()
            added = [("access-control-allow-origin", taken), ("access-control-expose-headers", EXPOSED_HEADERS)]
        if not self._takes_any:
            # Else a cache would give one origin's response to another.
            added.append(("vary", "origin"))
        return msgspec.structs.replace(response, headers=(*response.headers, *added))

    def _takes(self, origin: bytes) -> bool:
        return self._takes_any or origin in self._origins
