"""Pictures' colours: modes, more bits than 8, opacity that hides nothing, and profiles."""

import struct
from collections.abc import Callable
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
    plain,
    png,
    rejection,
    tiff,
)

NOISE = np.random.default_rng(0).integers(0, 65536, (8, 8, 4), np.uint16)
GREYS, COLOURS = NOISE[..., 0], NOISE[..., :3]
INKS = Image.fromarray((NOISE >> 8).astype(np.uint8), "CMYK")
BITS = Image.fromarray(np.array([[0] * 4 + [255] * 4] * 8, np.uint8))
LEVELS = np.linspace(0, 255, 64).reshape(8, 8).round()


def with_12_bits() -> bytes:
    pairs = (GREYS >> 4).astype(np.uint32).reshape(-1, 2)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    return tiff(packed.tobytes(), (12,), 1)


def of_16_bits(order: str) -> bytes:
    return tiff(COLOURS.astype(f"{order}u2").tobytes(), (16,) * 3, 2, order=order)


def in_planes(order: str) -> bytes:
    planes = np.moveaxis(COLOURS, -1, 0).astype(f"{order}u2")
    return tiff(planes.tobytes(), (16,) * 3, 2, order=order, tags=((284, 2),))


def of_32_bits(white: int, dtype: type[Any]) -> bytes:
    return encode(Image.fromarray((LEVELS * (white / 255)).astype(dtype)), "TIFF")


# REDDISH of Display P3 in sRGB, by CSS Color 4's matrices.
REDDISH, IN_SRGB = (200, 120, 100), (214, 116, 95)


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


def printer() -> bytes:
    """A CMYK profile of 2 points an ink, in which any ink at all makes black: not what CMYK without a profile does."""
    identity = np.tile(np.arange(256, dtype=np.uint8), 4).tobytes()
    grid = np.full((16, 3), (0, 128, 128), np.uint8)
    grid[0, 0] = 255
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel())
    return profile(b"CMYK", {b"A2B0": table + identity + grid.tobytes() + identity[:768]})


PRIMARIES = {b"rXYZ": (0.5151, 0.2412, -0.0011), b"gXYZ": (0.2920, 0.6922, 0.0419), b"bXYZ": (0.1571, 0.0666, 0.7841)}
# Apple's Display P3: its primaries, adapted to D50, with a gamma of 2.2 for the curve.
P3 = profile(
    b"RGB ",
    {name: xyz(*place) for name, place in PRIMARIES.items()} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.2)),
)
LINEAR_GREY = profile(b"GRAY", {b"wtpt": xyz(0.9505, 1.0, 1.089), b"kTRC": gamma(1.0)})
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
IGNORED = {"sRGB": SRGB, "inks'": printer(), "cut": P3[:200], "garbage": b"garbage", "long": P3 + bytes(5 << 20)}
CYAN = plain((255, 0, 0, 0), "CMYK")


def cut_out_with_profile() -> bytes:
    image = plain((*REDDISH, 255), "RGBA")
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    return encode(image, icc_profile=P3)


