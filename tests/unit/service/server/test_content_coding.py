import gzip
import os
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, PayloadTooLarge, ServingError, UnsupportedMediaType
from service.http import Response
from service.server.response import MAX_CODINGS, MIN_ENCODED_BYTES, decode_body, encode_body, preferred

BODY = b'{"instances": [1.0, 2.0]}'
LIMIT = 1_000_000
Pack = Callable[[bytes], bytes]

LONG = b'{"predictions": [' + b"0.25, " * 1_000 + b"0.25]}"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


# Requests


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"", BODY),
        (b"identity", BODY),
        (b" Identity , ", BODY),
        (b"gzip", gzip.compress(BODY)),
        (b"GZip", gzip.compress(BODY)),
        (b"x-gzip", gzip.compress(BODY)),
        (b"identity, gzip", gzip.compress(BODY)),
        (b"deflate", zlib.compress(BODY)),
        (b"deflate", zlib.compress(BODY, 0)),
        (b"deflate", raw_deflate(BODY)),
        (b"gzip, gzip", gzip.compress(gzip.compress(BODY))),
        (b"deflate,gzip", gzip.compress(zlib.compress(BODY))),
        (b"gzip, deflate", zlib.compress(gzip.compress(BODY))),
        (b"gzip, deflate, gzip", gzip.compress(raw_deflate(gzip.compress(BODY)))),
    ],
)
def test_a_body_comes_out_of_its_codings_in_the_order_of_the_header(coding: bytes, body: bytes) -> None:
    assert decode_body(body, coding, LIMIT) == BODY


@given(st.binary(max_size=2_000), st.sampled_from([b"gzip", b"deflate"]))
def test_what_is_packed_comes_back(data: bytes, coding: bytes) -> None:
    for packed in [gzip.compress(data)] if coding == b"gzip" else [zlib.compress(data), raw_deflate(data)]:
        assert decode_body(packed, coding, 2_000) == data


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate", b"br", b"gzip, deflate"]))
def test_whatever_comes_is_unpacked_or_refused(body: bytes, coding: bytes) -> None:
    # Any other error is a failure.
    with suppress(ServingError):
        assert len(decode_body(body, coding, LIMIT)) <= LIMIT


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"compress", b"gzip, br", b"gzip;q=1", b"\xff", b"x" * 5_000])
def test_a_coding_that_nobody_takes_is_refused_with_those_that_are(coding: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match=r"is not taken; expected one of gzip, deflate$") as raised:
        decode_body(BODY, coding, LIMIT)
    assert raised.value.status == 415
    assert len(str(raised.value)) < 200


def test_a_coding_that_nobody_takes_is_refused_before_anything_is_unpacked() -> None:
    with pytest.raises(UnsupportedMediaType):
        decode_body(b"no gzip", b"br, gzip", LIMIT)


def test_codings_without_end_are_refused() -> None:
    body = BODY
    for _ in range(MAX_CODINGS + 1):
        body = gzip.compress(body)
    with pytest.raises(UnsupportedMediaType, match="lists 4 codings; at most 3 are taken"):
        decode_body(body, b"gzip," * (MAX_CODINGS + 1), LIMIT)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"gzip, deflate"])
def test_a_request_without_a_body_needs_no_coding(coding: bytes) -> None:
    assert decode_body(b"", coding, LIMIT) == b""


