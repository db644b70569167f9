"""Picture files, some of a kind that Pillow itself cannot write, and what is made of them."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from service.errors import InvalidRequest
from service.serving_config import ImageSpec
from service.tensors.dtypes import Array
from service.tensors.image import decode_picture

COLOUR = ImageSpec(height=8, width=8, mode="RGB", fit="contain")
GREY = ImageSpec(height=8, width=8, mode="L", fit="contain")
ON_BLACK = ImageSpec(height=8, width=8, mode="L", fit="contain", ground="black")
ON_WHITE = ImageSpec(height=8, width=8, mode="L", fit="contain", ground="white")

MANY_PIXELS = 50_000_000
LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True},
}
# Levels of 255 that these lose all the same.
LOSS = {"JPEG": 12, "MPO": 12, "AVIF": 4}


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **{**LOSSLESS.get(kind, {}), **options})
    return out.getvalue()


def decode(picture: bytes | Image.Image, spec: ImageSpec = COLOUR, max_pixels: int = MANY_PIXELS) -> Array:
    return decode_picture(picture if isinstance(picture, bytes) else encode(picture), spec, max_pixels)


def rejection(data: bytes, spec: ImageSpec = COLOUR, max_pixels: int = MANY_PIXELS) -> str:
    with pytest.raises(InvalidRequest) as raised:
        decode(data, spec, max_pixels)
    return str(raised.value)


def close(array: Array, expected: object, tolerance: int = 3) -> bool:
    return bool(np.abs(np.asarray(array, int) - np.asarray(expected, int)).max() <= tolerance)


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def plain(colour: Any, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (8, 8), colour)


def patches() -> Image.Image:
    """8 x 8 of four colours, so that nothing is lost to a palette and every turn shows."""
    image = plain("black")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 3, 3), (255, 0, 0))
    draw.rectangle((4, 0, 7, 1), (0, 0, 255))
    draw.rectangle((0, 6, 1, 7), (255, 255, 255))
    return image


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, rows: bytes = b"", *, depth: int = 8, colour_type: int = 2, chunks: bytes = b""
) -> bytes:
    """What its header says needs not be what it holds."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(
    data: bytes, bits: tuple[int, ...], photometric: int, *, order: str = "<", tags: tuple[tuple[int, int], ...] = ()
) -> bytes:
    """An uncompressed TIFF of 8 x 8. `tags`: one short each; plane by plane with (284, 2)."""
    channels = len(bits)
    planes = channels if (284, 2) in tags else 1
    offsets = [8 + plane * len(data) // planes for plane in range(planes)]
    entries: list[tuple[int, Any]] = [(256, [8]), (257, [8]), (258, bits), (259, [1]), (262, [photometric])]
    entries += [(273, offsets), (277, [channels]), (278, [8]), (279, [len(data) // planes] * planes)]
    entries += [(tag, [value]) for tag, value in tags]
    begin = 8 + len(data)
    behind = begin + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(f"{order}H", len(entries)), b""
    for tag, shorts in sorted(entries):
        packed = struct.pack(f"{order}{len(shorts)}H", *shorts)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", behind + len(values))
        directory += struct.pack(f"{order}HHI", tag, 3, len(shorts)) + place
        values += packed if len(packed) > 4 else b""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", begin) + data + directory + bytes(4) + values


def bmp(image: Image.Image, alpha: int) -> bytes:
    """Of 32 bits with a mask for the opacity, as Windows' clipboard has it."""
    pixels = np.dstack([np.asarray(image.convert("RGB"))[::-1, :, ::-1], np.full(image.size[::-1], alpha, np.uint8)])
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, *image.size, 1, 32, 3, pixels.size, 2835, 2835, 0, 0) + masks
    head = head.ljust(108, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + pixels.size, 0, 0, 14 + len(head)) + head + pixels.tobytes()
