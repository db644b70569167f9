import gzip
import os
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, PayloadTooLarge, ServingError, UnsupportedMediaType
from service.http import Response
from service.server.response import (
    MAX_CODINGS,
    MIN_ENCODED_BYTES,
    decode_body,
    encode_body,
    preferred,
    response_bytes,
)
from tests.unit.service.fakes import request

BODY = b'{"instances": [1.0, 2.0]}'
LIMIT = 1_000_000
LONG = b'{"predictions": [' + b"0.25, " * 1_000 + b"0.25]}"
GZIPPED, ZLIBBED = gzip.compress(BODY, mtime=0), zlib.compress(BODY)
Pack = Callable[[bytes], bytes]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


# Request bodies


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"", BODY),
        (b" Identity , ", BODY),
        (b"GZip", GZIPPED),
        (b"x-gzip", GZIPPED),
        (b"identity, gzip", GZIPPED),
        (b"deflate", ZLIBBED),
        (b"deflate", zlib.compress(BODY, 0)),
        (b"deflate", raw_deflate(BODY)),
        (b"gzip, deflate", zlib.compress(GZIPPED)),
        (b"gzip, deflate,gzip", gzip.compress(raw_deflate(GZIPPED), mtime=0)),
    ],
)
def test_body_is_decoded(coding: bytes, body: bytes) -> None:
    assert decode_body(body, coding, LIMIT) == BODY


@given(st.binary(max_size=2_000), st.sampled_from([b"gzip", b"deflate"]))
def test_any_body_is_decoded(data: bytes, coding: bytes) -> None:
    for packed in [gzip.compress(data)] if coding == b"gzip" else [zlib.compress(data), raw_deflate(data)]:
        assert decode_body(packed, coding, 2_000) == data


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate", b"br", b"gzip, deflate"]))
def test_any_bytes_are_decoded_or_rejected(body: bytes, coding: bytes) -> None:
    with suppress(ServingError):
        assert len(decode_body(body, coding, LIMIT)) <= LIMIT


@pytest.mark.parametrize(
    "coding", [b"br", b"zstd", b"compress", b"gzip, br", b"br, gzip", b"gzip;q=1", b"\xff", b"x" * 5_000]
)
def test_unsupported_coding_is_415(coding: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match=r"is not taken; expected one of gzip, deflate$") as raised:
        decode_body(BODY, coding, LIMIT)
    assert (raised.value.status, raised.value.headers) == (415, (("accept-encoding", "gzip, deflate"),))
    assert len(str(raised.value)) < 200


def test_too_many_codings_are_415() -> None:
    with pytest.raises(UnsupportedMediaType, match="lists 4 codings; at most 3 are taken"):
        decode_body(BODY, b"gzip," * (MAX_CODINGS + 1), LIMIT)


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, deflate"])
def test_empty_body_needs_no_coding(coding: bytes) -> None:
    assert decode_body(b"", coding, LIMIT) == b""


