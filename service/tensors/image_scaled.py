"""Large PNG and WebP files at a fraction of their size, without holding all of their pixels.

Pillow does that for JPEG only. Here its decoder of PNG gets a strip of rows at a time, and libwebp, which comes with
Pillow, is asked to scale. Each pixel is the mean of a square of the file's.
"""

import ctypes
import math
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

from PIL import Image, ImageFile, _webp
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service.tensors.image_colours import plain_mode

# Smaller pictures are decoded whole, to the last pixel as Pillow does it.
_MIN_PIXELS = 1024 * 1024

_OPAQUE_IF_ANY = [0, *[255] * 255]

# By the bytes of a pixel, which a row's filter goes by, a mode of Pillow that has as many.
_FILTER_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Bits of a pixel by Pillow's name for the rows of a PNG. Of 48 and 64 there is no mode of 8-bit channels.
_PNG_BITS = {
    "1": 1,
    "L;2": 2,
    "L;4": 4,
    "L": 8,
    "LA": 16,
    "LA;16B": 32,
    "I;16B": 16,
    "P;1": 1,
    "P;2": 2,
    "P;4": 4,
    "P": 8,
    "RGB": 24,
    "RGBA": 32,
}
# About what a processor's cache holds.
_STRIP_BYTES = 256 * 1024
# A strip is held inflated, packed anew, decoded (a pixel of RGB as four bytes), converted and reduced.
_COPIES_OF_STRIP = 10
_BYTES_PER_REDUCED_PIXEL = 16
_STRIP_DECODER = "png_in_strips"
_ENDED, _BROKEN = (-1, 0), (-1, -2)  # what Pillow's decoders return

_WEBP_LOSSLESS = 2
# libwebp holds every pixel of a lossless picture, and every opacity, maybe coded like one.
_WEBP_LOSSLESS_BYTES, _WEBP_ALPHA_BYTES, _WEBP_ROW_BYTES = 5, 5, 256
_WEBP_ABI = 0x0209
_WEBP_MODES = {"RGB": 0, "RGBA": 1}


