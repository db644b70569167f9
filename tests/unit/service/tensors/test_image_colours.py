"""Pictures' colours: opacity that hides nothing, profiles, and more bits than 8."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from service.errors import InvalidRequest
from service.serving_config import ImageSpec
from service.tensors.dtypes import Array
from service.tensors.image import decode_picture
from service.tensors.image_file import may_take_long

COLOUR = ImageSpec(height=8, width=8, mode="RGB", fit="contain")
GREY = ImageSpec(height=8, width=8, mode="L", fit="contain")
ON_BLACK = ImageSpec(height=28, width=28, mode="L", fit="contain", ground="black")
D65 = (0.9505, 1.0, 1.089)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **({"lossless": True} if kind == "WEBP" else {}), **options)
    return out.getvalue()


def decode(data: bytes, spec: ImageSpec = COLOUR) -> Array:
    return decode_picture(data, spec, 1_000_000)


def refusal(data: bytes, spec: ImageSpec = GREY) -> str:
    with pytest.raises(InvalidRequest) as raised:
        decode(data, spec)
    return str(raised.value)


def tiff(
    data: bytes, bits: tuple[int, ...], *, photometric: int, order: str = "<", tags: tuple[Any, ...] = ()
) -> bytes:
    """An uncompressed TIFF of 8 x 8, as Pillow itself cannot write it. `tags`: (tag, value), one short each; plane by
    plane with (284, 2)."""
    channels = len(bits)
    planes = channels if (284, 2) in tags else 1
    offsets = [8 + plane * len(data) // planes for plane in range(planes)]
    entries = [(256, [8]), (257, [8]), (258, bits), (259, [1]), (262, [photometric]), (273, offsets), (277, [channels])]
    entries += [(278, [8]), (279, [len(data) // planes] * planes), *((tag, [value]) for tag, value in tags)]
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
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2920, 0.6922, 0.0419),
        b"bXYZ": (0.1571, 0.0666, 0.7841),
    }
    curves = {name: gamma(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return profile(b"RGB ", {name: xyz(*values) for name, values in primaries.items()} | curves)


def printer() -> bytes:
    """A CMYK profile of 2 points an ink, in which any ink at all makes black: not what CMYK without a profile does."""
    identity = np.tile(np.arange(256, dtype=np.uint8), 4).tobytes()
    grid = np.zeros((16, 3), np.uint8)
    grid[:, 1:] = 128
    grid[0] = 255, 128, 128
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel())
    return profile(b"CMYK", {b"A2B0": table + identity + grid.tobytes() + identity[:768]})


# Opacity


def shape(ground: int, colour: int) -> Image.Image:
    image = Image.new("L", (28, 28), ground)
    ImageDraw.Draw(image).rectangle((8, 4, 20, 24), colour)
    return image


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("ground", "colour"), [(0, 90), (0, 250), (255, 90), (255, 20)])
def test_an_opaque_alpha_channel_is_dropped(mode: str, kind: str, ground: int, colour: int) -> None:
    plain = shape(ground, colour)
    if mode == "PA" and kind == "PNG":
        data = encode(plain.convert("P"), kind, transparency=17)  # a colour that no pixel has
    else:
        data = encode(plain.convert("P" if mode == "PA" else mode).convert(mode), kind)
    assert np.array_equal(decode(data, ON_BLACK), decode(encode(plain), ON_BLACK))


@pytest.mark.parametrize(("ground", "colour"), [(0, 90), (0, 250), (255, 90), (255, 20)])
def test_round_corners_are_no_cut_out(ground: int, colour: int) -> None:
    plain = shape(ground, colour)
    corners = Image.new("L", plain.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 27, 27), 4, 255)
    rounded = plain.convert("RGBA")
    rounded.putalpha(corners)
    assert np.array_equal(decode(encode(rounded), ON_BLACK), decode(encode(plain), ON_BLACK))


def test_a_translucent_picture_lies_on_its_own_ground() -> None:
    plain = shape(0, 200).convert("RGBA")
    plain.putalpha(250)
    difference = decode(encode(plain), ON_BLACK).astype(int) - decode(encode(shape(0, 200)), ON_BLACK)
    assert np.abs(difference).max() <= 5


@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize(("ground", "colour"), [(0, 90), (0, 250), (255, 160), (255, 20)])
def test_a_transparent_ground_stays_the_ground(mode: str, ground: int, colour: int) -> None:
    plain = shape(ground, colour)
    data = encode(plain.convert(mode), transparency=ground)
    assert np.array_equal(decode(data, ON_BLACK), decode(encode(plain), ON_BLACK))


def bmp(image: Image.Image, alpha: int) -> bytes:
    """Of 32 bits with a mask for the opacity, as Windows' clipboard has it."""
    pixels = np.dstack([np.asarray(image.convert("RGB"))[::-1, :, ::-1], np.full(image.size[::-1], alpha, np.uint8)])
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, *image.size, 1, 32, 3, pixels.size, 2835, 2835, 0, 0) + masks
    head = head.ljust(108, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + pixels.size, 0, 0, 14 + len(head)) + head + pixels.tobytes()


def test_a_bitmap_with_an_empty_fourth_byte_is_opaque() -> None:
    assert np.array_equal(decode(bmp(shape(0, 90), 0), ON_BLACK), decode(encode(shape(0, 90)), ON_BLACK))