# A picture, its pixels (in grey where they have two axes), and how many levels they may differ by.
PICTURES: dict[str, tuple[bytes, Any, int]] = {
    **{
        f"palette {kind}": (encode(patches().quantize(4), kind), patches(), 0) for kind in ("PNG", "GIF", "BMP", "TIFF")
    },
    **{f"1 bit {kind}": (encode(BITS.convert("1"), kind), BITS, 0) for kind in ("PNG", "BMP", "TIFF")},
    # In JPEGs, Pillow stores the inks like Photoshop: inverted, with a marker that says so.
    **{f"inks {kind}": (encode(plain((0, 255, 255, 0), "CMYK"), kind), (255, 0, 0), 5) for kind in ("JPEG", "TIFF")},
    "LAB": (encode(plain((128, 160, 128), "LAB"), "TIFF"), (170, 97, 121), 5),
    "16 bits, grey PNG": (encode(Image.fromarray(GREYS)), GREYS >> 8, 0),
    "16 bits, turned by EXIF": (encode(Image.fromarray(GREYS), exif=oriented(3)), GREYS[::-1, ::-1] >> 8, 0),
    "16 bits, grey TIFF": (encode(Image.fromarray(GREYS), "TIFF"), GREYS >> 8, 0),
    "16 bits, big-endian grey TIFF": (encode(Image.fromarray(GREYS.astype(">u2")), "TIFF"), GREYS >> 8, 0),
    "16 bits, white at 0": (tiff(GREYS.tobytes(), (16,), 0), 255 - (GREYS >> 8), 0),
    "12 bits": (with_12_bits(), GREYS >> 8, 0),
    "16 bits, PNG": (
        png(8, 8, b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOURS), depth=16),
        COLOURS >> 8,
        0,
    ),
    **{f"16 bits, {order} TIFF": (of_16_bits(order), COLOURS >> 8, 0) for order in "<>"},
    **{f"16 bits, {order} planes": (in_planes(order), COLOURS >> 8, 0) for order in "<>"},
    "16 bits, inks": (tiff(NOISE.tobytes(), (16,) * 4, 5), INKS.convert("RGB"), 0),
    # Whole numbers up to 1 would be two levels of black.
    **{f"floats to {white}": (of_32_bits(white, np.float32), LEVELS, 1) for white in (1, 255, 65535)},
    **{f"32 bits to {white}": (of_32_bits(white, np.int32), LEVELS, 1) for white in (255, 65535)},
    **{
        f"P3 {kind}": (encode(plain(REDDISH), kind, icc_profile=P3), IN_SRGB, 4)
        for kind in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF")
    },
    "P3 palette": (encode(plain(REDDISH).quantize(2), icc_profile=P3), IN_SRGB, 4),
    "P3 cut-out": (cut_out_with_profile(), [[IN_SRGB] * 4 + [(255, 255, 255)] * 4] * 8, 4),
    # A fifth of the light is 128 in sRGB, by its curve.
    "profile of greys": (encode(plain(55, "L"), icc_profile=LINEAR_GREY), np.full((8, 8), 128), 2),
    **{f"printer's {kind}": (encode(CYAN, kind, icc_profile=printer()), (0, 0, 0), 9) for kind in ("JPEG", "TIFF")},
    **{
        f"{name} profile": (
            encode(Image.fromarray(noise(8, 8, 3)), "TIFF", icc_profile=IGNORED[name]),
            noise(8, 8, 3),
            0,
        )
        for name in IGNORED
    },
}


@pytest.mark.parametrize("name", PICTURES)
def test_colours(name: str) -> None:
    data, pixels, tolerance = PICTURES[name]
    assert close(decode(data, GREY if np.ndim(pixels) == 2 else COLOUR), pixels, tolerance)


def test_16_bit_grey_may_be_transparent() -> None:
    rows = (b"\0" + b"\x00\x00" * 4 + b"\xff\xff" * 4) * 8
    # Black is the transparent one.
    data = png(8, 8, rows, depth=16, colour_type=0, chunks=chunk(b"tRNS", b"\x00\x00"))
    assert decode(data, GREY).min() == 255


@pytest.mark.parametrize("value", [-1.0, 70_000.0, float("nan"), float("inf")])
def test_32_bits_of_another_range_are_rejected(value: float) -> None:
    pixels = np.zeros((8, 8), np.float32)
    pixels[3, 3] = value
    assert "expected 0 to 1, 255 or 65535" in rejection(encode(Image.fromarray(pixels), "TIFF"))


def test_unreadable_kind_of_tiff_is_rejected() -> None:
    data = tiff(NOISE[..., :2].tobytes(), (16, 16), 1, tags=((338, 2),))
    assert rejection(data).endswith("the TIFF picture is truncated or damaged, or of a kind that is not read")


def with_round_corners(image: Image.Image, _: int) -> bytes:
    corners = Image.new("L", image.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 27, 27), 4, 255)
    rounded = image.convert("RGBA")
    rounded.putalpha(corners)
    return encode(rounded)


def with_alpha(mode: str, kind: str) -> Callable[[Image.Image, int], bytes]:
    return lambda image, _: encode(image.convert(mode), kind)


WITH_ALPHA: dict[str, Callable[[Image.Image, int], bytes]] = {
    **{f"{mode} {kind}": with_alpha(mode, kind) for mode in ("LA", "RGBA") for kind in ("PNG", "WEBP", "TIFF")},
    "PA TIFF": with_alpha("PA", "TIFF"),
    # Windows leaves the fourth byte empty.
    "BMP": lambda image, _: bmp(image, alpha=0),
    "round corners": with_round_corners,
    "clear ground": lambda image, ground: encode(image, transparency=ground),
    "clear ground in a palette": lambda image, ground: encode(image.convert("P"), transparency=ground),
}


@pytest.mark.parametrize("name", WITH_ALPHA)
@pytest.mark.parametrize(("ground", "colour"), [(0, 90), (0, 250), (255, 160), (255, 20)])
def test_alpha_that_cuts_nothing_out_is_ignored(name: str, ground: int, colour: int) -> None:
    spec = ImageSpec(height=28, width=28, mode="L", fit="contain", ground="black")
    image = Image.new("L", (28, 28), ground)
    ImageDraw.Draw(image).rectangle((8, 4, 20, 24), colour)
    assert np.array_equal(decode(WITH_ALPHA[name](image, ground), spec), decode(image, spec))
