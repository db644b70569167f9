"""Picture files: bytes of any format, also of the kinds that cameras and editors damage, as upright pixels.

Nothing here knows what a model takes.
"""

import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO

# Those of PNG, JPEG, GIF and BMP are imported by Pillow; for any other that is missing it would import all that it has.
from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError, WebPImagePlugin  # noqa: F401
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import InvalidRequest, PayloadTooLarge
from service.tensors.jpeg_end import is_cut_and_padded, with_end

# There is a limit here, which may be higher than Pillow's.
Image.MAX_IMAGE_PIXELS = None
# Damaged pictures have Pillow warn on standard error, in lines that are no log, and each new one is kept for ever.
warnings.filterwarnings("ignore", module=r"PIL\.")

# As Pillow calls them, and in messages. HEIC is taken where pillow-heif is installed.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
_FORMATS_TEXT = "PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF"
_HEIC = "HEIF"
_HEIC_DECODER = "pillow_heif"

_MAGIC_NUMBERS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",  # BigTIFF
    b"MM\x00+": "TIFF",
}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# Where Pillow finds an orientation. To have it look takes a twentieth of a small picture's time.
_ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}

# Before a profile, in PNG, JPEG and WebP.
_PROFILE_MARKS = (b"iCCP", b"ICC_PROFILE", b"ICCP")

# TIFF's tags.
_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEAD = _PNG_SIGNATURE + b"\x00\x00\x00\rIHDR"
# What a PNG looks like depends on these alone.
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
# As Pillow has it for all that is packed within a PNG.
_MAX_PROFILE_BYTES = 1024 * 1024


def format_of(data: bytes) -> str | None:
    """The format as Pillow calls it, told by the first bytes; None for what is no picture."""
    for magic, name in _MAGIC_NUMBERS.items():
        if data.startswith(magic):
            return name
    if (data[:4], data[8:12]) == (b"RIFF", b"WEBP"):
        return "WEBP"
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4]), 256)]
        # The major brand, its version, and the brands that it is compatible with.
        brands = [box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))]
        if not _AVIF_BRANDS.isdisjoint(brands):
            return "AVIF"
        if box[:4] in _HEIC_BRANDS:
            return _HEIC
    return None


def looks_like_picture(data: bytes) -> bool:
    return format_of(data) is not None


def picture_pixels(data: bytes) -> int:
    """Width times height as the header has it; 0 for what is no picture."""
    if data.startswith(_PNG_HEAD):
        # Always at the same place; to have Pillow look costs as much as half of a prediction.
        return int.from_bytes(data[16:20]) * int.from_bytes(data[20:24])
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:
        return 0


def may_take_long(data: bytes) -> bool:
    """Whether it may take many times as long as its size tells: AVIF and HEIC are frames of video, and to read a colour
    profile takes some milliseconds (up to 30 for one of inks), unless it was met before. A TIFF may have one."""
    return data[4:8] == b"ftyp" or data[:2] in (b"II", b"MM") or any(mark in data for mark in _PROFILE_MARKS)


def read_picture(data: bytes, mode: str, side: int, max_pixels: int, where: str) -> Image.Image:
    """The first frame or page, turned upright by its EXIF orientation, in whatever mode of Pillow's the file has.

    A JPEG may come smaller than it is, if with `side` pixels at least, and in `mode`, "L" or "RGB". `max_pixels` is
    checked before anything is unpacked.

    What browsers pass over is passed over: notes and profiles in a PNG that are damaged or too long, a JPEG's end
    that is missing (jpeg_end.py).

    Raises:
        InvalidRequest: not a picture, or one that is truncated or damaged.
        PayloadTooLarge: it has more than `max_pixels`.
    """
    name = format_of(data)
    if name is None:
        raise InvalidRequest(f"{where} is not a picture; expected {_FORMATS_TEXT}")
    if name == _HEIC and not has_heic_decoder():
        raise InvalidRequest(
            f"{where} is a HEIC picture, for which this service has no decoder (pillow-heif is not installed); send "
            f"{_FORMATS_TEXT}"
        )

    def decode(data: bytes) -> Image.Image:
        image = Image.open(BytesIO(data), formats=(name,))
        if image.width * image.height > max_pixels:
            raise PayloadTooLarge(
                f"{where}: a picture of {image.width} x {image.height} is too large; "
                f"at most {max_pixels} pixels are taken (SERVING_MAX_IMAGE_PIXELS)"
            )
        if name == "JPEG":
            # It can be unpacked at a half, a quarter or an eighth.
            image.draft(mode, (side, side))
        elif isinstance(image, TiffImageFile):
            _mend_planes(image)
        image.load()
        return image

    try:
        if name == "JPEG" and is_cut_and_padded(data):
            raise EOFError("its end is missing")
        image = decode(data)
    except PayloadTooLarge:
        raise
    # Pillow's decoders meet hostile bytes with errors of many kinds (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        repaired = _repaired(name, data, decode)
        if repaired is None:
            raise InvalidRequest(f"{where}: the {name} picture is {_what_is_wrong(error)}") from None
        image = repaired
    if not _ORIENTED.isdisjoint(image.info) or name == "TIFF":
        # A damaged note about the picture does not make it another one.
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
    return image


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "truncated or damaged, or of a kind that is not read"
    return f"truncated or damaged ({error})"


def _mend_planes(image: TiffImageFile) -> None:
    """Of 16-bit colours that lie in a plane each, not packed, Pillow would read every byte as a pixel."""
    tags = image.tag_v2
    if (tags.get(_PLANAR_CONFIGURATION), tags.get(_BITS_PER_SAMPLE, ())[:1]) != (2, (16,)):
        return
    suffix = ";16B" if tags.prefix == b"MM" else ";16L"
    image.tile = [
        tile._replace(args=(tile.args[0] + suffix, *tile.args[1:]))
        if tile.codec_name == "raw" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]


@cache
def has_heic_decoder() -> bool:
    if find_spec(_HEIC_DECODER) is None:
        return False
    import_module(_HEIC_DECODER).register_heif_opener()
    return True


def _repaired(name: str, data: bytes, decode: Callable[[bytes], Image.Image]) -> Image.Image | None:
    with suppress(Exception):
        if name == "PNG" and len(plain := _without_notes(data)) < len(data):
            return decode(plain)
        if name == "JPEG":
            return with_end(data, decode)
    return None


def _without_notes(png: bytes) -> bytes:
    """The PNG without the chunks that do not change its pixels. A colour profile stays where it can be unpacked."""
    kept = [_PNG_SIGNATURE]
    at = len(_PNG_SIGNATURE)
    has_profile = False
    while len(head := png[at : at + 8]) == 8:
        end = at + 12 + int.from_bytes(head[:4])
        kind = head[4:]
        if kind == b"iCCP" and not has_profile:
            # Of several only the first: to look into each takes time.
            has_profile = True
            if _is_short_profile(png[at + 8 : end - 4]):
                kept.append(png[at:end])
        elif kind in _PNG_CHUNKS:
            kept.append(png[at:end])
        at = end
    return b"".join(kept)


def _is_short_profile(chunk: bytes) -> bool:
    _name, _, packed = chunk.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return packed[:1] == b"\0" and unpacker.eof
