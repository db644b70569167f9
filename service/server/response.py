"""Responses as the bytes that go over the connection, and the content codings of bodies."""

import time
import zlib
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import msgspec

from service.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from service.http import Request, Response

# Content codings: RFC 9110, 8.4 and 12.5.3.
ACCEPTED_CODINGS = "gzip, deflate"

# Nobody needs more than two; without a limit a small body could unpack to ever more work.
MAX_CODINGS = 3

# What fits into a packet gains nothing by being smaller.
MIN_ENCODED_BYTES = 1_400

# JSON of numbers hardly shrinks further at higher levels, which cost several times as much.
_LEVEL = 1

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15
_COMPRESSED_TYPES = ("image/", "audio/", "video/", "font/", "application/zip", "application/gzip")
_UNCOMPRESSED_TYPES = ("image/svg+xml", "image/bmp")


class UnsupportedCoding(UnsupportedMediaType):
    headers = (("accept-encoding", ACCEPTED_CODINGS),)


def decode_body(body: bytes, content_encoding: bytes, max_bytes: int) -> bytes:
    """Undo the codings of a body, which its header lists in the order of their application. Each is undone up to
    `max_bytes`. An empty body stays empty, whatever the header says.

    Raises:
        UnsupportedCoding: an unknown coding, or too many.
        InvalidRequest: the body is not in that coding, or something follows it.
        PayloadTooLarge: more than `max_bytes` come out.
    """
    codings = [coding.strip().lower() for coding in content_encoding.decode("latin-1").split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    for coding in codings:
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise UnsupportedCoding(
                f"Content-Encoding {coding[:40]!r} is not taken; expected one of {ACCEPTED_CODINGS}"
            )
    if len(codings) > MAX_CODINGS:
        raise UnsupportedCoding(f"Content-Encoding lists {len(codings)} codings; at most {MAX_CODINGS} are taken")
    if body:
        for coding in reversed(codings):
            body = _decode_coding(body, coding, max_bytes)
    return body


def encode_body(response: Response, accept_encoding: bytes) -> Response:
    """The response in the coding that the client prefers, where it is long enough to gain by one."""
    if not accept_encoding or len(response.body) < MIN_ENCODED_BYTES or _is_settled(response):
        return response
    # Both forms say so: caches must tell them apart.
    headers = (*response.headers, ("vary", "accept-encoding"))
    coding = preferred(accept_encoding)
    if coding is None:
        return msgspec.structs.replace(response, headers=headers)
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP if coding == "gzip" else _ZLIB)
    body = packer.compress(response.body) + packer.flush()
    return msgspec.structs.replace(response, body=body, headers=(*headers, ("content-encoding", coding)))


def preferred(accept_encoding: bytes) -> str | None:
    """gzip or deflate, whichever the header weighs higher; None where it prefers neither."""
    if not accept_encoding:
        return None
    weights = _weights(accept_encoding.decode("latin-1"))
    anything = weights.get("*", 0.0)
    gzip = max(weights.get("gzip", anything), weights.get("x-gzip", 0.0))
    deflate = weights.get("deflate", anything)
    if max(gzip, deflate) <= 0 or weights.get("identity", 0.0) > max(gzip, deflate):
        return None
    return "gzip" if gzip >= deflate else "deflate"


def _decode_coding(body: bytes, coding: str, max_bytes: int) -> bytes:
    name = "gzip" if coding == "x-gzip" else coding
    unpacker = zlib.decompressobj(_deflate_form(body) if name == "deflate" else _GZIP)
    try:
        unpacked = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(
            f"Content-Encoding says {name}, and the body is not that or is damaged ({error})"
        ) from None
    if len(unpacked) > max_bytes:
        raise PayloadTooLarge(
            f"the body unpacks to more than {max_bytes} bytes, the most that are taken (SERVING_MAX_BODY_BYTES)"
        )
    if not unpacker.eof:
        raise InvalidRequest(f"the body ends in the middle of its {name} data")
    if unpacker.unused_data:
        raise InvalidRequest(f"{len(unpacker.unused_data)} bytes follow the end of the body's {name} data")
    return unpacked


def _deflate_form(body: bytes) -> int:
    """deflate means zlib's format (RFC 1950, 2.2); many senders leave out its head and its checksum."""
    has_head = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    return _ZLIB if has_head else _RAW_DEFLATE


def _is_settled(response: Response) -> bool:
    content_type = response.content_type.lower()
    if content_type.startswith(_COMPRESSED_TYPES) and not content_type.startswith(_UNCOMPRESSED_TYPES):
        return True
    return any(name in ("content-encoding", "vary") for name, _ in response.headers)


def _weights(accept_encoding: str) -> dict[str, float]:
    weights = {}
    for entry in accept_encoding.lower().split(","):
        coding, _, parameter = entry.partition(";")
        key, _, value = parameter.partition("=")
        weights[coding.strip()] = _weight(value) if key.strip() == "q" else 1.0
    return weights


def _weight(text: str) -> float:
    """From 0 (not accepted) to 1; 0 for what is no number."""
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def response_bytes(request: Request, response: Response, *, keep_alive: bool) -> bytes:
    shared = _shared_head(response.status, response.content_type, int(time.time()))
    head = shared % (len(response.body), request.context.request_id.encode())
    for name, value in response.headers:
        head += f"{name}: {value}\r\n".encode("latin-1", "replace")
    if not keep_alive:
        head += b"connection: close\r\n"
    elif request.http_version == "1.0":
        head += b"connection: keep-alive\r\n"
    return head + b"\r\n" + (b"" if request.method == "HEAD" else response.body)


@lru_cache(64)
def _shared_head(status: int, content_type: str, second: int) -> bytes:
    """The lines that many responses share, with places for the body's length and the request's id."""
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n"
        f"content-type: {content_type.replace('%', '%%')}\r\n"
        f"date: {formatdate(second, usegmt=True)}\r\n"
        # A browser must not take anything else for a page.
        "x-content-type-options: nosniff\r\n"
        "content-length: %d\r\n"
        "x-request-id: %b\r\n"
    ).encode("latin-1", "replace")
