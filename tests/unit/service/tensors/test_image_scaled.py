import subprocess
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from service.errors import InvalidRequest, PayloadTooLarge
from service.serving_config import ImageSpec
from service.tensors import image_scaled
from service.tensors.dtypes import Array
from tests.unit.service.mutations import mutated, with_right_checksums
from tests.unit.service.tensors.pictures import chunk, close, decode, encode, png, rejection

SPEC = ImageSpec(height=16, width=16, mode="RGB", fit="stretch")
ON_BLACK = ImageSpec(height=16, width=16, mode="L", fit="stretch", ground="black")
# Sides that no factor divides, so that the last pixels show less than the others.
SIZE = (211, 157)


@pytest.fixture(autouse=True, scope="module")
def small_pictures_count_as_large() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_scaled, "_MIN_PIXELS", 1)
        # Three strips.
        patch.setattr(image_scaled, "_STRIP_BYTES", 64 * (1 + 3 * SIZE[0]))
        yield


def scene() -> Image.Image:
    """Slopes, on which Pillow's encoder uses every filter, with sharp edges."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    image = Image.fromarray(np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 120, 90), (250, 240, 10))
    draw.rectangle((130, 90, 210, 156), (0, 0, 0))
    return image


def cut_out(mode: str = "RGBA") -> Image.Image:
    image = scene().convert(mode)
    opacity = Image.new("L", SIZE, 255)
    ImageDraw.Draw(opacity).rectangle((0, 0, 60, 157), 0)
    image.putalpha(opacity)
    return image


def whole(data: bytes, spec: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> Array:
    with monkeypatch.context() as patch:
        patch.setattr(image_scaled, "_MIN_PIXELS", 1_000_000)
        return decode(data, spec)


def grey16() -> Image.Image:
    return Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 257)


PNGS: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "grey": (scene().convert("L"), {}),
    "grey with a clear level": (scene().convert("L"), {"transparency": 0}),
    "grey with opacity": (cut_out("LA"), {}),
    "black and white": (scene().convert("1"), {}),
    "16 bits": (grey16(), {}),
    "16 bits with a clear level": (grey16(), {"transparency": 0}),
    "colour": (scene(), {}),
    "colour with a clear one": (scene(), {"transparency": (0, 0, 0)}),
    "colour with opacity": (cut_out(), {}),
    "palette": (scene().quantize(200), {}),
    "palette of 16": (scene().quantize(16), {}),
    "palette of 4": (scene().quantize(4), {}),
    "palette of 2": (scene().quantize(2), {}),
    "palette with opacity": (scene().quantize(200), {"transparency": bytes(range(200))}),
    "palette with a clear colour": (scene().quantize(16), {"transparency": 3}),
}


@pytest.mark.parametrize("kind", PNGS)
@pytest.mark.parametrize("spec", [SPEC, ON_BLACK], ids=["colour", "grey on black"])
def test_png_in_strips_is_as_the_whole(kind: str, spec: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    image, options = PNGS[kind]
    data = encode(image, "PNG", **options)
    array, expected = decode(data, spec), whole(data, spec, monkeypatch)
    assert np.abs(array.astype(int) - expected).mean() < 1
    assert close(array, expected, 8)


@pytest.mark.parametrize("depth", [2, 4])
def test_grey_png_of_few_bits_in_strips(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = b"".join(b"\0" + bytes([row] * 200) for row in range(200))
    data = png(200 * 8 // depth, 200, rows, depth=depth, colour_type=0)
    assert close(decode(data, SPEC), whole(data, SPEC, monkeypatch), 8)


@pytest.mark.parametrize("image", [scene(), cut_out()], ids=["opaque", "with opacity"])
@pytest.mark.parametrize("is_lossless", [False, True], ids=["lossy", "lossless"])
@pytest.mark.parametrize("spec", [SPEC, ON_BLACK], ids=["colour", "grey on black"])
def test_scaled_webp_is_as_the_whole(
    image: Image.Image, is_lossless: bool, spec: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(image, "WEBP", lossless=is_lossless, quality=90)
    array, expected = decode(data, spec), whole(data, spec, monkeypatch)
    assert np.abs(array.astype(int) - expected).mean() < 2
    assert close(array, expected, 16)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("hidden", [0, 255])
def test_colours_of_what_is_transparent_are_kept(kind: str, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # By them the ground of a cut-out is found.
    image = Image.new("LA", SIZE, (hidden, 0))
    image.paste((128, 255), (60, 40, 150, 120))
    data = encode(image.convert("RGBA"), kind, exact=True)
    assert close(decode(data, ON_BLACK), whole(data, ON_BLACK, monkeypatch), 8)


def test_webp_is_decoded_whole_without_libwebp(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(scene(), "WEBP")
    expected = whole(data, SPEC, monkeypatch)
    monkeypatch.setattr(image_scaled, "_has_libwebp", lambda: False)
    assert np.array_equal(decode(data, SPEC), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_decoded_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(scene(), kind, save_all=True, append_images=[scene().rotate(180)])
    assert np.array_equal(decode(data, SPEC), whole(data, SPEC, monkeypatch))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_metadata_of_a_scaled_picture_counts(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    upright = decode(encode(scene(), kind), SPEC)
    assert close(decode(encode(scene().rotate(180), kind, exif=exif.tobytes()), SPEC), upright, 16)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_truncated_picture_is_rejected(kind: str) -> None:
    data = encode(scene(), kind)
    for length in (len(data) // 3, len(data) // 2, len(data) - 30):
        assert "truncated or damaged" in rejection(data[:length], SPEC)


ROW = b"\0" + b"\x80" * 3 * SIZE[0]
DAMAGED = {
    "no data": png(*SIZE),
    "part of a row": png(*SIZE, ROW * 100 + b"ab"),
    "an unknown filter": png(*SIZE, ROW * 100 + b"\x07" + ROW[1:] + ROW * 56),
    "a wrong checksum": png(*SIZE, ROW * 157).replace(
        zlib.compress(ROW * 157), zlib.compress(ROW * 157)[:-4] + b"????"
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_png_is_rejected(what: str) -> None:
    assert "truncated or damaged" in rejection(DAMAGED[what], SPEC)


def test_missing_rows_are_black() -> None:
    array = decode(png(*SIZE, ROW * 80), SPEC)
    assert (array[0], array[-1]) == (pytest.approx(128, abs=4), pytest.approx(0, abs=4))


def test_rows_may_come_in_any_pieces() -> None:
    rows = zlib.compress(ROW * 157)
    pieces = b"".join(chunk(b"IDAT", rows[at : at + 7]) for at in range(0, len(rows), 7))
    whole_data = png(*SIZE, ROW * 157)
    data = whole_data.replace(chunk(b"IDAT", rows), pieces)
    assert np.array_equal(decode(data, SPEC), decode(whole_data, SPEC))


@cache
def seeds() -> list[bytes]:
    webps = [encode(image, "WEBP", lossless=lossless) for image in (scene(), cut_out()) for lossless in (False, True)]
    return webps + [encode(image, "PNG", **options) for image, options in PNGS.values()]


@given(mutated(st.deferred(lambda: st.sampled_from(seeds())), most=4), st.booleans())
def test_damaged_pictures(data: bytes, has_right_checksums: bool) -> None:
    """Any error but a rejection fails the test."""
    data = with_right_checksums(data) if has_right_checksums and data.startswith(b"\x89PNG") else data
    try:
        array = decode(data, ON_BLACK, max_pixels=100_000)
    except (InvalidRequest, PayloadTooLarge):
        return
    assert (array.shape, array.dtype) == ((16, 16), np.uint8)


LARGE = """
from io import BytesIO
from PIL import Image
from service.serving_config import ImageSpec
from service.tensors.image import decode_picture

def encoded(kind, *size):
    out = BytesIO()
    Image.new("RGB", size, "red").save(out, kind, compress_level=1, method=0)
    return out.getvalue()

spec = ImageSpec(height=28, width=28)
file = encoded({kind!r}, 6000, 4000)
decode_picture(file, spec, 50_000_000)
"""
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = peak()
decode_picture(file, spec, 50_000_000)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_large_picture_is_never_held_whole(kind: str) -> None:
    # 24 million pixels would be 72 MB at least.
    code = LARGE.format(kind=kind) + PEAK
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 24 * 1024
