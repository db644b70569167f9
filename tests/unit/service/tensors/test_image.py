import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

from service.errors import InvalidRequest, PayloadTooLarge
from service.serving_config import ImageSpec
from service.tensors import image_file
from service.tensors.dtypes import Array
from service.tensors.image import decode_picture, picture_batch
from service.tensors.image_file import FORMATS
from tests.unit.service.fakes import any_shape, signature, tensor

Fit = Literal["contain", "cover", "stretch"]
Mode = Literal["L", "RGB"]

COLOUR = ImageSpec(height=8, width=8, mode="RGB", fit="contain")
GREY = ImageSpec(height=8, width=8, mode="L", fit="contain")
ON_BLACK = ImageSpec(height=8, width=8, mode="L", fit="contain", ground="black")
ON_WHITE = ImageSpec(height=8, width=8, mode="L", fit="contain", ground="white")
MANY_PIXELS = 50_000_000
MANY_BYTES = 1_000_000
ORIENTATION = 0x0112
LOSSLESS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
LOSSLESS["MPO"] = LOSSLESS["JPEG"]
LOSSLESS["AVIF"] = {"quality": 100, "subsampling": "4:4:4"}
# Levels of 255 that these lose all the same.
LOSS = {"JPEG": 12, "MPO": 12, "AVIF": 4}


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **{**LOSSLESS.get(kind, {}), **options})
    return out.getvalue()


def decode(data: bytes, spec: ImageSpec = COLOUR, max_pixels: int = MANY_PIXELS) -> Array:
    return decode_picture(data, spec, max_pixels)


def rejection(data: bytes, spec: ImageSpec = COLOUR) -> str:
    with pytest.raises(InvalidRequest) as raised:
        decode(data, spec)
    return str(raised.value)


def spec_for(image: Image.Image, mode: Mode = "RGB") -> ImageSpec:
    return ImageSpec(height=image.height, width=image.width, mode=mode)


def close(array: Array, expected: object, tolerance: int = 3) -> bool:
    return bool(np.abs(np.asarray(array, int) - np.asarray(expected, int)).max() <= tolerance)


def noise(*shape: int, seed: int = 0, dtype: type[np.generic] = np.uint8) -> Array:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)  # type: ignore[type-var]


def patches() -> Image.Image:
    """8 x 8 of four colours, so that nothing is lost to a palette and every turn shows."""
    image = Image.new("RGB", (8, 8), "black")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 3, 3), (255, 0, 0))
    draw.rectangle((4, 0, 7, 1), (0, 0, 255))
    draw.rectangle((0, 6, 1, 7), (255, 255, 255))
    return image


