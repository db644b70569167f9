"""Picture files as pixels: any format, including files that cameras, editors and broken transfers have damaged.

Nothing here knows about models.
"""

import re
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Protocol

import msgspec
import numpy as np

# Pillow imports the plugins of PNG, JPEG, GIF and BMP. If another one were missing, it would import all that it has.
from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError, WebPImagePlugin  # noqa: F401
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import InvalidRequest, PayloadTooLarge, ServingError
from service.tensors.image_scaled import load_reduced, reduced_bytes, reduction

# SERVING_MAX_IMAGE_PIXELS, which may be higher than Pillow's limit, is checked here.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about damaged pictures on standard error, in lines that are no log, and keeps each new warning for ever.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Pictures of no more pixels take nothing of a share: the event loop decodes them, one at a time, and what all threads
# hold of them is little.
UNCOUNTED_PIXELS = 64 * 1024
# At most, with the conversions of `decode_picture`; measured.
_BYTES_PER_PIXEL = {
    "PNG": 14, "JPEG": 16, "WEBP": 22, "AVIF": 24, "HEIF": 24, "GIF": 14, "BMP": 14, "TIFF": 18,
}  # fmt: skip
# Of each coefficient of a JPEG, and of each pixel where its end is missing.
_COEFFICIENT_BYTES, _REPAIR_BYTES = 2, 4

# Pillow's names. HEIC is read if pillow-heif is installed.
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

# Where Pillow finds an orientation. Letting it search takes a twentieth of the time of a small picture.
_ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
# What precedes a colour profile in PNG, JPEG and WebP.
_PROFILE_MARKS = (b"iCCP", b"ICC_PROFILE", b"ICCP")
# Pillow's limit for anything compressed within a PNG.
_MAX_PROFILE_BYTES = 1024 * 1024
# Tags of TIFF.
_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEAD = _PNG_SIGNATURE + b"\x00\x00\x00\rIHDR"
# The chunks that decide what a PNG looks like.
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}

# Share of the pixels that may be missing at the end of a JPEG.
MAX_MISSING_SHARE = 1 / 16
_JPEG_END = b"\xff\xd9"
# Zeros at the end of a JPEG, from this length on, are space that was reserved for the file.
_MIN_PADDING_BYTES = 16
_PADDING = bytes(_MIN_PADDING_BYTES)
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_MARKER_OR_RESTART = re.compile(rb"\xff([\x01-\xfe])")
_FIRST_RESTART, _RESTARTS = 0xD0, 8
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_START_OF_SCAN = 0xDA
_RESTART_INTERVAL = 0xDD
# Encoders write about ten scans. Each takes time to read, and may be short.
_MAX_SCANS = 500
_MAX_COMPONENTS = 4
# Pixels that are coded together: 8 x 8 of one component, 16 x 16 of several in all usual samplings.
_UNIT_PIXELS, _MAX_UNIT_PIXELS = 64, 256

Decode = Callable[[bytes], Image.Image]


class Share(Protocol):
    """Memory that a request's pictures may hold while they are decoded, one after the other."""

    def take(self, count: int) -> None:
        """This many bytes, in the place of what it had. Raises DeadlineExceeded."""

    def give_back(self) -> None: ...


