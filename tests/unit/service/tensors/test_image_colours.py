"""Pictures' colours: modes, more bits than 8, opacity that hides nothing, and profiles."""

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from service.serving_config import ImageSpec
from tests.unit.service.tensors.pictures import (
    COLOUR,
    GREY,
    bmp,
    chunk,
    close,
    decode,
    encode,
    noise,
    oriented,
    patches,
    png,
    rejection,
    tiff,
)

# Modes


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette(kind: str) -> None:
    assert close(decode(encode(patches().quantize(4), kind)), patches(), 0)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_1_bit(kind: str) -> None:
    image = Image.new("1", (8, 8), 1)
    image.paste(0, (0, 0, 4, 8))
    assert close(decode(encode(image, kind), GREY), [[0] * 4 + [255] * 4] * 8, 0)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    # In JPEGs, Pillow stores the inks like Photoshop: inverted, with a marker that says so.
    assert close(decode(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind)), (255, 0, 0), 5)


def test_lab() -> None:
    assert close(decode(encode(Image.new("LAB", (8, 8), (128, 160, 128)), "TIFF")), (170, 97, 121), 5)


# Bits

NOISE = np.random.default_rng(0).integers(0, 65536, (8, 8, 4), np.uint16)
GREYS, COLOURS = NOISE[..., 0], NOISE[..., :3]
INKS = Image.fromarray((NOISE >> 8).astype(np.uint8), "CMYK")


def with_12_bits() -> bytes:
    pairs = (GREYS >> 4).astype(np.uint32).reshape(-1, 2)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    return tiff(packed.tobytes(), (12,), photometric=1)


def of_16_bits(order: str) -> bytes:
    return tiff(COLOURS.astype(f"{order}u2").tobytes(), (16,) * 3, photometric=2, order=order)


def in_planes(order: str) -> bytes:
    planes = np.moveaxis(COLOURS, -1, 0).astype(f"{order}u2")
    return tiff(planes.tobytes(), (16,) * 3, photometric=2, order=order, tags=((284, 2),))


WIDE = {
    "grey PNG": (encode(Image.fromarray(GREYS)), GREYS >> 8),
    "grey PNG, turned by EXIF": (encode(Image.fromarray(GREYS), exif=oriented(3)), GREYS[::-1, ::-1] >> 8),
    "grey TIFF": (encode(Image.fromarray(GREYS), "TIFF"), GREYS >> 8),
    "big-endian grey TIFF": (encode(Image.fromarray(GREYS.astype(">u2")), "TIFF"), GREYS >> 8),
    "grey TIFF with white at 0": (tiff(GREYS.tobytes(), (16,), photometric=0), 255 - (GREYS >> 8)),
    "grey TIFF of 12 bits": (with_12_bits(), GREYS >> 8),
    "PNG": (png(8, 8, b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOURS), depth=16), COLOURS >> 8),
    "TIFF": (of_16_bits("<"), COLOURS >> 8),
    "big-endian TIFF": (of_16_bits(">"), COLOURS >> 8),
    "TIFF in planes": (in_planes("<"), COLOURS >> 8),
    "big-endian TIFF in planes": (in_planes(">"), COLOURS >> 8),
    "TIFF of inks": (tiff(NOISE.tobytes(), (16,) * 4, photometric=5), np.asarray(INKS.convert("RGB"))),
}


@pytest.mark.parametrize("name", WIDE)
def test_16_bits_keep_their_high_byte(name: str) -> None:
    data, expected = WIDE[name]
    assert np.array_equal(decode(data, GREY if expected.ndim == 2 else COLOUR), expected)


def test_16_bit_grey_may_be_transparent() -> None:
    rows = (b"\0" + b"\x00\x00" * 4 + b"\xff\xff" * 4) * 8
    # Black is the transparent one.
    data = png(8, 8, rows, depth=16, colour_type=0, chunks=chunk(b"tRNS", b"\x00\x00"))
    assert decode(data, GREY).min() == 255


@pytest.mark.parametrize(
    ("dtype", "white"),
    # Whole numbers up to 1 are two levels of black.
    [(np.float32, 1), (np.float32, 255), (np.float32, 65535), (np.int32, 255), (np.int32, 65535)],
)
def test_32_bits_take_the_smallest_usual_white(dtype: type[Any], white: int) -> None:
    levels = np.linspace(0, 255, 64).reshape(8, 8).round()
    data = encode(Image.fromarray((levels * (white / 255)).astype(dtype)), "TIFF")
    assert close(decode(data, GREY), levels, 1)


@pytest.mark.parametrize("value", [-1.0, 70_000.0, float("nan"), float("inf")])
def test_32_bits_of_another_range_are_rejected(value: float) -> None:
    pixels = np.zeros((8, 8), np.float32)
    pixels[3, 3] = value
    assert "expected 0 to 1, 255 or 65535" in rejection(encode(Image.fromarray(pixels), "TIFF"))


def test_an_unreadable_kind_of_tiff_is_rejected() -> None:
    data = tiff(NOISE[..., :2].tobytes(), (16, 16), photometric=1, tags=((338, 2),))
    assert rejection(data).endswith("the TIFF picture is truncated or damaged, or of a kind that is not read")


# Opacity

