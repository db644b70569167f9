"""JPEGs that are cut short."""

import random
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from service.errors import InvalidRequest
from service.serving_config import ImageSpec
from service.tensors.dtypes import Array
from service.tensors.image import decode_picture

SPEC = ImageSpec(height=64, width=64)
OPTIONS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 3},
    "best": {"quality": 100, "subsampling": 0},
    "progressive, restart markers": {"progressive": True, "restart_marker_rows": 1},
}
each_kind = pytest.mark.parametrize("kind", OPTIONS)


def jpeg(kind: str = "baseline", mode: str = "RGB", size: tuple[int, int] = (320, 240)) -> bytes:
    """A picture with something everywhere, and nothing of it twice."""
    image = Image.new(mode, size)
    draw, chance = ImageDraw.Draw(image), random.Random(1)
    for _ in range(200):
        x, y = chance.randrange(size[0]), chance.randrange(size[1])
        colour: Any = chance.randrange(256) if mode == "L" else tuple(chance.randrange(256) for _ in range(3))
        draw.ellipse((x - 30, y - 30, x + 30, y + 30), colour)
    out = BytesIO()
    image.filter(ImageFilter.GaussianBlur(2)).save(out, "JPEG", **OPTIONS[kind])
    return out.getvalue()


def decode(data: bytes) -> Array:
    return decode_picture(data, SPEC, 10_000_000)


def is_refused(data: bytes) -> bool:
    try:
        decode(data)
    except InvalidRequest:
        return True
    return False


TRAILERS = {
    "nothing": b"",
    "half an end": b"\xff",
    "a camera's": b"dhav\x59\x19\x01\x00",
    "room left": bytes(5000),
    "room left in flash": b"\xff" * 5000,
}


@each_kind
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("trailer", TRAILERS)
def test_without_its_end_marker_a_jpeg_is_all_there(kind: str, mode: str, trailer: str) -> None:
    whole = jpeg(kind, mode)
    assert np.array_equal(decode(whole[:-2] + TRAILERS[trailer]), decode(whole))


@each_kind
def test_of_one_that_lacks_some_of_the_last_rows_the_others_are_right(kind: str) -> None:
    whole = jpeg(kind)
    cut = decode(whole[: int(len(whole) * 0.98)])
    assert np.abs(cut[:56].astype(int) - decode(whole)[:56]).max() <= 2


@each_kind
@pytest.mark.parametrize("share", [0.1, 0.5, 0.85])
@pytest.mark.parametrize("trailer", TRAILERS)
def test_one_that_lacks_more_is_refused(kind: str, share: float, trailer: str) -> None:
    whole = jpeg(kind)
    assert is_refused(whole[: int(len(whole) * share)] + TRAILERS[trailer])


def test_one_that_is_unpacked_at_a_fraction_is_judged_alike() -> None:
    whole = jpeg(size=(2000, 1500))
    assert not is_refused(whole[: int(len(whole) * 0.98)])
    assert is_refused(whole[: int(len(whole) * 0.85)])


def test_a_progressive_one_that_lacks_whole_scans_is_refused() -> None:
    whole = jpeg("progressive")
    last_scan = whole.rindex(b"\xff\xda")
    last_tables = whole.rindex(b"\xff\xc4", 0, last_scan)
    assert is_refused(whole[:last_tables])


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xda\0\x02", b"\xff\xda\0\x08\x01\x01\0\0\x3f\0", b"\0"])
def test_hostile_bytes_behind_a_cut_are_soon_refused(filling: bytes) -> None:
    whole = jpeg()
    # Of these, what takes the square of the time would take hours.
    assert is_refused(whole[: len(whole) // 2] + filling * (2_000_000 // len(filling)))