def garment(ground: int, colour: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """A rectangle in the middle of a ground, half as wide and half as high."""
    image = Image.new("L", size, ground)
    width, height = size
    image.paste(colour, (width // 4, height // 4, width // 4 * 3, height // 4 * 3))
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, rows: bytes = b"", *, depth: int = 8, colour_type: int = 2, chunks: bytes = b""
) -> bytes:
    """A PNG file put together by hand: what its header says needs not be what it holds."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# What comes in


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_in_colour(kind: str) -> None:
    array = decode(encode(patches(), kind))
    assert (array.dtype, array.shape) == (np.uint8, (8, 8, 3))
    assert close(array, patches(), tolerance=LOSS.get(kind, 0))


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_in_grey(kind: str) -> None:
    array = decode(encode(patches(), kind), GREY)
    assert (array.dtype, array.shape) == (np.uint8, (8, 8))
    assert close(array, patches().convert("L"), tolerance=LOSS.get(kind, 1))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    turns: list[Callable[[Array], Array]] = [
        lambda pixels: pixels,
        lambda pixels: pixels[:, ::-1],
        lambda pixels: pixels[::-1, ::-1],
        lambda pixels: pixels[::-1],
        lambda pixels: pixels.transpose(1, 0, 2),
        lambda pixels: pixels.transpose(1, 0, 2)[::-1],
        lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
        lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    ]
    upright = np.asarray(patches().crop((0, 0, 8, 6)))
    # EXIF: where the stored picture's first row and column lie in the upright one.
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation - 1](upright)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"save_all": True, "append_images": [stored]} if kind == "MPO" else {}
    array = decode(encode(stored, kind, exif=exif, **options), ImageSpec(height=6, width=8))
    assert close(array, upright, tolerance=LOSS.get(kind, 0))


def test_an_unknown_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 99
    assert close(decode(encode(patches(), exif=exif)), patches(), 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "damaged",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\x00\x01\x01\x12\x00\x03\xff\xff\xff\xff\xff\xff",
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Possibly corrupt EXIF", "ignore:Truncated")
def test_damaged_exif_is_ignored(kind: str, damaged: bytes) -> None:
    assert close(decode(encode(patches(), kind, exif=damaged)), patches(), 12)


def transparent(mode: str, kind: str = "PNG", colour: int = 0) -> bytes:
    """The left half in a colour, the right half fully transparent (and, below that, of the opposite colour)."""
    image = Image.new("RGBA", (8, 8), (255 - colour,) * 3 + (0,))
    image.paste((colour,) * 3 + (255,), (0, 0, 4, 8))
    if mode == "P":
        palette = Image.new("P", (8, 8), 1)
        palette.putpalette([colour] * 3 + [255 - colour] * 3)
        palette.paste(0, (0, 0, 4, 8))
        return encode(palette, kind, transparency=1)
    if mode in ("L", "RGB"):
        key: Any = 255 - colour
        return encode(image.convert(mode), kind, transparency=key if mode == "L" else (key,) * 3)
    return encode(image.convert(mode), kind)


TRANSPARENT = [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("L", "PNG"), ("RGB", "PNG"), ("P", "GIF")]
TRANSPARENT += [("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "TIFF")]


@pytest.mark.parametrize(("mode", "kind"), TRANSPARENT)
def test_transparency_is_white(mode: str, kind: str) -> None:
    array = decode(transparent(mode, kind, colour=0))
    assert close(array[:, :4], 0)
    assert close(array[:, 4:], 255)


@pytest.mark.parametrize(("mode", "kind"), TRANSPARENT)
@pytest.mark.parametrize("colour", [0, 255])
def test_a_cut_out_for_a_model_on_black(mode: str, kind: str, colour: int) -> None:
    array = decode(transparent(mode, kind, colour), ON_BLACK)
    assert close(array[:, :4], 255)
    assert close(array[:, 4:], 0)


def test_a_cut_out_that_fills_its_picture() -> None:
    cut_out = Image.new("RGBA", (8, 8), (20, 20, 60, 255))
    cut_out.paste((0, 0, 0, 0), (3, 2, 5, 8))  # between the legs of trousers
    array = decode(encode(cut_out), ON_BLACK)
    assert array[0, 0] > 200
    assert array[5, 3] == 0


@pytest.mark.parametrize("colour", [0, 255])
def test_a_cut_out_for_a_model_on_white(colour: int) -> None:
    array = decode(transparent("RGBA", colour=colour), ON_WHITE)
    assert close(array[:, :4], 0)
    assert close(array[:, 4:], 255)


def test_half_transparency_is_half_white() -> None:
    array = decode(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128))))
    assert close(array, 127)


def test_a_fully_transparent_picture_is_all_ground() -> None:
    data = encode(Image.new("RGBA", (8, 8), (10, 20, 30, 0)))
    assert decode(data).min() == 255
    assert decode(data, ON_BLACK).max() == 0
    assert decode(data, ON_WHITE).min() == 255


def test_transparency_takes_little_memory() -> None:
    data = encode(Image.new("RGBA", (1000, 1000), (1, 2, 3, 100)))
    tracemalloc.start()
    try:
        decode(data, ON_BLACK)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    bytes_for_a_pixel = peak / 1_000_000
    assert bytes_for_a_pixel < 10


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palettes(kind: str) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert close(decode(encode(image, kind)), np.full((8, 8, 3), (200, 100, 50)), 0)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_1_bit_pictures(kind: str) -> None:
    image = Image.new("1", (8, 8), 1)
    image.paste(0, (0, 0, 4, 8))
    array = decode(encode(image, kind), GREY)
    assert close(array[:, :4], 0, 0)
    assert close(array[:, 4:], 255, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("spec", [GREY, COLOUR])
def test_16_bit_grey_keeps_its_high_byte(kind: str, spec: ImageSpec) -> None:
    pixels = noise(8, 8, dtype=np.uint16)
    array = decode(encode(Image.fromarray(pixels), kind), spec)
    grey = array if array.ndim == 2 else array[..., 1]
    assert close(grey, pixels >> 8, 1)


def test_16_bit_grey_of_the_other_byte_order() -> None:
    pixels = noise(8, 8, dtype=np.uint16)
    assert close(decode(encode(Image.fromarray(pixels.astype(">u2")), "TIFF"), GREY), pixels >> 8, 1)


def test_16_bit_grey_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    pixels = noise(8, 8, dtype=np.uint16)
    assert close(decode(encode(Image.fromarray(pixels), "PNG", exif=exif), GREY), pixels[::-1, ::-1] >> 8, 1)


def test_16_bit_grey_may_be_transparent() -> None:
    rows = b"".join(b"\0" + b"\x00\x00" * 4 + b"\xff\xff" * 4 for _ in range(8))
    # Black is the transparent one.
    data = png(8, 8, rows, depth=16, colour_type=0, chunks=chunk(b"tRNS", b"\x00\x00"))
    assert decode(data, GREY).min() == 255


def test_a_16_bit_png_keeps_its_high_bytes() -> None:
    pixels = noise(8, 8, 3, dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    assert close(decode(png(8, 8, rows, depth=16)), pixels >> 8, 1)


def tiff(pixels: Array, *, little_endian: bool = True, premultiplied: bool = False) -> bytes:
    """An uncompressed TIFF as Pillow itself cannot write it: of 16-bit colours, or with colours that are multiplied
    by their opacity."""
    order = "<" if little_endian else ">"
    height, width, channels = pixels.shape
    bits = pixels.dtype.itemsize * 8
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    offset = 8 + len(data)
    # tag, type (3: short, 4: long), count, value
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, offset if channels > 2 else bits | bits << 16),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if channels >= 3 else 1),
        (273, 4, 1, 8),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    if premultiplied:
        tags.append((338, 3, 1, 1))
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + (struct.pack(f"{order}HH", value, 0) if (kind, count) == (3, 1) else struct.pack(f"{order}I", value))
        for tag, kind, count, value in tags
    )
    bits_of_each = struct.pack(f"{order}{channels}H", *[bits] * channels)
    header = (b"II*\0" if little_endian else b"MM\0*") + struct.pack(f"{order}I", offset + len(bits_of_each))
    return header + data + bits_of_each + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


@pytest.mark.parametrize("little_endian", [True, False])
def test_a_16_bit_tiff_keeps_its_high_bytes(little_endian: bool) -> None:
    pixels = noise(8, 8, 3, dtype=np.uint16)
    assert close(decode(tiff(pixels, little_endian=little_endian)), pixels >> 8, 1)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("spec", [COLOUR, GREY, ON_BLACK])
def test_premultiplied_colours(channels: int, spec: ImageSpec) -> None:
    pixels = np.full((8, 8, channels), 0, np.uint8)
    pixels[..., -1] = 128  # black, half of it
    array = decode(tiff(pixels, premultiplied=True), spec)
    # Opaque everywhere alike, it is no cut-out: for a model that knows one ground it lies on its own, black.
    assert close(array, 0 if spec is ON_BLACK else 127)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind)
    assert close(decode(data), np.full((8, 8, 3), (255, 0, 0)), 5)


def test_a_cmyk_jpeg_of_photoshop_is_not_inverted() -> None:
    # Photoshop stores the inks inverted, and says so in a marker of its own; as Pillow writes them.
    data = encode(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG")
    assert b"Adobe" in data
    assert close(decode(data, GREY), 0, 5)


@pytest.mark.parametrize("spec", [COLOUR, GREY])
def test_lab(spec: ImageSpec) -> None:
    array = decode(encode(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF"), spec)
    assert array.shape[:2] == (8, 8)


def frames(kind: str) -> bytes:
    first, *others = [Image.new("L", (8, 8), level) for level in (200, 0, 100)]
    out = BytesIO()
    first.save(out, kind, save_all=True, append_images=others, **LOSSLESS.get(kind, {}))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    assert close(decode(frames(kind), GREY), 200, LOSS.get(kind, 0))


def test_two_pictures_in_one_jpeg_are_one() -> None:
    out = BytesIO()
    patches().save(out, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], quality=100, subsampling=0)
    assert close(decode(out.getvalue()), patches(), 12)


# What goes out: size and aspect


@pytest.mark.parametrize("fit", ["contain", "cover", "stretch"])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_a_picture_of_the_models_size_keeps_its_pixels(fit: Fit, kind: str) -> None:
    pixels = noise(9, 7, 3)
    array = decode(encode(Image.fromarray(pixels), kind), ImageSpec(height=9, width=7, fit=fit))
    assert np.array_equal(array, pixels)


def box(array: Array, level: int = 128) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what is brighter than the level."""
    rows, columns = np.nonzero(array > level)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((40, 20), (7, 21, 0, 28)),
        ((20, 40), (0, 28, 7, 21)),
        ((14, 7), (7, 21, 0, 28)),
        ((30, 30), (0, 28, 0, 28)),
        ((1, 1), (0, 28, 0, 28)),
        ((10000, 1), (13, 14, 0, 28)),
        ((1, 10000), (0, 28, 13, 14)),
    ],
)
def test_contain_keeps_the_aspect(size: tuple[int, int], expected: tuple[int, int, int, int]) -> None:
    array = decode(encode(Image.new("L", size, 255)), ImageSpec(height=28, width=28, mode="L", fit="contain"))
    assert box(array) == expected


