import gzip
import os
import tracemalloc
import zlib
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


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


GZIPPED, ZLIBBED, DEFLATED = gzip.compress(BODY, mtime=0), zlib.compress(BODY), raw_deflate(BODY)

# Request bodies


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        *((b"", BODY), (b" Identity , ", BODY), (b"GZip", GZIPPED), (b"x-gzip", GZIPPED), (b"identity, gzip", GZIPPED)),
        *((b"deflate", body) for body in (ZLIBBED, zlib.compress(BODY, 0), DEFLATED)),
        (b"gzip, deflate", zlib.compress(GZIPPED)),
        (b"gzip, deflate,gzip", gzip.compress(raw_deflate(GZIPPED), mtime=0)),
    ],
)
def test_body_is_decoded(coding: bytes, body: bytes) -> None:
    assert decode_body(body, coding, LIMIT) == BODY
    # An empty one needs no coding.
    assert decode_body(b"", coding, LIMIT) == b""


@given(st.binary(max_size=2_000))
def test_any_body_is_decoded_and_any_bytes_decoded_or_rejected(data: bytes) -> None:
    for coding, pack in ((b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"deflate", raw_deflate)):
        assert decode_body(pack(data), coding, 2_000) == data
    for coding in (b"gzip", b"deflate", b"br", b"gzip, deflate"):
        with suppress(ServingError):
            assert len(decode_body(data, coding, LIMIT)) <= LIMIT


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, br", b"br, gzip", b"gzip;q=1", b"\xff", b"x" * 5_000])
def test_unsupported_coding_is_415(coding: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match=r"is not taken; expected one of gzip, deflate$") as raised:
        decode_body(BODY, coding, LIMIT)
    assert (raised.value.status, raised.value.headers) == (415, (("accept-encoding", "gzip, deflate"),))
    assert len(str(raised.value)) < 200


def test_too_many_codings_are_415() -> None:
    with pytest.raises(UnsupportedMediaType, match="lists 4 codings; at most 3 are taken"):
        decode_body(BODY, b"gzip," * (MAX_CODINGS + 1), LIMIT)


@pytest.mark.parametrize(
    ("coding", "body", "message"),
    [
        (b"gzip", BODY, "Content-Encoding says gzip, and the body is not that or is damaged"),
        (b"x-gzip", ZLIBBED, "Content-Encoding says gzip, and the body is not that"),
        *((b"deflate", body, "Content-Encoding says deflate, and the body is not that") for body in (BODY, GZIPPED)),
        (b"gzip", GZIPPED[:10] + b"\xff" * 20, "is damaged (Error -3"),
        (b"gzip", GZIPPED[:-4] + b"\xff\xff\xff\xff", "is damaged (Error -3"),
        (b"deflate", ZLIBBED[:-1] + b"\xff", "is damaged"),
        *((b"gzip", GZIPPED[:length], "ends in the middle of its gzip data") for length in (-1, 5)),
        (b"deflate", DEFLATED[:-1], "ends in the middle of its deflate data"),
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


@pytest.mark.parametrize("times", [1, 2])
def test_body_decodes_to_the_limit_and_takes_no_more_memory(times: int) -> None:
    bomb, whole = bytes(20_000_000), bytes(LIMIT)
    for _ in range(times):
        bomb, whole = gzip.compress(bomb, 9), gzip.compress(whole)
    tracemalloc.start()
    try:
        assert len(decode_body(whole, b"gzip," * times, LIMIT)) == LIMIT
        with pytest.raises(PayloadTooLarge) as raised:
            decode_body(bomb, b"gzip," * times, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 3 * LIMIT
    finally:
        tracemalloc.stop()
    message = "the body unpacks to more than 1000000 bytes, the most that are taken (SERVING_MAX_BODY_BYTES)"
    assert str(raised.value) == message
    with pytest.raises(PayloadTooLarge):
        decode_body(raw_deflate(bytes(LIMIT + 1)), b"deflate", LIMIT)


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
        *((Response(200, body), b"gzip") for body in (b"", b"x" * (MIN_ENCODED_BYTES - 1))),
        *(
            (Response(200, LONG, kind), b"gzip")
            for kind in ("image/png", "Image/JPEG", "font/woff2", "application/zip")
        ),
        (Response(200, LONG, headers=(("content-encoding", "br"),)), b"gzip"),
    ],
)
def test_response_that_gains_nothing_stays_plain(response: Response, header: bytes) -> None:
    assert encode_body(response, header) is response


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream", "image/svg+xml"])
def test_other_content_types_are_encoded(content_type: str) -> None:
    assert encode_body(Response(200, LONG, content_type), b"gzip").body[:2] == b"\x1f\x8b"


@pytest.mark.parametrize(("method", "expected"), [("POST", b"body"), ("HEAD", b"")])
def test_response_bytes(method: str, expected: bytes) -> None:
    of = request(headers={b"x-request-id": b"mine"}, method=method)
    written = response_bytes(of, Response(200, b"body", "a/b; c=%d", (("etag", "ü\u20ac"),)), keep_alive=True)
    head, _, body = written.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ") for line in lines)
    assert parsedate_to_datetime(headers.pop("date")).tzinfo is not None
    assert (status, body) == ("HTTP/1.1 200 OK", expected)
    assert headers == {
        "content-type": "a/b; c=%d",
        "x-content-type-options": "nosniff",
        "content-length": "4",
        "x-request-id": "mine",
        "etag": "ü?",
    }