@pytest.mark.parametrize(
    ("coding", "body", "message"),
    [
        (b"gzip", BODY, "Content-Encoding says gzip, and the body is not that or is damaged"),
        (b"gzip", ZLIBBED, "Content-Encoding says gzip, and the body is not that"),
        (b"x-gzip", BODY, "Content-Encoding says gzip, and the body is not that"),
        (b"deflate", BODY, "Content-Encoding says deflate, and the body is not that"),
        (b"deflate", GZIPPED, "Content-Encoding says deflate, and the body is not that"),
        (b"gzip", GZIPPED[:10] + b"\xff" * 20, "is damaged (Error -3"),
        (b"gzip", GZIPPED[:-4] + b"\xff\xff\xff\xff", "is damaged (Error -3"),
        (b"deflate", ZLIBBED[:-1] + b"\xff", "is damaged"),
        (b"gzip", GZIPPED[:-1], "ends in the middle of its gzip data"),
        (b"gzip", GZIPPED[:5], "ends in the middle of its gzip data"),
        (b"deflate", raw_deflate(BODY)[:-1], "ends in the middle of its deflate data"),
        (b"gzip", GZIPPED + b" more", "5 bytes follow the end of the body's gzip data"),
        (b"gzip", GZIPPED * 2, "bytes follow the end of the body's gzip data"),
        (b"deflate", ZLIBBED + b"\x00", "1 bytes follow the end of the body's deflate data"),
        (b"gzip, gzip", GZIPPED, "Content-Encoding says gzip, and the body is not that"),
    ],
)
def test_damaged_body_is_400(coding: bytes, body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode_body(body, coding, LIMIT)
    assert message in str(raised.value)


@pytest.mark.parametrize(("coding", "pack"), [(b"gzip", gzip.compress), (b"deflate", raw_deflate)])
def test_body_decodes_to_the_limit_at_most(coding: bytes, pack: Pack) -> None:
    assert len(decode_body(pack(bytes(1_000)), coding, 1_000)) == 1_000
    with pytest.raises(PayloadTooLarge) as raised:
        decode_body(pack(bytes(1_001)), coding, 1_000)
    message = "the body unpacks to more than 1000 bytes, the most that are taken (SERVING_MAX_BODY_BYTES)"
    assert str(raised.value) == message


@pytest.mark.parametrize("times", [1, 2])
def test_bomb_takes_no_more_memory_than_the_limit(times: int) -> None:
    bomb = bytes(50_000_000)
    for _ in range(times):
        bomb = gzip.compress(bomb, 9)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            decode_body(bomb, b"gzip," * times, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 3 * LIMIT
    finally:
        tracemalloc.stop()


# Response bodies


# With | between.
PREFERRED = {
    "gzip": (
        b"GZIP|x-gzip|br, deflate, gzip|*|gzip;q=0.8 ,deflate ; q=0.8|identity;q=0.5, gzip;q=0.5|identity;q=0, gzip|"
        b"gzip;level=9"
    ),
    "deflate": b"deflate|gzip;q=0, *|gzip; q=0.0, deflate;q=0.001|gzip;q=0.5, deflate;q=0.8",
    None: (
        b"|br|*;q=0|gzip;q=0|identity|identity;q=1, gzip;q=0.5|identity;q=0|gzip;q=much|gzip;q=nan|gzip;q=-1|gzip;q=2|"
        b",,;,=;q|\xff\xfe"
    ),
}


@pytest.mark.parametrize(
    ("header", "coding"), [(header, coding) for coding, some in PREFERRED.items() for header in some.split(b"|")]
)
def test_preferred_coding(header: bytes, coding: str | None) -> None:
    assert preferred(header) == coding


@given(st.binary(max_size=60))
def test_any_accept_encoding(header: bytes) -> None:
    assert encode_body(Response(200, LONG), header).status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("body", [LONG, os.urandom(5_000)], ids=["text", "noise"])
def test_long_response_is_encoded(coding: str, body: bytes) -> None:
    encoded = encode_body(Response(400, body, headers=(("retry-after", "1"),)), coding.encode())
    assert encoded.headers == (("retry-after", "1"), ("vary", "accept-encoding"), ("content-encoding", coding))
    assert decode_body(encoded.body, coding.encode(), 10_000) == body
    assert (encoded.status, encoded.content_type) == (400, "application/json")


@pytest.mark.parametrize("header", [b"br", b"gzip;q=0"])
def test_plain_response_that_might_be_encoded_has_vary(header: bytes) -> None:
    assert encode_body(Response(200, LONG), header) == Response(200, LONG, headers=(("vary", "accept-encoding"),))


@pytest.mark.parametrize(
    ("response", "header"),
    [
        (Response(200, LONG), b""),
        (Response(200, b""), b"gzip"),
        (Response(200, b"x" * (MIN_ENCODED_BYTES - 1)), b"gzip"),
        (Response(200, LONG, "image/png"), b"gzip"),
        (Response(200, LONG, "Image/JPEG"), b"gzip"),
        (Response(200, LONG, "font/woff2"), b"gzip"),
        (Response(200, LONG, "application/zip"), b"gzip"),
        (Response(200, LONG, headers=(("content-encoding", "br"),)), b"gzip"),
    ],
)
def test_response_that_gains_nothing_stays_plain(response: Response, header: bytes) -> None:
    assert encode_body(response, header) is response


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream", "image/svg+xml"])
def test_other_content_types_are_encoded(content_type: str) -> None:
    assert encode_body(Response(200, LONG, content_type), b"gzip").body[:2] == b"\x1f\x8b"


# On the wire


def test_response_bytes() -> None:
    of = request(headers={b"x-request-id": b"mine"})
    written = response_bytes(of, Response(200, b"body", "a/b; c=%d", (("etag", "ü\u20ac"),)), keep_alive=True)
    head, _, body = written.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ") for line in lines)
    assert parsedate_to_datetime(headers.pop("date")).tzinfo is not None
    assert (status, body) == ("HTTP/1.1 200 OK", b"body")
    assert headers == {
        "content-type": "a/b; c=%d",
        "x-content-type-options": "nosniff",
        "content-length": "4",
        "x-request-id": "mine",
        "etag": "ü?",
    }


@pytest.mark.parametrize(
    ("http_version", "keep_alive", "expected"),
    [("1.1", True, None), ("1.1", False, b"close"), ("1.0", True, b"keep-alive"), ("1.0", False, b"close")],
)
def test_connection_header(http_version: str, keep_alive: bool, expected: bytes | None) -> None:
    of = request()
    of.http_version = http_version
    head = response_bytes(of, Response(200, b"body"), keep_alive=keep_alive)
    assert (b"\r\nconnection: %b\r\n" % (expected or b"")) in head if expected else b"connection" not in head


def test_response_to_head_has_no_body() -> None:
    written = response_bytes(request(method="HEAD"), Response(200, b"body"), keep_alive=True)
    assert b"\r\ncontent-length: 4\r\n" in written
    assert written.endswith(b"\r\n\r\n")