@pytest.mark.parametrize("colour", ["white", "black"])
def test_contain_pads_with_the_ground(colour: Literal["white", "black"]) -> None:
    spec = ImageSpec(height=8, width=8, mode="L", fit="contain", ground=colour)
    array = decode(encode(garment(255, 0, (40, 8))), spec)
    assert close(array[0], 255 if colour == "white" else 0, 0)
    assert close(array[-1], 255 if colour == "white" else 0, 0)


def test_cover_cuts_both_sides() -> None:
    image = Image.new("RGB", (32, 8), "red")
    image.paste((0, 255, 0), (12, 0, 20, 8))
    array = decode(encode(image), ImageSpec(height=8, width=8, fit="cover"))
    assert close(array, np.full((8, 8, 3), (0, 255, 0)), 0)


def test_stretch_does_not_keep_the_aspect() -> None:
    image = Image.new("L", (32, 8), 0)
    image.paste(255, (16, 0, 32, 8))
    array = decode(encode(image), ImageSpec(height=8, width=8, mode="L", fit="stretch"))
    assert close(array[:, :3], 0, 30)
    assert close(array[:, 5:], 255, 30)


@pytest.mark.parametrize("fit", ["contain", "cover", "stretch"])
@pytest.mark.parametrize("size", [(10000, 1), (1, 10000), (1, 1), (65535, 1)])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (1, 200), (200, 1)])
def test_narrow_pictures_get_the_models_size(fit: Fit, size: tuple[int, int], height: int, width: int) -> None:
    array = decode(encode(Image.new("RGB", size, "red")), ImageSpec(height=height, width=width, fit=fit))
    assert array.shape == (height, width, 3)
    assert array[..., 0].max() == 255