def reduction(image: Image.Image, side: int) -> int:
    """By how much `load_reduced` divides width and height so that both keep `side` pixels, and half as many more; 1 for
    a picture that is decoded whole."""
    if image.width * image.height < _MIN_PIXELS:
        return 1
    if isinstance(image, PngImageFile):
        if image.is_animated or image.info.get("interlace") or image.tile[0].args not in _PNG_BITS:
            return 1
    elif not isinstance(image, WebPImageFile) or image.is_animated or not _has_libwebp():
        return 1
    # A mean of pixels is blurred a little more than what a JPEG's decoder makes at a smaller size.
    side += side // 2
    return max(1, min(image.width // side, image.height // side))


def reduced_bytes(image: Image.Image, data: bytes, factor: int) -> int:
    """About what `load_reduced` holds at most, in bytes."""
    pixels = image.width * image.height
    count = _BYTES_PER_REDUCED_PIXEL * pixels // factor**2
    if isinstance(image, PngImageFile):
        rows = _PngRows(image, factor)
        return count + _COPIES_OF_STRIP * rows.row_bytes * rows.height
    count += _WEBP_ROW_BYTES * image.width
    features = _features(data)
    if features.format == _WEBP_LOSSLESS:
        return count + _WEBP_LOSSLESS_BYTES * pixels
    return count + (_WEBP_ALPHA_BYTES * pixels if features.has_alpha else 0)


def load_reduced(image: Image.Image, data: bytes, factor: int) -> Image.Image:
    """The picture, opened but not loaded, at a `factor`th of its width and height, with its `info`.

    Raises errors of many kinds for truncated and damaged data, as Pillow does.
    """
    return _load_png(image, factor) if isinstance(image, PngImageFile) else _load_webp(image, data, factor)


def _resampled(image: Image.Image, resample: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Resampled, with the colours of what is transparent. Pillow makes that black; a model's ground may show in it."""
    reduced = resample(image)
    if image.mode not in ("LA", "RGBA"):
        return reduced
    return _with_hidden_colours(reduced, lambda: resample(image.convert(image.mode[:-1])))


def _with_hidden_colours(reduced: Image.Image, read_colours: Callable[[], Image.Image]) -> Image.Image:
    """`read_colours`: the same without its opacity."""
    opacity = reduced.getchannel("A")
    if not opacity.histogram()[0]:
        return reduced
    colours = read_colours()
    colours.paste(reduced.convert(colours.mode), mask=opacity.point(_OPAQUE_IF_ANY))
    colours.putalpha(opacity)
    return colours


# PNG


class _PngRows:
    """How rows of a PNG become pixels. `row_bytes`: with the byte that names its filter. `height`: rows of a strip."""

    def __init__(self, image: PngImageFile, factor: int) -> None:
        self._image_mode, self._raw_mode = image.mode, str(image.tile[0].args)
        self._palette, self._info = image.palette, dict(image.info)
        self._width = image.width
        bits = _PNG_BITS[self._raw_mode]
        pixel_bytes = max(1, bits // 8)
        self._filter_mode = _FILTER_MODES[pixel_bytes]
        self._filter_width = (image.width * bits + 7) // 8 // pixel_bytes
        self.factor = factor
        self.rows = image.height
        self.row_bytes = 1 + self._filter_width * pixel_bytes
        self.height = max(1, _STRIP_BYTES // self.row_bytes // factor) * factor
        self.mode = self._plain(Image.new(image.mode, (1, 1))).mode

    def reduce(self, before: bytes, rows: bytes) -> tuple[bytes, bytes]:
        """Filtered rows as reduced pixels, and the last of the rows without its filter. `before`: such a row, on which
        the filter of the first may build."""
        count = len(rows) // self.row_bytes + 1
        # Pillow has no filters but within its decoder of PNG, which takes what is deflated, in whatever way.
        packed = zlib.compress(before + rows, 0)
        strip = Image.frombytes(self._filter_mode, (self._filter_width, count), packed, "zip", self._filter_mode, False)
        last = b"\0" + strip.crop((0, count - 1, self._filter_width, count)).tobytes()
        if self._raw_mode != self._image_mode:
            strip = Image.frombytes(self._image_mode, (self._width, count), strip.tobytes(), "raw", self._raw_mode)
        elif self._filter_mode != self._image_mode:
            strip = Image.frombytes(self._image_mode, (self._width, count), strip.tobytes())
        strip = self._plain(strip.crop((0, 1, self._width, count)))
        return _resampled(strip, lambda pixels: pixels.reduce(self.factor)).tobytes(), last

    def _plain(self, strip: Image.Image) -> Image.Image:
        strip.info = self._info
        if self._palette is not None:
            strip.palette = self._palette.copy()
            strip.load()
        return plain_mode(strip, "")


class _StripDecoder(ImageFile.PyDecoder):
    """Decodes a PNG's data to a reduced picture, strip by strip."""

    def init(self, args: tuple[Any, ...]) -> None:
        self._rows: _PngRows = args[0]
        self._inflater = zlib.decompressobj()
        self._before = bytes(self._rows.row_bytes)
        self._parts: list[bytes] = []
        self._reduced: list[bytes] = []
        self._length = 0
        self._left = self._rows.rows
        self._begin_strip()

    def decode(self, buffer: bytes) -> tuple[int, int]:  # type: ignore[override]  # Pillow's load gives it bytes
        data = buffer
        while True:
            try:
                part = self._inflater.decompress(data, self._missing)
            except zlib.error:
                return _BROKEN
            self._parts.append(part)
            self._length += len(part)
            self._missing -= len(part)
            # Like Pillow, take rows that are missing for black, but no part of a row.
            is_short = self._inflater.eof and self._length and self._length % self._rows.row_bytes == 0
            if self._missing and not is_short:
                return len(buffer), 0
            self._end_strip()
            if is_short or not self._left:
                self._set_pixels()
                return _ENDED
            self._begin_strip()
            data = self._inflater.unconsumed_tail

    def _begin_strip(self) -> None:
        self._missing = self._rows.row_bytes * min(self._rows.height, self._left)

    def _end_strip(self) -> None:
        if rows := b"".join(self._parts):
            pixels, self._before = self._rows.reduce(self._before, rows)
            self._reduced.append(pixels)
        self._parts.clear()
        self._left -= len(rows) // self._rows.row_bytes

    def _set_pixels(self) -> None:
        width, height = self.state.xsize, self.state.ysize
        length = width * height * len(self.mode)
        self.set_as_raw(b"".join(self._reduced).ljust(length, b"\0"), self.mode)


Image.register_decoder(_STRIP_DECODER, _StripDecoder)


def _load_png(image: PngImageFile, factor: int) -> Image.Image:
    rows = _PngRows(image, factor)
    (tile,) = image.tile
    width, height = image.width / factor, image.height / factor
    size = math.ceil(width), math.ceil(height)
    # As the plugin's own draft would, if it had one.
    image._mode, image._size, image.palette = rows.mode, size, None
    image.info.pop("transparency", None)
    image.tile = [tile._replace(codec_name=_STRIP_DECODER, extents=(0, 0, *size), args=(rows,))]
    image.load()
    if (width, height) == size:
        return image
    # The last of its pixels show less of the picture than the others.
    box, size = (0, 0, width, height), (round(width), round(height))
    exact = _resampled(image, lambda pixels: pixels.resize(size, Image.Resampling.LANCZOS, box))
    exact.info = image.info
    return exact


# WebP: https://developers.google.com/speed/webp/docs/api


class _Features(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("has_alpha", ctypes.c_int),
        ("has_animation", ctypes.c_int),
        ("format", ctypes.c_int),
        ("_pad", ctypes.c_uint32 * 5),
    )


class _Rgba(ctypes.Structure):
    _fields_ = (("pixels", ctypes.c_void_p), ("stride", ctypes.c_int), ("size", ctypes.c_size_t))


class _Yuva(ctypes.Structure):
    _fields_ = (("planes", ctypes.c_void_p * 4), ("strides", ctypes.c_int * 4), ("sizes", ctypes.c_size_t * 4))


class _Pixels(ctypes.Union):
    _fields_ = (("rgba", _Rgba), ("yuva", _Yuva))


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("colorspace", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("is_external_memory", ctypes.c_int),
        ("pixels", _Pixels),
        ("_pad", ctypes.c_uint32 * 4),
        ("_private_memory", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("bypass_filtering", ctypes.c_int),
        ("no_fancy_upsampling", ctypes.c_int),
        ("use_cropping", ctypes.c_int),
        ("crop", ctypes.c_int * 4),
        ("use_scaling", ctypes.c_int),
        ("scaled_width", ctypes.c_int),
        ("scaled_height", ctypes.c_int),
        ("use_threads", ctypes.c_int),
        ("dithering_strength", ctypes.c_int),
        ("flip", ctypes.c_int),
        ("alpha_dithering_strength", ctypes.c_int),
        ("_pad", ctypes.c_uint32 * 5),
    )


class _Config(ctypes.Structure):
    _fields_ = (("input", _Features), ("output", _Buffer), ("options", _Options))


@cache
def _has_libwebp() -> bool:
    """Whether its functions can be called: they are found, and of the generation that these structures are of."""
    try:
        return bool(_libwebp().WebPInitDecoderConfigInternal(_Config(), _WEBP_ABI))
    except (AttributeError, OSError):
        return False


@cache
def _libwebp() -> ctypes.CDLL:
    """The one that Pillow has loaded. Raises AttributeError or OSError."""
    # Functions of a library that this one is linked with are found, too, whatever its file is called.
    library = ctypes.CDLL(_webp.__file__)
    decode, features = library.WebPDecode, library.WebPGetFeaturesInternal
    library.WebPInitDecoderConfigInternal.argtypes = (ctypes.POINTER(_Config), ctypes.c_int)
    decode.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(_Config))
    features.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(_Features), ctypes.c_int)
    return library


def _features(data: bytes) -> _Features:
    features = _Features()
    if _libwebp().WebPGetFeaturesInternal(data, len(data), features, _WEBP_ABI):
        raise EOFError("failed to read the WebP file's header")
    return features


def _load_webp(image: Image.Image, data: bytes, factor: int) -> Image.Image:
    size = round(image.width / factor), round(image.height / factor)
    reduced = _decode_webp(data, image.mode, size)
    if image.mode == "RGBA":
        reduced = _with_hidden_colours(reduced, lambda: _decode_webp(data, "RGB", size))
    reduced.info = image.info
    return reduced


def _decode_webp(data: bytes, mode: str, size: tuple[int, int]) -> Image.Image:
    library, config = _libwebp(), _Config()
    width, height = size
    stride = width * len(mode)
    pixels = ctypes.create_string_buffer(stride * height)
    library.WebPInitDecoderConfigInternal(config, _WEBP_ABI)
    config.output.colorspace = _WEBP_MODES[mode]
    config.output.is_external_memory = 1
    config.output.pixels.rgba = _Rgba(ctypes.addressof(pixels), stride, len(pixels))
    config.options.use_scaling = 1
    config.options.scaled_width, config.options.scaled_height = size
    if library.WebPDecode(data, len(data), config):
        raise EOFError("failed to decode the WebP file")
    return Image.frombytes(mode, size, pixels.raw)