def read_picture(
    data: bytes, mode: str, side: int, max_pixels: int, where: str, share: Share | None = None
) -> Image.Image:
    """The first frame or page, upright by its EXIF orientation, in the file's own mode of Pillow.

    A JPEG may be decoded at a reduced size of at least `side` pixels, and to `mode`, "L" or "RGB"; a large PNG or WebP
    to such a size, too, and to 8 bits a channel. `max_pixels` is checked before anything is decompressed, and then the
    bytes that decoding takes are waited for, if there is a `share` of them.

    Like browsers, ignore metadata and profiles in a PNG that are damaged or too long, and a missing end of a JPEG.

    Raises:
        DeadlineExceeded: its memory did not become free in time.
        InvalidRequest: not a picture, or a truncated or damaged one.
        PayloadTooLarge: more than `max_pixels`.
    """
    name = format_of(data)
    if name is None:
        raise InvalidRequest(f"{where} is not a picture; expected {_FORMATS_TEXT}")
    if name == _HEIC and not has_heic_decoder():
        raise InvalidRequest(
            f"{where} is a HEIC picture, for which this service has no decoder (pillow-heif is not installed); send "
            f"{_FORMATS_TEXT}"
        )

    is_repair = False

    def decode(data: bytes) -> Image.Image:
        image = Image.open(BytesIO(data), formats=(name,))
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise PayloadTooLarge(
                f"{where}: a picture of {image.width} x {image.height} is too large; "
                f"at most {max_pixels} pixels are taken (SERVING_MAX_IMAGE_PIXELS)"
            )
        if name == "JPEG":
            # Pillow can decode it at a half, a quarter or an eighth.
            image.draft(mode, (side, side))
        factor = reduction(image, side)
        if share is not None and pixels > UNCOUNTED_PIXELS:
            share.take(_held_bytes(image, name, data, pixels, factor, is_repair=is_repair))
        if factor > 1:
            return load_reduced(image, data, factor)
        if isinstance(image, TiffImageFile):
            _fix_planes(image)
        image.load()
        return image

    try:
        if name == "JPEG" and _is_padded(data):
            raise EOFError("its end is missing")
        image = decode(data)
    except ServingError:
        raise
    # Pillow's decoders raise errors of many kinds on hostile bytes (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        is_repair = True
        repaired = _repair(name, data, decode)
        if repaired is None:
            raise InvalidRequest(f"{where}: the {name} picture is {_reason(error)}") from None
        image = repaired
    if not _ORIENTED.isdisjoint(image.info) or name == "TIFF":
        # Damaged metadata is no reason to reject the picture.
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
    return image


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format, by the first bytes; None if it is not a picture."""
    for magic, name in _MAGIC_NUMBERS.items():
        if data.startswith(magic):
            return name
    if (data[:4], data[8:12]) == (b"RIFF", b"WEBP"):
        return "WEBP"
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4]), 256)]
        # The major brand, its version, and the compatible brands.
        brands = [box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))]
        if not _AVIF_BRANDS.isdisjoint(brands):
            return "AVIF"
        if box[:4] in _HEIC_BRANDS:
            return _HEIC
    return None


def looks_like_picture(data: bytes) -> bool:
    return format_of(data) is not None


def picture_pixels(data: bytes) -> int:
    """Width times height by the header; 0 if it is not a picture."""
    if data.startswith(_PNG_HEAD):
        # Always at the same place. Asking Pillow takes half as long as a prediction.
        return int.from_bytes(data[16:20]) * int.from_bytes(data[20:24])
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:
        return 0


def may_take_long(data: bytes) -> bool:
    """Whether decoding may take much longer than the size suggests. AVIF and HEIC are frames of video, and a new colour
    profile takes some milliseconds, up to 30 for a printer's. A TIFF may have a profile."""
    return data[4:8] == b"ftyp" or data[:2] in (b"II", b"MM") or any(mark in data for mark in _PROFILE_MARKS)


@cache
def has_heic_decoder() -> bool:
    if find_spec(_HEIC_DECODER) is None:
        return False
    import_module(_HEIC_DECODER).register_heif_opener()
    return True


def _held_bytes(image: Image.Image, name: str, data: bytes, pixels: int, factor: int, *, is_repair: bool) -> int:
    """About what decoding holds at most. `pixels`: the file's; a JPEG's image has the size that it is decoded at.
    `is_repair`: a JPEG's missing end is filled in."""
    if factor > 1:
        return reduced_bytes(image, data, factor)
    count = _BYTES_PER_PIXEL[name] * image.width * image.height
    if isinstance(image, JpegImageFile):
        count += _COEFFICIENT_BYTES * _coefficients(image, data, pixels) + is_repair * _REPAIR_BYTES * pixels
    return count


def _coefficients(image: JpegImageFile, data: bytes, pixels: int) -> int:
    """How many coefficients the decoder holds: those of all `pixels` where several scans make up a pixel, whatever the
    size that it is decoded to; else none."""
    # The file stands behind the head of the first scan, which a single one shares with all components.
    head = (image.fp.tell() if image.fp else 0) - 8 - 2 * image.layers
    if "progressive" not in image.info and data[head : head + 2] == b"\xff\xda":
        return 0
    samplings = [horizontal * vertical for _, horizontal, vertical, _ in image.layer]
    largest = max(horizontal for _, horizontal, _, _ in image.layer) * max(
        vertical for _, _, vertical, _ in image.layer
    )
    return pixels * sum(samplings) // largest


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "truncated or damaged, or of a kind that is not read"
    return f"truncated or damaged ({error})"


def _fix_planes(image: TiffImageFile) -> None:
    """Let Pillow read uncompressed 16-bit planes as such; else it takes every byte for a pixel."""
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


def _repair(name: str, data: bytes, decode: Decode) -> Image.Image | None:
    with suppress(Exception):
        if name == "PNG" and len(plain := _without_metadata(data)) < len(data):
            return decode(plain)
        if name == "JPEG":
            return _decode_cut_jpeg(data, decode)
    return None