def test_a_large_jpeg_matches_its_png() -> None:
    # A JPEG is unpacked at a fraction of its size; that must not show.
    image = Image.fromarray(noise(10, 10, 3)).resize((400, 400), Image.Resampling.BICUBIC)
    assert close(decode(encode(image, "JPEG")), decode(encode(image)), 4)


# Ground


@pytest.mark.parametrize("spec", [ON_BLACK, ON_WHITE])
def test_the_opposite_ground_is_inverted(spec: ImageSpec) -> None:
    dark_on_white = garment(255, 30, (32, 32))
    array = decode(encode(dark_on_white), spec)
    assert np.array_equal(array, decode(encode(ImageOps.invert(dark_on_white)), spec))
    ground = 0 if spec is ON_BLACK else 255
    assert close(array[0], ground, 0)
    assert close(array[3:5, 3:5], 225 if spec is ON_BLACK else 30, 20)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF"])
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000), st.sampled_from(["contain", "cover", "stretch"]))
def test_an_inverted_picture_gives_the_same_array(kind: str, width: int, height: int, seed: int, fit: Fit) -> None:
    pixels = noise(height, width, seed=seed)
    border = np.ones_like(pixels, bool)
    border[1:-1, 1:-1] = False
    pixels[border] //= 2  # a ground that is dark, beyond doubt
    spec = ImageSpec(height=12, width=9, mode="L", fit=fit, ground="black")
    image = Image.fromarray(pixels)
    assert np.array_equal(decode(encode(image, kind), spec), decode(encode(ImageOps.invert(image), kind), spec))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_the_ground_of_a_tiny_picture(size: tuple[int, int]) -> None:
    assert decode(encode(Image.new("L", size, 250)), ON_BLACK).max() == 5


