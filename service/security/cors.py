"""Pages of other origins that may read what the service answers: cross-origin resource sharing. (Fetch Standard, 3.3)

No cookies take part: whoever needs a key sends it in a header of its own.
"""

import re
from collections.abc import Mapping

import msgspec

from service.http import Response, error_response

ANY = "*"
METHODS = "GET, HEAD, POST"
# Besides what every page may read.
EXPOSED_HEADERS = "Inference-Header-Content-Length, Outlier-Score, Retry-After, X-Request-ID"
# How long a browser need not ask again, in seconds; Chromium takes no more.
MAX_AGE_SECONDS = 7200
# Of the headers that a page wants to send.
MAX_HEADER_NAMES_BYTES = 4096

_REQUEST_METHOD = b"access-control-request-method"
_REQUEST_HEADERS = b"access-control-request-headers"

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|null", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++(?:[ \t]*+,[ \t]*+[!#$%&'*+.^_`|~0-9A-Za-z-]++)*+")


def parse(text: str) -> frozenset[str]:
    """Origins as browsers write them, from a list with commas or blanks between; `*` stands for all.

    Raises:
        ValueError: with the origin and what was expected.
    """
    return frozenset(_origin(part) for part in re.split(r"[\s,]+", text) if part)


def _origin(text: str) -> str:
    origin = text.lower()
    if origin == ANY:
        return origin
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(f"{text!r}: expected origins as https://app.example or http://localhost:3000, or *")
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], ""))


def is_preflight(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser asks, on its own, if a page may send what it wants to. It has no body and no key."""
    return (
        method == "OPTIONS"
        and _REQUEST_METHOD in headers
        and b"origin" in headers
        and headers.get(b"content-length", b"0") == b"0"
        and b"transfer-encoding" not in headers
    )


class Cors:
    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._takes_any = ANY in origins

    def preflight(self, headers: Mapping[bytes, bytes]) -> Response:
        """The headers that every answer gets are not among its own."""
        origin = headers[b"origin"]
        if not self._takes(origin):
            shown = origin[:200].decode("latin-1")
            return error_response(403, f"pages of the origin {shown!r} may not read answers (SERVING_CORS_ORIGINS)")
        allowed = [("access-control-allow-methods", METHODS), ("access-control-max-age", str(MAX_AGE_SECONDS))]
        names = headers.get(_REQUEST_HEADERS, b"")
        # Whichever they are: a header does no harm here that it could not do without a browser.
        if len(names) <= MAX_HEADER_NAMES_BYTES and _NAMES.fullmatch(names):
            allowed.append(("access-control-allow-headers", names.decode()))
        return Response(200, b"", "text/plain", tuple(allowed))

    def with_headers(self, answer: Response, headers: Mapping[bytes, bytes]) -> Response:
        """The answer as a page of the request's origin may read it."""
        added = []
        origin = headers.get(b"origin")
        if origin is not None and self._takes(origin):
            taken = ANY if self._takes_any else origin.decode()
            added = [("access-control-allow-origin", taken), ("access-control-expose-headers", EXPOSED_HEADERS)]
        if not self._takes_any:
            # Else a cache would hand one origin's answer to another.
            added.append(("vary", "origin"))
        return msgspec.structs.replace(answer, headers=(*answer.headers, *added))

    def _takes(self, origin: bytes) -> bool:
        return self._takes_any or origin in self._origins