def _without_metadata(png: bytes) -> bytes:
    """The PNG without chunks that do not change its pixels. A colour profile stays if it can be decompressed."""
    kept = [_PNG_SIGNATURE]
    at = len(_PNG_SIGNATURE)
    has_profile = False
    while len(head := png[at : at + 8]) == 8:
        end = at + 12 + int.from_bytes(head[:4])
        kind = head[4:]
        if kind == b"iCCP" and not has_profile:
            # Only the first: checking each takes time.
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


class _Scans(msgspec.Struct):
    """The scans of a JPEG. `lacking`: by component, the coefficients that no scan has begun. `begin`: where the data of
    the last scan begins. `restart_units`: its units between restart markers, or 0. `unit_pixels`: of each unit."""

    lacking: dict[int, set[int]]
    pixels: int = 0
    begin: int = 0
    restart_units: int = 0
    unit_pixels: int = _MAX_UNIT_PIXELS


def _is_padded(jpeg: bytes) -> bool:
    """Whether zeros stand in place of its end. A decoder would take them for data."""
    return jpeg.endswith(_PADDING) and not jpeg.rstrip(b"\0").endswith(_JPEG_END)


def _decode_cut_jpeg(jpeg: bytes, decode: Decode) -> Image.Image | None:
    """A JPEG that ends too early, with missing pixels in grey; None if too many are missing to be sure what it shows.

    Some cameras leave out the end marker, and transfers break off. No decoder tells where the data ends, so decode it
    twice, with nothing and then with noise behind it: the pixels that differ are missing.
    """
    scans = _read_scans(jpeg)
    # Without every scan, a picture lacks colours or most of its detail.
    if not scans.lacking or any(scans.lacking.values()):
        return None
    data, restarts = _intact_part(jpeg.rstrip(b"\0") if jpeg.endswith(_PADDING) else jpeg, scans)
    image = decode(data + _JPEG_END)
    differing = np.asarray(image) != np.asarray(decode(data + _noise(scans, restarts) + _JPEG_END))
    missing = differing if differing.ndim == 2 else differing.any(axis=2)
    return image if missing.mean() <= MAX_MISSING_SHARE else None


def _read_scans(jpeg: bytes) -> _Scans:
    scans = _Scans({})
    is_progressive = False
    count = 0
    at = 2
    while marker := _MARKER.search(jpeg, at):
        code, begin = marker[1][0], marker.end()
        at = begin + int.from_bytes(jpeg[begin : begin + 2])
        segment = jpeg[begin + 2 : at]
        if code in _START_OF_FRAME:
            is_progressive = code in _PROGRESSIVE
            scans.pixels = int.from_bytes(segment[1:3]) * int.from_bytes(segment[3:5])
            coefficients = range(64) if is_progressive else range(1)
            scans.lacking = {segment[6 + 3 * number]: set(coefficients) for number in range(segment[5])}
        elif code == _RESTART_INTERVAL:
            scans.restart_units = int.from_bytes(segment)
        elif code == _START_OF_SCAN:
            scans.begin = at
            count += 1
            if count > _MAX_SCANS or segment[0] > _MAX_COMPONENTS:
                raise ValueError("not a JPEG")
            scans.unit_pixels = _UNIT_PIXELS if segment[0] == 1 else _MAX_UNIT_PIXELS
            first, last, bits = segment[-3:]
            # The last bits of a coefficient may come in another scan.
            if not is_progressive or bits & 0x0F == 0:
                for number in range(segment[0]):
                    scans.lacking[segment[1 + 2 * number]] -= set(range(first, last + 1))
    return scans


def _intact_part(jpeg: bytes, scans: _Scans) -> tuple[bytes, int]:
    """The JPEG up to a marker that its last scan cannot have, and the number of restart markers of that scan."""
    restarts = 0
    for marker in _MARKER_OR_RESTART.finditer(jpeg, scans.begin):
        if not scans.restart_units or marker[1][0] != _FIRST_RESTART + restarts % _RESTARTS:
            jpeg = jpeg[: marker.start()]
            break
        restarts += 1
    # The first byte of a marker would form one with the byte behind it.
    return jpeg.rstrip(b"\xff"), restarts


def _noise(scans: _Scans, restarts: int) -> bytes:
    """Data for several times the missing pixels, with restart markers from this number on."""
    # Without 255, which would begin a marker.
    noise = np.random.default_rng(0).integers(0, 255, scans.pixels // 2 + 1024, np.uint8).tobytes()
    if not scans.restart_units:
        return noise
    step = scans.restart_units * scans.unit_pixels
    intervals = [noise[at : at + step] for at in range(0, len(noise), step)]
    return b"".join(
        b"%b\xff%c" % (interval, _FIRST_RESTART + number % _RESTARTS)
        for number, interval in enumerate(intervals, restarts)
    )