def test_a_bitmap_may_be_transparent() -> None:
    assert decode(bmp(Image.new("RGB", (8, 8)), 128)).tolist() == np.full((8, 8, 3), 127).tolist()


# Profiles

REDDISH = (200, 120, 100)
# By CSS Color 4's matrices.
IN_SRGB = (214, 116, 95)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_a_wide_profile_becomes_srgb(kind: str) -> None:
    options: dict[str, Any] = {"JPEG": {"quality": 100}, "AVIF": {"quality": 100}}.get(kind, {})
    data = encode(Image.new("RGB", (8, 8), REDDISH), kind, icc_profile=display_p3(), **options)
    assert np.abs(decode(data).astype(int) - IN_SRGB).max() <= 4


def test_a_profile_keeps_the_alpha_channel() -> None:
    image = Image.new("RGBA", (8, 8), (*REDDISH, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    array = decode(encode(image, icc_profile=display_p3()))
    assert np.abs(array[0, 0].astype(int) - IN_SRGB).max() <= 4
    assert array[0, 7].tolist() == [255, 255, 255]


def test_a_profile_applies_to_a_palette() -> None:
    palette = encode(Image.new("RGB", (8, 8), REDDISH).quantize(2), icc_profile=display_p3())
    plain = encode(Image.new("RGB", (8, 8), REDDISH), icc_profile=display_p3())
    assert np.array_equal(decode(palette), decode(plain))


def test_a_profile_of_greys() -> None:
    linear = profile(b"GRAY", {b"wtpt": xyz(*D65), b"kTRC": gamma(1.0)})
    level = decode(encode(Image.new("L", (8, 8), 55), icc_profile=linear), GREY)[0, 0]
    # A fifth of the light is 128 in sRGB, by its curve.
    assert abs(int(level) - 128) <= 2


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_profile_of_inks(kind: str) -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert decode(encode(image, kind)).max() > 200
    assert decode(encode(image, kind, icc_profile=printer())).max() < 10


@pytest.mark.parametrize(
    "unfit",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        printer(),  # of other colours than the picture
        display_p3()[:200],
        b"garbage",
        display_p3() + bytes(5 << 20),
    ],
)
def test_srgb_and_invalid_profiles_change_nothing(unfit: bytes) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(decode(encode(Image.fromarray(pixels), "TIFF", icc_profile=unfit)), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_may_take_long(kind: str) -> None:
    assert may_take_long(encode(Image.new("RGB", (8, 8)), kind, icc_profile=display_p3()))


@pytest.mark.parametrize(("kind", "is_long"), [("PNG", False), ("JPEG", False), ("WEBP", False), ("AVIF", True)])
def test_only_frames_of_video_may_take_long_without_a_profile(kind: str, is_long: bool) -> None:
    assert may_take_long(encode(Image.new("RGB", (8, 8)), kind)) is is_long


# Bits

NOISE = np.random.default_rng(0).integers(0, 65536, (8, 8, 4), np.uint16)
HIGH = (NOISE >> 8).astype(np.uint8)


def test_16_bits_with_white_at_zero() -> None:
    data = tiff(NOISE[..., 0].tobytes(), (16,), photometric=0)
    assert np.array_equal(decode(data, GREY), 255 - HIGH[..., 0])


def test_12_bits_are_scaled() -> None:
    pairs = (NOISE[..., 0] >> 4).astype(np.uint32).reshape(-1, 2)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    assert np.array_equal(decode(tiff(packed.tobytes(), (12,), photometric=1), GREY), HIGH[..., 0])


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_planes(order: str) -> None:
    planes = np.moveaxis(NOISE[..., :3], -1, 0).astype(f"{order}u2")
    data = tiff(planes.tobytes(), (16, 16, 16), photometric=2, order=order, tags=((284, 2),))
    assert np.array_equal(decode(data), HIGH[..., :3])


def test_16_bit_inks_keep_their_high_bytes() -> None:
    data = tiff(NOISE.tobytes(), (16,) * 4, photometric=5)
    assert np.array_equal(decode(data), np.asarray(Image.fromarray(HIGH, "CMYK").convert("RGB")))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bits_take_the_smallest_usual_white(white: float, dtype: type[Any]) -> None:
    levels = np.linspace(0, 255, 64).reshape(8, 8).round()
    if dtype is np.int32 and white == 1:
        return  # whole numbers up to 1 are two levels of black
    data = encode(Image.fromarray((levels * white / 255).astype(dtype)), "TIFF")
    assert np.abs(decode(data, GREY) - levels).max() <= 1


@pytest.mark.parametrize("value", [-1.0, 70_000.0, float("nan"), float("inf")])
def test_32_bits_of_another_range_are_rejected(value: float) -> None:
    pixels = np.zeros((8, 8), np.float32)
    pixels[3, 3] = value
    assert "expected 0 to 1, 255 or 65535" in refusal(encode(Image.fromarray(pixels), "TIFF"))


def test_an_unreadable_kind_of_tiff_is_rejected() -> None:
    data = tiff(NOISE[..., :2].tobytes(), (16, 16), photometric=1, tags=((338, 2),))
    assert refusal(data).endswith("the TIFF picture is truncated or damaged, or of a kind that is not read")