def test_without_a_ground_nothing_is_inverted() -> None:
    assert close(decode(encode(garment(255, 0)), GREY)[0], 255, 0)


def test_the_ground_of_a_colour_picture() -> None:
    image = Image.new("RGB", (8, 8), (250, 245, 255))
    image.paste((10, 20, 60), (2, 2, 6, 6))
    array = decode(encode(image), ON_BLACK)
    assert array[0].max() < 15
    assert array[3, 3] > 200


# Every picture


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    mode=st.sampled_from(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16"]),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    wanted=st.sampled_from(["L", "RGB"]),
    fit=st.sampled_from(["contain", "cover", "stretch"]),
    ground=st.sampled_from([None, "black", "white"]),
    orientation=st.integers(0, 9),
)
def test_any_picture_gets_the_models_shape(
    kind: str,
    mode: str,
    width: int,
    height: int,
    wanted: Mode,
    fit: Fit,
    ground: Literal["black", "white"] | None,
    orientation: int,
) -> None:
    if mode == "I;16":
        image = Image.fromarray(noise(height, width, dtype=np.uint16))
    else:
        image = Image.frombytes(
            mode, (width, height), noise(height * width * 4).tobytes()[: _size(mode, width, height)]
        )
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    try:
        data = encode(image, kind, exif=exif)
    except (OSError, KeyError, ValueError):
        return  # this format does not hold such pictures
    spec = ImageSpec(height=13, width=17, mode=wanted, fit=fit, ground=ground if wanted == "L" else None)
    array = decode(data, spec)
    assert array.dtype == np.uint8
    assert array.shape == ((13, 17) if wanted == "L" else (13, 17, 3))


def _size(mode: str, width: int, height: int) -> int:
    return (width + 7) // 8 * height if mode == "1" else width * height * len(Image.new(mode, (1, 1)).tobytes())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_are_decoded_or_rejected(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(encode(Image.fromarray(noise(20, 20, 3)), kind))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    # Any other error is a failure.
    with suppress(InvalidRequest, PayloadTooLarge):
        assert decode(bytes(damaged[: data.draw(st.integers(1, len(damaged)))])).shape == (8, 8, 3)


# What is refused


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_picture_is_rejected(kind: str) -> None:
    data = encode(Image.fromarray(noise(40, 60, 3)), kind)
    assert "truncated" in rejection(data[: len(data) // 2])


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.7, 0.9])
def test_a_picture_cut_anywhere_is_rejected(kind: str, share: float) -> None:
    data = encode(Image.fromarray(noise(40, 60, 3)), kind)
    assert rejection(data[: int(len(data) * share)]).startswith("the body")


def test_a_truncated_picture_names_its_format() -> None:
    data = encode(Image.fromarray(noise(40, 60, 3)))
    message = rejection(data[:-500])
    assert message.startswith("the body: the PNG picture is truncated or damaged (")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b'{"instances": [1.0]}',
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        bytes(1000),
        b"RIFF\x04\0\0\0WAVE",
    ],
)
def test_other_bytes_are_rejected_with_the_formats(data: bytes) -> None:
    assert rejection(data) == "the body is not a picture; expected PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF"


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX", "JPEG2000", "EPS", "PDF"])
def test_other_formats_are_rejected(kind: str) -> None:
    message = rejection(encode(Image.new("RGB", (32, 32)), kind))
    assert message == "the body is not a picture; expected PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF"


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100)


def test_heic_without_decoder_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "has_heic_decoder", lambda: False)
    assert rejection(HEIC) == (
        "the body is a HEIC picture, for which this service has no decoder (pillow-heif is not installed); "
        "send PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF"
    )


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic_with_decoder(orientation: int) -> None:
    if not image_file.has_heic_decoder():
        pytest.skip("pillow-heif is not installed")
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = patches().resize((64, 64), Image.Resampling.NEAREST)
    upright = {1: stored, 3: stored.rotate(180), 6: stored.rotate(-90)}[orientation]
    array = decode(encode(stored, "HEIF", quality=100, exif=exif.tobytes()), spec_for(upright))
    assert np.abs(array.astype(int) - np.asarray(upright)).mean() < 4
    assert "truncated or damaged" in rejection(HEIC)