@pytest.mark.parametrize(
    ("coding", "body", "words"),
    [
        (b"gzip", BODY, "Content-Encoding says gzip, and the body is not that or is damaged"),
        (b"gzip", zlib.compress(BODY), "Content-Encoding says gzip, and the body is not that"),
        (b"x-gzip", BODY, "Content-Encoding says gzip, and the body is not that"),
        (b"deflate", BODY, "Content-Encoding says deflate, and the body is not that"),
        (b"deflate", gzip.compress(BODY), "Content-Encoding says deflate, and the body is not that"),
        (b"gzip", gzip.compress(BODY)[:10] + b"\xff" * 20, "is damaged (Error -3"),
        (b"gzip", gzip.compress(BODY)[:-4] + b"\xff\xff\xff\xff", "is damaged (Error -3"),
        (b"deflate", zlib.compress(BODY)[:-1] + b"\xff", "is damaged"),
        (b"gzip", gzip.compress(BODY)[:-1], "ends in the middle of its gzip data"),
        (b"gzip", gzip.compress(BODY)[:5], "ends in the middle of its gzip data"),
        (b"deflate", raw_deflate(BODY)[:-1], "ends in the middle of its deflate data"),
        (b"gzip", gzip.compress(BODY) + b" more", "5 bytes follow the end of the body's gzip data"),
        (b"gzip", gzip.compress(BODY) * 2, "bytes follow the end of the body's gzip data"),
        (b"deflate", zlib.compress(BODY) + b"\x00", "1 bytes follow the end of the body's deflate data"),
        (b"gzip, gzip", gzip.compress(BODY), "Content-Encoding says gzip, and the body is not that"),
    ],
)
def test_a_body_that_is_not_what_its_header_says_is_refused(coding: bytes, body: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode_body(body, coding, LIMIT)
    assert words in str(raised.value)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
def test_a_body_may_unpack_to_the_limit_and_not_to_a_byte_more(pack: Pack) -> None:
    coding = b"gzip" if pack is gzip.compress else b"deflate"
    assert len(decode_body(pack(bytes(1_000)), coding, 1_000)) == 1_000
    with pytest.raises(PayloadTooLarge) as raised:
        decode_body(pack(bytes(1_001)), coding, 1_000)
    assert str(raised.value) == (
        "the body unpacks to more than 1000 bytes, the most that are taken (SERVING_MAX_BODY_BYTES)"
    )


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb = gzip.compress(bytes(200_000_000), 9)
    assert len(bomb) < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            decode_body(bomb, b"gzip", LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 3 * LIMIT
    finally:
        tracemalloc.stop()


def test_a_bomb_within_a_bomb_is_found_too() -> None:
    with pytest.raises(PayloadTooLarge):
        decode_body(gzip.compress(gzip.compress(bytes(LIMIT + 1))), b"gzip, gzip", LIMIT)


# Answers


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (b"", None),
        (b"gzip", "gzip"),
        (b"GZIP", "gzip"),
        (b"x-gzip", "gzip"),
        (b"deflate", "deflate"),
        (b"gzip, deflate, br, zstd", "gzip"),
        (b"br, deflate, gzip", "gzip"),
        (b"br", None),
        (b"*", "gzip"),
        (b"gzip;q=0, *", "deflate"),
        (b"*;q=0", None),
        (b"gzip;q=0", None),
        (b"gzip; q=0.0, deflate;q=0.001", "deflate"),
        (b"gzip;q=0.5, deflate;q=0.8", "deflate"),
        (b"gzip;q=0.8 ,deflate ; q=0.8", "gzip"),
        (b"identity", None),
        (b"identity;q=1, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip;q=0.5", "gzip"),
        (b"identity;q=0, gzip", "gzip"),
        (b"identity;q=0", None),
        (b"gzip;q=much", None),
        (b"gzip;q=nan", None),
        (b"gzip;q=-1", None),
        (b"gzip;q=2", None),
        (b"gzip;level=9", "gzip"),
        (b",,;,=;q", None),
        (b"\xff\xfe", None),
    ],
)
def test_the_header_decides_what_an_answer_comes_in(header: bytes, coding: str | None) -> None:
    assert preferred(header) == coding


@given(st.binary(max_size=60))
def test_no_header_breaks_an_answer(header: bytes) -> None:
    assert encode_body(Response(200, LONG), header).status == 200


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_long_answer_comes_packed_and_says_so(coding: str, unpack: Pack) -> None:
    packed = encode_body(Response(400, LONG, headers=(("retry-after", "1"),)), coding.encode())
    assert packed.headers == (("retry-after", "1"), ("vary", "accept-encoding"), ("content-encoding", coding))
    assert unpack(packed.body) == LONG
    assert len(packed.body) < len(LONG) / 10
    assert (packed.status, packed.content_type) == (400, "application/json")


def test_who_names_no_coding_gets_the_answer_as_it_is() -> None:
    answer = Response(200, LONG)
    assert encode_body(answer, b"") is answer


@pytest.mark.parametrize("header", [b"br", b"gzip;q=0"])
def test_a_long_answer_that_comes_plain_tells_caches_that_it_could_have_been_packed(header: bytes) -> None:
    assert encode_body(Response(200, LONG), header) == Response(200, LONG, headers=(("vary", "accept-encoding"),))


@pytest.mark.parametrize(
    "answer",
    [
        Response(200, b""),
        Response(200, b"x" * (MIN_ENCODED_BYTES - 1)),
        Response(200, LONG, "image/png"),
        Response(200, LONG, "Image/JPEG"),
        Response(200, LONG, "font/woff2"),
        Response(200, LONG, "application/zip"),
        Response(200, LONG, headers=(("content-encoding", "br"),)),
    ],
)
def test_what_gains_nothing_by_packing_stays_as_it_is(answer: Response) -> None:
    assert encode_body(answer, b"gzip") is answer


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/html; charset=utf-8", "application/octet-stream", "image/svg+xml"]
)
def test_everything_else_is_packed(content_type: str) -> None:
    assert encode_body(Response(200, LONG, content_type), b"gzip").body[:2] == b"\x1f\x8b"


def test_an_answer_that_is_packed_unpacks_here() -> None:
    body = os.urandom(5_000)
    assert decode_body(encode_body(Response(200, body), b"deflate").body, b"deflate", 5_000) == body