ON_BLACK = ImageSpec(height=28, width=28, mode="L", fit="contain", ground="black")
each_contrast = pytest.mark.parametrize(("ground", "colour"), [(0, 90), (0, 250), (255, 160), (255, 20)])


def shape(ground: int, colour: int) -> Image.Image:
    image = Image.new("L", (28, 28), ground)
    ImageDraw.Draw(image).rectangle((8, 4, 20, 24), colour)
    return image


@pytest.mark.parametrize(
    ("mode", "kind"),
    [*((mode, kind) for mode in ("LA", "RGBA") for kind in ("PNG", "WEBP", "TIFF")), ("PA", "TIFF")],
)
@each_contrast
def test_an_opaque_alpha_channel_is_dropped(mode: str, kind: str, ground: int, colour: int) -> None:
    plain = shape(ground, colour)
    assert np.array_equal(decode(encode(plain.convert(mode), kind), ON_BLACK), decode(encode(plain), ON_BLACK))


def test_a_bitmap_with_an_empty_fourth_byte_is_opaque() -> None:
    assert np.array_equal(decode(bmp(shape(0, 90), alpha=0), ON_BLACK), np.asarray(shape(0, 90)))


@each_contrast
def test_round_corners_are_no_cut_out(ground: int, colour: int) -> None:
    plain = shape(ground, colour)
    corners = Image.new("L", plain.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 27, 27), 4, 255)
    rounded = plain.convert("RGBA")
    rounded.putalpha(corners)
    assert np.array_equal(decode(encode(rounded), ON_BLACK), decode(encode(plain), ON_BLACK))


@pytest.mark.parametrize("mode", ["L", "P"])
@each_contrast
def test_a_transparent_ground_stays_the_ground(mode: str, ground: int, colour: int) -> None:
    plain = shape(ground, colour)
    data = encode(plain.convert(mode), transparency=ground)
    assert np.array_equal(decode(data, ON_BLACK), decode(encode(plain), ON_BLACK))


# Profiles

REDDISH = (200, 120, 100)
# What REDDISH of Display P3 is in sRGB, by CSS Color 4's matrices.
IN_SRGB = (214, 116, 95)
D65 = (0.9505, 1.0, 1.089)


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A colour profile (ICC.1) of version 2."""
    begin = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, begin + len(body), len(content))
        body += content.ljust((len(content) + 3) // 4 * 4, b"\0")
    pcs = b"Lab " if b"A2B0" in tags else b"XYZ "
    header = struct.pack(">I4sI4s4s4s", begin + len(body), b"lcms", 0x02100000, b"mntr", space, pcs)
    header += bytes(12) + b"acsp" + bytes(28) + xyz(0.9642, 1, 0.8249)[8:]
    return header.ljust(128, b"\0") + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def display_p3() -> bytes:
    """Apple's: its primaries, adapted to D50, with a gamma of 2.2 for the curve."""
    primaries = {
        b"rXYZ": xyz(0.5151, 0.2412, -0.0011),
        b"gXYZ": xyz(0.2920, 0.6922, 0.0419),
        b"bXYZ": xyz(0.1571, 0.0666, 0.7841),
    }
    return profile(b"RGB ", primaries | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.2)))


def printer() -> bytes:
    """A CMYK profile of 2 points an ink, in which any ink at all makes black: not what CMYK without a profile does."""
    identity = np.tile(np.arange(256, dtype=np.uint8), 4).tobytes()
    grid = np.zeros((16, 3), np.uint8)
    grid[:, 1:] = 128
    grid[0] = 255, 128, 128
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel())
    return profile(b"CMYK", {b"A2B0": table + identity + grid.tobytes() + identity[:768]})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_a_wide_profile_becomes_srgb(kind: str) -> None:
    data = encode(Image.new("RGB", (8, 8), REDDISH), kind, icc_profile=display_p3())
    assert close(decode(data), IN_SRGB, 4)


def test_a_profile_applies_to_a_palette() -> None:
    data = encode(Image.new("RGB", (8, 8), REDDISH).quantize(2), icc_profile=display_p3())
    assert close(decode(data), IN_SRGB, 4)


def test_a_profile_keeps_the_alpha_channel() -> None:
    image = Image.new("RGBA", (8, 8), (*REDDISH, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    array = decode(encode(image, icc_profile=display_p3()))
    assert close(array[:, :4], IN_SRGB, 4)
    assert close(array[:, 4:], 255, 0)


def test_a_profile_of_greys() -> None:
    linear = profile(b"GRAY", {b"wtpt": xyz(*D65), b"kTRC": gamma(1.0)})
    # A fifth of the light is 128 in sRGB, by its curve.
    assert close(decode(encode(Image.new("L", (8, 8), 55), icc_profile=linear), GREY), 128, 2)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_profile_of_inks(kind: str) -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert decode(encode(image, kind)).max() > 200
    assert decode(encode(image, kind, icc_profile=printer())).max() < 10


UNFIT = {
    "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "of other colours": printer(),
    "cut": display_p3()[:200],
    "garbage": b"garbage",
    "long": display_p3() + bytes(5 << 20),
}


@pytest.mark.parametrize("name", UNFIT)
def test_srgb_and_invalid_profiles_change_nothing(name: str) -> None:
    pixels = noise(8, 8, 3)
    assert np.array_equal(decode(encode(Image.fromarray(pixels), "TIFF", icc_profile=UNFIT[name])), pixels)