@pytest.mark.parametrize("data", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", png(0, 0), png(5, 5)])
def test_a_magic_number_alone_is_damaged(data: bytes) -> None:
    message = rejection(data)
    assert message.startswith("the body: the ")
    assert "picture is truncated or damaged" in message


@pytest.mark.parametrize(
    ("colour_type", "pixel", "transparency"),
    [
        (0, b"\0", b"\xff\xff"),
        (0, b"\0", b"\0"),
        (2, b"\0\0\0", b"\x01\x2c" * 3),
        (2, b"\0\0\0", b"\0\0"),
        (3, b"\0", b"\0" * 300),
        (3, b"\0", b""),
    ],
)
@pytest.mark.parametrize("spec", [COLOUR, ON_BLACK])
def test_invalid_transparency_is_decoded_or_rejected(
    colour_type: int, pixel: bytes, transparency: bytes, spec: ImageSpec
) -> None:
    palette = chunk(b"PLTE", bytes(6)) if colour_type == 3 else b""
    data = png(8, 8, (b"\0" + pixel * 8) * 8, colour_type=colour_type, chunks=palette + chunk(b"tRNS", transparency))
    with suppress(InvalidRequest):
        assert decode(data, spec).shape[:2] == (8, 8)


def test_a_long_text_in_a_png_is_ignored() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (2 << 20))
    assert close(decode(encode(patches(), pnginfo=info)), patches(), 0)


LONG_NOTE = zlib.compress(b"x" * (2 << 20))
NOTES = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + LONG_NOTE),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG_NOTE),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + LONG_NOTE),
    "damaged zTXt": chunk(b"zTXt", b"Comment\0\7"),
    "damaged iCCP": chunk(b"iCCP", b"profile\0\7"),
    "corrupt iCCP, damaged zTXt": chunk(b"iCCP", b"profile\0\0not zlib") + chunk(b"zTXt", b"Comment\0\7"),
    "sound iCCP, damaged zTXt": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x")) + chunk(b"zTXt", b"Comment\0\7"),
    "damaged checksum": chunk(b"tEXt", b"Comment\0x")[:-1] + b"?",
    "much in all": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (1 << 20))) * 65,
}


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("is_behind", [False, True])
def test_metadata_in_a_png_is_ignored(note: str, is_behind: bool) -> None:
    rows = (b"\0" + bytes(range(0, 240, 10))) * 8
    before, behind = (b"", NOTES[note]) if is_behind else (NOTES[note], b"")
    data = png(8, 8, rows, chunks=before)[:-12] + behind + chunk(b"IEND", b"")
    assert np.array_equal(decode(data), decode(png(8, 8, rows)))


def test_a_metadata_bomb_takes_no_memory() -> None:
    note = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (64 << 20)))
    data = png(8, 8, (b"\0" + bytes(24)) * 8, chunks=note + chunk(b"iCCP", b"p" + note[15:]))
    tracemalloc.start()
    try:
        decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_broken_colour_profile_is_ignored() -> None:
    assert close(decode(encode(patches(), icc_profile=b"garbage")), patches(), 0)


def bomb(data: bytes, max_pixels: int = MANY_PIXELS) -> str:
    with pytest.raises(PayloadTooLarge) as raised:
        decode(data, max_pixels=max_pixels)
    return str(raised.value)


def test_too_many_pixels_are_rejected() -> None:
    assert bomb(encode(Image.new("L", (11, 10))), 109) == (
        "the body: a picture of 11 x 10 is too large; at most 109 pixels are taken (SERVING_MAX_IMAGE_PIXELS)"
    )
    assert decode(encode(Image.new("L", (11, 10))), max_pixels=110).shape == (8, 8, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height"), [(10_000, 10_000), (20_000, 20_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)]
)
def test_a_huge_png_is_rejected_before_decoding(width: int, height: int) -> None:
    message = bomb(png(width, height))
    assert message.startswith("the body")
    assert "at most 50000000 pixels are taken" in message


def test_a_gif_with_a_huge_frame_is_rejected() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02D\x01\x00;"
    assert "pixels are taken" in bomb(screen + frame)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_may_exceed_pillows() -> None:
    # 200 million pixels, more than Pillow takes of its own accord. The file is cut short: past the limit, not decoded.
    message = refusal_of(png(20_000, 10_000), max_pixels=300_000_000)
    assert "truncated or damaged" in message


def refusal_of(data: bytes, max_pixels: int) -> str:
    with pytest.raises((InvalidRequest, PayloadTooLarge)) as raised:
        decode(data, max_pixels=max_pixels)
    return str(raised.value)


# Batches


FLAT = signature({"pixels": tensor("DT_FLOAT", -1, 8, 8)})


def test_several_pictures_are_one_batch() -> None:
    pictures = {"file 1": encode(Image.new("L", (8, 8), 7)), "file 2": encode(Image.new("L", (8, 8), 9))}
    ((name, batch),) = picture_batch(pictures, FLAT, GREY, MANY_PIXELS, MANY_BYTES).items()
    assert name == "pixels"
    assert (batch.dtype, batch.shape) == (np.float32, (2, 8, 8))
    assert batch[:, 0, 0].tolist() == [7.0, 9.0]


@pytest.mark.parametrize(
    ("shape", "spec", "expected"),
    [
        ((-1, 8, 8, 1), GREY, (1, 8, 8, 1)),
        ((-1, 8, 8), GREY, (1, 8, 8)),
        ((-1, 8, 8, 3), COLOUR, (1, 8, 8, 3)),
        ((-1, 6, 5, 3), None, (1, 6, 5, 3)),
        ((-1, 6, 5, 1), None, (1, 6, 5, 1)),
        ((1, 6, 5, 1), None, (1, 6, 5, 1)),
    ],
)
def test_a_grey_picture_gets_a_channel(
    shape: tuple[int, ...], spec: ImageSpec | None, expected: tuple[int, ...]
) -> None:
    of = signature({"x": tensor("DT_UINT8", *shape)})
    batch = picture_batch({"the body": encode(patches())}, of, spec, MANY_PIXELS, MANY_BYTES)["x"]
    assert (batch.dtype, batch.shape) == (np.uint8, expected)


def test_a_free_rank_leaves_the_shape_to_serving_json() -> None:
    of = signature({"x": any_shape("DT_FLOAT")})
    assert picture_batch({"the body": encode(patches())}, of, COLOUR, MANY_PIXELS, MANY_BYTES)["x"].shape == (
        1,
        8,
        8,
        3,
    )


@pytest.mark.parametrize(
    "of",
    [
        signature({"x": tensor("DT_FLOAT", -1)}),
        signature({"x": tensor("DT_FLOAT", -1, 8, 8)}),
        signature({"x": tensor("DT_FLOAT", -1, 8, 8, 4)}),
        signature({"x": tensor("DT_FLOAT", -1, -1, -1, 3)}),
        signature({"x": tensor("DT_STRING", -1, 8, 8, 3)}),
        signature({"x": any_shape("DT_FLOAT")}),
        signature({"x": tensor("DT_FLOAT", -1, 8, 8, 3), "y": tensor("DT_FLOAT", -1)}),
        signature({}),
    ],
)
def test_a_model_without_pictures_says_so(of: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"the model takes no pictures: .* send JSON"):
        picture_batch({"the body": encode(patches())}, of, None, MANY_PIXELS, MANY_BYTES)


def test_too_many_pictures_are_rejected_before_decoding() -> None:
    taken = {f"file {number}": encode(patches()) for number in range(4)}
    bytes_of_four = 4 * 8 * 8 * 4
    assert len(picture_batch(taken, FLAT, GREY, MANY_PIXELS, bytes_of_four)["pixels"]) == 4
    with pytest.raises(PayloadTooLarge, match=r"^5 pictures are 1280 bytes as the model takes them; at most 1024 "):
        picture_batch({**taken, "file 5": b"nothing"}, FLAT, GREY, MANY_PIXELS, bytes_of_four)


def test_a_bad_picture_of_several_is_named() -> None:
    pictures = {"file 1 (a.png)": encode(patches()), "file 2 (b.png)": b"nothing"}
    with pytest.raises(InvalidRequest, match=r"^file 2 \(b\.png\) is not a picture"):
        picture_batch(pictures, FLAT, GREY, MANY_PIXELS, MANY_BYTES)


@pytest.mark.parametrize("dtype", ["DT_STRING", "DT_BFLOAT16", "DT_INT8"])
def test_an_input_without_numbers_is_rejected(dtype: str) -> None:
    of = signature({"x": tensor(dtype, -1, 8, 8)})
    with pytest.raises(InvalidRequest, match=dtype):
        picture_batch({"the body": encode(patches())}, of, GREY, MANY_PIXELS, MANY_BYTES)
